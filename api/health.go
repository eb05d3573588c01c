package api

import (
	"maps"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/loader"
)

// HealthMessage is h as the API tells it.
func HealthMessage(h incident.Health) *v1.Health {
	return valid(&v1.Health{
		Features: FeaturesMessage(h.Features),
		Remedies: maps.Clone(h.Remedies),
		Runtimes: maps.Clone(h.Runtimes),
		Counters: maps.Clone(h.Counters),
		Since:    timestamp(h.Since),
		Version:  h.Version,
	})
}

// FeaturesMessage is f as the API tells it.
func FeaturesMessage(f loader.Features) *v1.Features {
	return valid(&v1.Features{
		Kernel:   f.Kernel,
		Guard:    f.Guard,
		Move:     f.Move,
		Watch:    f.Watch,
		Drops:    f.Drops,
		Fence:    f.Fence,
		Programs: maps.Clone(f.Programs),
	})
}
