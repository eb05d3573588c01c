package loader

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/reprieve-dev/reprieve/gen"
)

// stopWindow is STOP_WINDOW_NS of bpf/watch.bpf.c.
const stopWindow = 300 * time.Second

// Subject is a known workload: only these send events.
type Subject struct {
	InitPID   int    // host tgid of its init; 0: PID 1 of its pid namespace
	DropLimit uint64 // dropped packets a second that raise an event; 0: none
	EveryExit bool   // tell of processes that end well, too
}

// Watch makes the cgroup id and all below it known.
func (k *Kernel) Watch(id uint64, s Subject) error {
	var old gen.WatchSubject
	if err := k.maps["subjects"].Lookup(id, &old); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("watch cgroup %d: %w", id, err)
	}
	raw := gen.WatchSubject{DropLimit: s.DropLimit, InitTgid: uint32(s.InitPID), StoppingNs: old.StoppingNs}
	if s.EveryExit {
		raw.Flags = uint32(gen.WatchSubjectFlagSUBJECT_EVERY_EXIT)
	}
	if err := k.maps["subjects"].Put(id, &raw); err != nil {
		return fmt.Errorf("watch cgroup %d: %w (the map holds %d)", id, err, k.maps["subjects"].MaxEntries())
	}
	return nil
}

// Unwatch forgets a cgroup id and its drop counts; nil when it is not known.
func (k *Kernel) Unwatch(id uint64) error {
	if err := k.maps["subjects"].Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget cgroup %d: %w", id, err)
	}
	return k.forgetDrops(id)
}

// Stopping says whether somebody outside has told the workload to stop, and was
// not refused, within the time in which its end is the effect of that.
func (k *Kernel) Stopping(id uint64) bool {
	var raw gen.WatchSubject
	if err := k.maps["subjects"].Lookup(id, &raw); err != nil || raw.StoppingNs == 0 {
		return false
	}
	return Now().Sub(BootTime(raw.StoppingNs)) < stopWindow
}

// IsVictim says whether the OOM killer has chosen the process lately.
func (k *Kernel) IsVictim(pid int) bool {
	var at uint64
	return k.maps["victims"].Lookup(uint32(pid), &at) == nil
}

// Newborn tells when a cgroup was made and when its init first ran its program
// (0: not yet). os.ErrNotExist: longer ago than the kernel remembers.
func (k *Kernel) Newborn(id uint64) (created, exec BootTime, err error) {
	var raw gen.WatchNewborn
	err = k.maps["newborns"].Lookup(id, &raw)
	return BootTime(raw.CreatedNs), BootTime(raw.ExecNs), notExist(err)
}

// PutNetwork says that drops in the network namespace (its inode) are the
// workload's. Never give the host's own.
func (k *Kernel) PutNetwork(inode uint32, id uint64) error {
	m := k.maps["networks"]
	if m == nil {
		return fmt.Errorf("count drops: %w (%s)", ebpf.ErrNotSupported, k.features.Programs["watch_drops"])
	}
	if err := m.Put(inode, id); err != nil {
		return fmt.Errorf("count drops of cgroup %d: %w (the map holds %d)", id, err, m.MaxEntries())
	}
	return nil
}

// DropCounts are packets by the kernel's drop reason number, for a cgroup id.
func (k *Kernel) DropCounts(id uint64) (map[uint32]uint64, error) {
	counts := map[uint32]uint64{}
	return counts, k.eachDrop(id, func(key gen.DropsDropKey, n uint64) { counts[key.Reason] = n })
}

func (k *Kernel) eachDrop(id uint64, visit func(gen.DropsDropKey, uint64)) error {
	m := k.maps["drops"]
	if m == nil {
		return nil
	}
	var key gen.DropsDropKey
	var perCPU []uint64
	entries := m.Iterate()
	for entries.Next(&key, &perCPU) {
		if key.Cgroup == id {
			visit(key, sum(perCPU))
		}
	}
	return entries.Err()
}

func (k *Kernel) forgetDrops(id uint64) error {
	var gone []gen.DropsDropKey
	err := k.eachDrop(id, func(key gen.DropsDropKey, _ uint64) { gone = append(gone, key) })
	for i := range gone {
		if e := k.maps["drops"].Delete(&gone[i]); !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func sum(perCPU []uint64) (total uint64) {
	for _, n := range perCPU {
		total += n
	}
	return total
}
