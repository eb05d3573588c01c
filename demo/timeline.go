package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

// record keeps what "reprieve events --follow" would print.
type record struct {
	mu     sync.Mutex
	events []*v1.Event
	done   chan struct{}
}

// follow records all events until the agent is stopped.
func (a *agent) follow(ctx context.Context) error {
	ctx, a.silent = context.WithCancel(context.WithoutCancel(ctx))
	stream, err := a.api.WatchEvents(ctx, &v1.WatchEventsRequest{})
	if err != nil {
		a.silent()
		return fmt.Errorf("follow events: %w", err)
	}
	stream.ResponseHeader() // they come when the subscription stands
	a.record = &record{done: make(chan struct{})}
	go func() {
		defer close(a.record.done)
		defer stream.Close()
		for stream.Receive() {
			a.record.add(stream.Msg().Event)
		}
	}()
	return nil
}

func (r *record) add(e *v1.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// since are the events of a workload from a moment on.
func (r *record) since(ref string, at int64) (found []*v1.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Workload == ref && int64(e.AtNs) >= at {
			found = append(found, e)
		}
	}
	return found
}

// events are those of this act, and the kernel's first one is the fault, unless
// the app told it.
func (a *act) events() []*v1.Event {
	events := a.agent.record.since(a.ref, a.began)
	if a.fault != 0 {
		return events
	}
	for _, e := range events {
		if e.Kernel != nil && slices.Contains([]string{"sent", "held", "fatal", "oom", "exit"}, e.Kind) {
			a.fault = min(cmp.Or(a.fault, int64(e.AtNs)), int64(e.AtNs))
		}
	}
	if told := int64(a.incident.GetFault().GetAtNs()); told != 0 && (a.fault == 0 || told < a.fault) {
		a.fault = told
		a.tell(told, "exit hold: the process stops at its end")
	}
	return events
}

// collect makes the timeline out of all clocks, which are one: kernel and agent
// (their events and the incident's steps), the demo, and the client.
func (a *act) collect() {
	told := map[string]bool{}
	for _, e := range a.events() {
		key := e.Kind
		if e.Kernel != nil {
			key += "/" + signalOf(e)
		}
		if told[key] || slices.Contains([]string{"step", "discovered", "serving", "gone"}, e.Kind) {
			continue // of a hundred refused signals the first is enough
		}
		told[key] = true
		a.tell(int64(e.AtNs), "%s", eventLine(e))
	}
	for _, s := range []struct{ name, text string }{
		{"hold", "hold in force"}, {"fence", "fenced: traffic cut, connections reset, veth on the quarantine network"},
		{"replace", "replacement started: " + a.incident.GetReplacement()}, {"freeze", "frozen"}, {"evidence", "evidence sealed"},
	} {
		if at := a.step(s.name); at != 0 {
			a.tell(at, "%s", s.text)
		}
	}
	if last, ok := a.client.of(a.identity); ok {
		a.tell(last.last, "client: sends the last request that the original answers")
	}
	if back, ok := a.client.other(a.identity); ok {
		a.tell(back.first, "client: first good answer, from the replacement")
	}
	slices.SortStableFunc(a.moments, func(x, y moment) int { return cmp.Compare(x.at, y.at) })
}

func signalOf(e *v1.Event) string {
	if e.Kernel.Way != "" {
		return e.Kernel.Way
	}
	return string(rune('0' + e.Kernel.Signal))
}

func eventLine(e *v1.Event) string {
	if e.Kernel == nil {
		return "agent: " + e.Kind + ": " + e.Text
	}
	line := "kernel: " + e.Text
	if slices.Contains(e.Kernel.Flags, "fenced") {
		line += " (fence closed in the same program run)"
	}
	return line
}

// verdictAt is when the agent had decided.
func (a *act) verdictAt() int64 {
	for _, e := range a.events() {
		if e.Kind == "verdict" && strings.HasPrefix(e.Text, "reprieve") {
			return int64(e.AtNs)
		}
	}
	return 0
}

// fencedAt is when traffic was cut: by the kernel at the fault, or by the agent's
// step.
func (a *act) fencedAt() int64 {
	for _, e := range a.events() {
		if e.Kernel != nil && slices.Contains(e.Kernel.Flags, "fenced") {
			return int64(e.AtNs)
		}
	}
	return a.step("fence")
}
