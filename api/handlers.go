package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/api/reprieve/v1/reprievev1connect"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
)

// handlers implements the service; the interceptor bounds its calls and codes
// their errors.
type handlers struct{ *Server }

var _ reprievev1connect.AgentServiceHandler = handlers{}

// Check implements the service.
func (h handlers) Check(ctx context.Context, _ *v1.CheckRequest) (*v1.CheckResponse, error) {
	health, err := h.agent.Health(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.CheckResponse{Health: HealthMessage(health)}, nil
}

// ListWorkloads implements the service.
func (h handlers) ListWorkloads(ctx context.Context, _ *v1.ListWorkloadsRequest) (*v1.ListWorkloadsResponse, error) {
	statuses, err := h.agent.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListWorkloadsResponse{}
	for _, s := range statuses {
		resp.Workloads = append(resp.Workloads, StatusMessage(s))
	}
	return resp, nil
}

// Quarantine implements the service.
func (h handlers) Quarantine(ctx context.Context, req *v1.QuarantineRequest) (*v1.QuarantineResponse, error) {
	switch {
	case req.Workload == "":
		return nil, invalid("quarantine: workload is empty (name one as \"reprieve ps\" does)")
	case len(req.Why) > 1000:
		return nil, invalid("quarantine %s: why has %d bytes (at most 1000)", req.Workload, len(req.Why))
	}
	i, err := h.agent.Quarantine(ctx, req.Workload, req.Why)
	if err != nil {
		return nil, err
	}
	return &v1.QuarantineResponse{Incident: IncidentMessage(i)}, nil
}

// Release implements the service.
func (h handlers) Release(ctx context.Context, req *v1.ReleaseRequest) (*v1.ReleaseResponse, error) {
	endings := map[v1.Ending]incident.Ending{v1.Ending_ENDING_DIE: incident.Die, v1.Ending_ENDING_LIVE: incident.Live}
	ending, ok := endings[req.Ending]
	switch {
	case req.Target == "":
		return nil, invalid("release: target is empty (name an incident or a workload)")
	case !ok:
		return nil, invalid("release %s: ending %v is unknown (die or live)", req.Target, req.Ending)
	}
	id, err := h.incidentOf(ctx, req.Target)
	if err != nil {
		return nil, err
	}
	if err := h.agent.Release(ctx, id, ending); err != nil {
		return nil, err
	}
	return &v1.ReleaseResponse{Incident: id}, nil
}

// incidentOf is the id of the incident that target names, or that the one
// workload has which it names.
func (h handlers) incidentOf(ctx context.Context, target string) (string, error) {
	i, err := h.agent.Incident(ctx, target)
	if err == nil {
		return i.ID, nil
	}
	if !errors.Is(err, journal.ErrNotFound) {
		return "", err
	}
	statuses, err := h.agent.Statuses(ctx)
	if err != nil {
		return "", err
	}
	return pick(target, statuses)
}

// pick finds the incident of the workload that target names.
func pick(target string, statuses []incident.Status) (string, error) {
	var found []incident.Status
	for _, s := range statuses {
		if names(target, s.Workload.Ref, s.Workload.Name) {
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 0:
		return "", connect.NewError(connect.CodeNotFound,
			fmt.Errorf("%s: no such incident or workload (see \"reprieve incidents\" and \"reprieve ps\")", target))
	case len(found) > 1:
		return "", invalid("%s: %d workloads have this name (write %s or %s)", target, len(found),
			found[0].Workload.Ref, found[1].Workload.Ref)
	case found[0].Incident == "":
		return "", connect.NewError(connect.CodeFailedPrecondition,
			fmt.Errorf("release %s: it is not in quarantine (see \"reprieve ps\")", target))
	}
	return found[0].Incident, nil
}

func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}
