package api

import (
	"context"
	"maps"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/journal"
)

// How many incidents one answer carries.
const (
	usualIncidents = 100
	mostIncidents  = 1000
)

// ListIncidents implements the service.
func (h handlers) ListIncidents(ctx context.Context, req *v1.ListIncidentsRequest) (*v1.ListIncidentsResponse, error) {
	incidents, err := h.agent.Incidents(ctx, IncidentFilter(req))
	if err != nil {
		return nil, err
	}
	return IncidentsMessage(incidents), nil
}

// GetIncident implements the service.
func (h handlers) GetIncident(ctx context.Context, req *v1.GetIncidentRequest) (*v1.GetIncidentResponse, error) {
	if req.Id == "" {
		return nil, invalid("get incident: id is empty (see \"reprieve incidents\")")
	}
	i, err := h.agent.Incident(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	return &v1.GetIncidentResponse{Incident: IncidentMessage(i)}, nil
}

// IncidentFilter is the journal's filter for a request, with its bounds.
func IncidentFilter(req *v1.ListIncidentsRequest) journal.Filter {
	limit := min(int(req.Limit), mostIncidents)
	if limit == 0 {
		limit = usualIncidents
	}
	return journal.Filter{Open: req.Open, Workload: req.Workload, Limit: limit}
}

// IncidentsMessage is a list of incidents as the API tells it.
func IncidentsMessage(incidents []journal.Incident) *v1.ListIncidentsResponse {
	resp := &v1.ListIncidentsResponse{}
	for _, i := range incidents {
		resp.Incidents = append(resp.Incidents, IncidentMessage(i))
	}
	return resp
}

// IncidentMessage is i as the API tells it.
func IncidentMessage(i journal.Incident) *v1.Incident {
	m := &v1.Incident{
		Id:       i.ID,
		Workload: WorkloadMessage(i.Workload),
		Fault:    faultMessage(i.Fault),
		Policy:   i.Policy,
		State:    string(i.State),
		Opened:   timestamp(i.Opened),
		Updated:  timestamp(i.Updated),
		Evidence: i.Evidence,
		Lost:     i.Lost,
		Counts:   maps.Clone(i.Counts),
	}
	if i.Replacement.ID != "" {
		m.Replacement = i.Replacement.String()
	}
	for _, s := range i.Steps {
		m.Steps = append(m.Steps, stepMessage(s))
	}
	return valid(m)
}

func faultMessage(f detect.Fault) *v1.Fault {
	return &v1.Fault{
		Kind:          string(f.Kind),
		Workload:      f.Workload.String(),
		Cgroup:        f.Cgroup,
		AtNs:          uint64(f.At),
		Pid:           int64(f.PID),
		Command:       f.Command,
		Signal:        int64(f.Signal),
		Status:        int64(f.Status),
		SenderPid:     int64(f.Sender.PID),
		SenderCommand: f.Sender.Command,
		Init:          f.Init,
		Faulty:        f.Faulty,
		Fenced:        f.Fenced,
		Held:          f.Held,
		Detail:        f.Detail,
	}
}

func stepMessage(s journal.Step) *v1.Step {
	return &v1.Step{
		Name:     s.Name,
		Phase:    string(s.Phase),
		AtNs:     uint64(s.At),
		Time:     timestamp(s.Wall),
		Took:     durationpb.New(s.Took),
		Attempts: int64(s.Attempts),
		Detail:   s.Detail,
		Data:     string(s.Data),
	}
}
