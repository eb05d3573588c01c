package loader

import (
	"os"
	"strings"
)

// Features tells which tiers this kernel carries. The exit hold, which needs no
// program, is not the kernel side's.
type Features struct {
	Kernel   string            `json:"kernel"`
	Guard    bool              `json:"guard"`    // stop signals can be held
	Move     bool              `json:"move"`     // and so can moves to another cgroup
	Watch    bool              `json:"watch"`    // always, or there is no agent
	Drops    bool              `json:"drops"`    // dropped packets are counted
	Fence    bool              `json:"fence"`    // traffic can be cut
	Programs map[string]string `json:"programs"` // what was refused: program -> reason
}

// settle derives the tiers from what was refused.
func (f *Features) settle() {
	ok := func(program string) bool { return f.Programs[program] == "" }
	f.Watch = true
	f.Guard = ok("guard_task_kill") && ok("guard_cgroup_write") && lsmActive()
	f.Move = f.Guard && ok("guard_move_seen") && ok("guard_move")
	f.Drops = ok("watch_drops")
	f.Fence = ok("fence_veth_in") && ok("fence_veth_out") && ok("fence_cgroup_in") && ok("fence_cgroup_out")
	if !lsmActive() && ok("guard_task_kill") {
		f.Programs["guard_task_kill"] = "bpf is not in the kernel's lsm list"
	}
}

// lsmActive says whether LSM programs have an effect. Where securityfs is not
// mounted the kernel's own answer to the attachment has to do.
func lsmActive() bool {
	list, err := os.ReadFile("/sys/kernel/security/lsm")
	if err != nil {
		return true
	}
	for name := range strings.SplitSeq(strings.TrimSpace(string(list)), ",") {
		if name == "bpf" {
			return true
		}
	}
	return false
}

// Remedy names what would give a missing tier; empty when nothing is missing.
func (f Features) Remedy() map[string]string {
	remedies := map[string]string{}
	if !f.Guard {
		remedies["guard"] = "boot with lsm=...,bpf and a kernel with CONFIG_BPF_LSM=y; until then the exit hold keeps the body of what dies"
	}
	if f.Guard && !f.Move {
		remedies["move"] = "needs CONFIG_FUNCTION_TRACER=y and BTF for cgroup_procs_write_start; until then a task can be moved out of its cgroup and killed there"
	}
	if !f.Drops {
		remedies["drops"] = "needs the skb:kfree_skb tracepoint with BTF (kernel 6.1 or later)"
	}
	if !f.Fence {
		remedies["fence"] = "needs CONFIG_CGROUP_BPF=y and cgroup v2 mounted: mount -t cgroup2 none /sys/fs/cgroup/unified"
	}
	return remedies
}
