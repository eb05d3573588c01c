package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident"
)

// WatchEvents implements the service.
func (h handlers) WatchEvents(ctx context.Context, req *v1.WatchEventsRequest, out *connect.ServerStream[v1.WatchEventsResponse]) error {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		return connect.NewError(connect.CodeResourceExhausted,
			fmt.Errorf("watch events: %d streams are open (end one first)", cap(h.streams)))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wanted, err := h.wanted(ctx, req.Workload)
	if err != nil {
		return coded(err)
	}
	notices := h.agent.Subscribe(ctx, h.options.Buffer)
	if err := out.Send(nil); err != nil { // the headers: the subscription stands
		return err
	}
	if err := relay(notices, wanted, out.Send); err != nil {
		return err
	}
	return connect.NewError(connect.CodeUnavailable, errors.New("watch events: the agent is stopping (try again when it runs)"))
}

// relay sends what is wanted until notices is closed, and counts what is
// missing between one notice and the next, wanted or not.
func relay(notices <-chan incident.Notice, wanted func(incident.Notice) bool, send func(*v1.WatchEventsResponse) error) error {
	var last, lost uint64
	for n := range notices {
		if last != 0 && n.Sequence > last {
			lost += n.Sequence - last - 1
		}
		last = n.Sequence
		if !wanted(n) {
			continue
		}
		if err := send(&v1.WatchEventsResponse{Event: NoticeMessage(n), Lost: lost}); err != nil {
			return err
		}
		lost = 0
	}
	return nil
}

// wanted tells which notices a stream is about. A workload that is not known
// (any more, or yet) is taken by the name given.
func (h handlers) wanted(ctx context.Context, name string) (func(incident.Notice) bool, error) {
	if name == "" {
		return func(incident.Notice) bool { return true }, nil
	}
	refs := map[string]bool{name: true}
	statuses, err := h.agent.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range statuses {
		if names(name, s.Workload.Ref, s.Workload.Name) {
			refs[s.Workload.Ref.String()] = true
		}
	}
	return func(n incident.Notice) bool { return refs[n.Workload] }, nil
}
