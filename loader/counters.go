package loader

import (
	"fmt"

	"github.com/reprieve-dev/reprieve/gen"
)

// Counters is what the kernel side counted since it was loaded, by name:
// "held", "audit", "lapsed", "fenced", "drops-map-full", "newborns-map-full",
// "depth-cut", "exits-quiet", and per kind of event "sent-KIND" and "lost-KIND".
type Counters map[string]uint64

// Counters reads them all, the zeros too.
func (k *Kernel) Counters() (Counters, error) {
	all := Counters{}
	for index, name := range counterNames() {
		var perCPU []uint64
		if err := k.maps["counters"].Lookup(index, &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		all[name] = sum(perCPU)
	}
	return all, nil
}

func counterNames() map[uint32]string {
	names := map[uint32]string{
		uint32(gen.WatchCounterCOUNT_HELD):         "held",
		uint32(gen.WatchCounterCOUNT_AUDIT):        "audit",
		uint32(gen.WatchCounterCOUNT_LAPSED):       "lapsed",
		uint32(gen.WatchCounterCOUNT_FENCED):       "fenced",
		uint32(gen.WatchCounterCOUNT_DROPS_FULL):   "drops-map-full",
		uint32(gen.WatchCounterCOUNT_NEWBORN_FULL): "newborns-map-full",
		uint32(gen.WatchCounterCOUNT_DEPTH):        "depth-cut",
		uint32(gen.WatchCounterCOUNT_QUIET):        "exits-quiet",
	}
	for kind := Held; kind < kinds; kind++ {
		names[uint32(gen.WatchCounterCOUNT_EVENT)+uint32(kind)] = "sent-" + kind.String()
		names[uint32(gen.WatchCounterCOUNT_LOST)+uint32(kind)] = "lost-" + kind.String()
	}
	return names
}
