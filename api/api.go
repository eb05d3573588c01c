// Package api is the agent's door for people and programs: the service
// reprieve.v1.AgentService over Connect, gRPC and gRPC-Web, and beside it
// /metrics and /healthz, all on one unix socket that root alone can open. cmd
// serves it and is its client. It promises that whatever is asked stays within
// fixed bounds of memory, streams and time, and that an error arrives with the
// text, remedy included, that the agent gave it.
//
// The messages are in the package reprievev1 below, generated from its .proto
// files; the Go structs of the house become messages in this package only.
package api

import (
	"context"

	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
)

//go:generate sh -c "protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-connect-go=$(go tool -n protoc-gen-connect-go) --go_out=. --go_opt=paths=source_relative --connect-go_out=. --connect-go_opt=paths=source_relative,simple reprieve/v1/*.proto"

// DefaultSocket is where an agent listens unless configuration says otherwise.
const DefaultSocket = "/run/reprieve/api.sock"

// Agent is what the server serves. *incident.Agent implements it. Its methods
// are called concurrently.
type Agent interface {
	// Statuses tells every known workload.
	Statuses(ctx context.Context) ([]incident.Status, error)
	// Subscribe hands out every notice from now on. A reader that is slower than
	// buffer allows misses some, as gaps in Sequence tell. The channel is closed
	// when ctx ends.
	Subscribe(ctx context.Context, buffer int) <-chan incident.Notice
	// Incidents tells those that fit, the newest first.
	Incidents(ctx context.Context, f journal.Filter) ([]journal.Incident, error)
	// Incident tells one.
	Incident(ctx context.Context, id string) (journal.Incident, error)
	// Quarantine declares the workload that ref names faulty, and returns its
	// incident once that is journalled.
	Quarantine(ctx context.Context, ref string, why string) (journal.Incident, error)
	// Release ends the quarantine of the incident id.
	Release(ctx context.Context, id string, ending incident.Ending) error
	// Health tells how the agent itself fares.
	Health(ctx context.Context) (incident.Health, error)
}
