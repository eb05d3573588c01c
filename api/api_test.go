package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/workload"
)

// TestProtocols asks the same by every protocol that the socket promises.
func TestProtocols(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	for name, options := range map[string][]connect.ClientOption{
		"connect": nil, "json": {connect.WithProtoJSON()}, "grpc": {connect.WithGRPC()}, "grpc-web": {connect.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := s.client(t, options...).ListWorkloads(t.Context(), &v1.ListWorkloadsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			w := resp.Workloads[0]
			switch {
			case len(resp.Workloads) != 3:
				t.Errorf("got %d workloads, want 3", len(resp.Workloads))
			case w.Workload.Ref != "containerd/default/c1" || w.Workload.CgroupId != 1<<60 || w.Workload.Labels["app"] != "web":
				t.Errorf("workload came as %v", w.Workload)
			case w.Condition != "quarantined" || !w.Guarded || w.HeldCount != 7 || w.Deadline.AsTime().Unix() != 1700000060:
				t.Errorf("status came as %v", w)
			case w.Gap.AsDuration() != 3*time.Millisecond || resp.Workloads[1].Gap != nil:
				t.Errorf("gaps came as %v and %v", w.Gap, resp.Workloads[1].Gap)
			}
		})
	}
}

func TestIncidents(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	c := s.client(t)
	resp, err := c.ListIncidents(t.Context(), &v1.ListIncidentsRequest{Open: true, Workload: "web", Limit: 5000})
	if err != nil {
		t.Fatal(err)
	}
	if want := (journal.Filter{Open: true, Workload: "web", Limit: 1000}); s.filter != want {
		t.Errorf("filter was %+v, want %+v", s.filter, want)
	}
	got, err := c.GetIncident(t.Context(), &v1.GetIncidentRequest{Id: resp.Incidents[0].Id})
	if err != nil {
		t.Fatal(err)
	}
	i := got.Incident
	if i.State != "quarantined" || i.Replacement != "containerd/default/c1-r1" || i.Fault.AtNs != 5_000_000_000 {
		t.Errorf("incident came as %v", i)
	}
	if i.Fault.Command != "bad\uFFFDname" {
		t.Errorf("a name that is not UTF-8 came as %q", i.Fault.Command)
	}
	if step := i.Steps[0]; step.Phase != "done" || step.Took.AsDuration() != 40*time.Microsecond || step.Data != `{"a":1}` {
		t.Errorf("step came as %v", step)
	}
}

func TestHealth(t *testing.T) {
	resp, err := mustServe(t, newFake(), api.Options{}).client(t).Check(t.Context(), &v1.CheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	h := resp.Health
	if !h.Features.Guard || h.Features.Drops || h.Remedies["drops"] != "needs BTF" || h.Counters["lost-exit"] != 2 || h.Version != "v1" {
		t.Errorf("health came as %v", h)
	}
}

func TestQuarantine(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	resp, err := s.client(t).Quarantine(t.Context(), &v1.QuarantineRequest{Workload: "web", Why: "slow"})
	if err != nil || resp.Incident.Id != "i1" || s.why != "slow" {
		t.Errorf("got %v, %v; why %q", resp, err, s.why)
	}
}

// TestRelease names the incident by itself and by all names of its workload.
func TestRelease(t *testing.T) {
	for _, target := range []string{"i1", "containerd/default/c1", "c1", "web"} {
		s := mustServe(t, newFake(), api.Options{})
		resp, err := s.client(t).Release(t.Context(), &v1.ReleaseRequest{Target: target, Ending: v1.Ending_ENDING_LIVE})
		if err != nil || resp.Incident != "i1" || s.released["i1"] != incident.Live {
			t.Errorf("release %s: %v, %v; released %v", target, resp, err, s.released)
		}
	}
}

// TestRefusals are requests that never reach the agent's orders.
func TestRefusals(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	c := s.client(t)
	release := func(target string, e v1.Ending) error {
		_, err := c.Release(t.Context(), &v1.ReleaseRequest{Target: target, Ending: e})
		return err
	}
	quarantine := func(w, why string) error {
		_, err := c.Quarantine(t.Context(), &v1.QuarantineRequest{Workload: w, Why: why})
		return err
	}
	_, noID := c.GetIncident(t.Context(), &v1.GetIncidentRequest{})
	for name, tt := range map[string]struct {
		err  error
		code connect.Code
		text string
	}{
		"no target":       {release("", v1.Ending_ENDING_DIE), connect.CodeInvalidArgument, "name an incident"},
		"no ending":       {release("i1", 0), connect.CodeInvalidArgument, "die or live"},
		"unknown ending":  {release("i1", 9), connect.CodeInvalidArgument, "die or live"},
		"unknown target":  {release("nobody", v1.Ending_ENDING_DIE), connect.CodeNotFound, "reprieve ps"},
		"ambiguous":       {release("same", v1.Ending_ENDING_DIE), connect.CodeInvalidArgument, "write runc/"},
		"not quarantined": {release("twin", v1.Ending_ENDING_DIE), connect.CodeFailedPrecondition, "not in quarantine"},
		"no workload":     {quarantine("", ""), connect.CodeInvalidArgument, "name one"},
		"long why":        {quarantine("web", strings.Repeat("x", 1001)), connect.CodeInvalidArgument, "at most 1000"},
		"too large":       {quarantine("web", strings.Repeat("x", 1<<20)), connect.CodeResourceExhausted, ""},
		"no id":           {noID, connect.CodeInvalidArgument, "reprieve incidents"},
	} {
		if code := connect.CodeOf(tt.err); tt.err == nil || code != tt.code || !strings.Contains(tt.err.Error(), tt.text) {
			t.Errorf("%s: %v (%v), want %v with %q", name, tt.err, code, tt.code, tt.text)
		}
	}
	if len(s.released) > 0 {
		t.Errorf("released %v", s.released)
	}
}

// TestErrors: the agent's text arrives, remedy included, under the code that a
// caller branches on.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code connect.Code
	}{
		{journal.ErrNotFound, connect.CodeNotFound},
		{workload.ErrNotFound, connect.CodeNotFound},
		{incident.ErrUnknown, connect.CodeNotFound},
		{incident.ErrReplaced, connect.CodeFailedPrecondition},
		{incident.ErrNoPolicy, connect.CodeFailedPrecondition},
		{errors.ErrUnsupported, connect.CodeFailedPrecondition},
		{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
		{journal.ErrFull, connect.CodeResourceExhausted},
		{errors.New("disk on fire"), connect.CodeInternal},
	} {
		f := newFake()
		f.err = fmt.Errorf("do it: %w (pull the plug)", tt.err)
		_, err := mustServe(t, f, api.Options{}).client(t).Quarantine(t.Context(), &v1.QuarantineRequest{Workload: "web"})
		var wire *connect.Error
		if !errors.As(err, &wire) || wire.Code() != tt.code || wire.Message() != f.err.Error() {
			t.Errorf("%v arrived as %v, want code %v", f.err, err, tt.code)
		}
	}
}

func TestNoAgent(t *testing.T) {
	c := api.NewClient(t.TempDir() + "/none.sock")
	defer c.Close()
	_, err := c.Check(t.Context(), &v1.CheckRequest{})
	if connect.CodeOf(err) != connect.CodeUnavailable || connect.IsWireError(err) {
		t.Errorf("got %v, want unavailable", err)
	}
}
