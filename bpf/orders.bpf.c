// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * orders.bpf.c: changes to guards and fences by the agent, field by field. A
 * map update from user space replaces the whole entry and would lose a signal
 * held between its read and its write; this program runs in between nothing.
 */
#include "maps.bpf.h"
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define ENOENT 2
#define EINVAL 22

static __always_inline int hold(struct order *order)
{
	__u64 id = order->cgroup; /* a key must be on the stack */
	struct guard *guard = bpf_map_lookup_elem(&guards, &id);

	if (!guard)
		return -ENOENT;
	if (!guard->faulty_ns) {
		guard->reason = order->reason;
		guard->faulty_ns = bpf_ktime_get_boot_ns();
	}
	guard->deadline_ns = order->deadline_ns;
	return 0;
}

static __always_inline int set_fence(struct order *order, bool closed)
{
	__u64 id = order->cgroup;
	struct fence *fence = bpf_map_lookup_elem(&fences, &id);

	if (!fence)
		return -ENOENT;
	if (!closed)
		fence->since_ns = 0;
	else if (!fence->since_ns)
		fence->since_ns = bpf_ktime_get_boot_ns();
	return 0;
}

static __always_inline int claim(void)
{
	struct task_struct *me = (void *)bpf_get_current_task();
	__u32 zero = 0;
	struct agent agent = {
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.abi = REPRIEVE_ABI,
		.start_ns = BPF_CORE_READ(me, group_leader, start_boottime),
	};

	return bpf_map_update_elem(&agents, &zero, &agent, BPF_ANY);
}

/* They keep the types in the BTF, from which Go's are made. */
const enum order_verb *emit_order_verb __attribute__((unused));
const struct order *emit_order __attribute__((unused));

/* BPF_PROG_RUN by the agent. Returns 0 or a negative errno. Since 5.14. */
SEC("syscall")
int obey(struct order *order)
{
	switch (order->verb) {
	case ORDER_HOLD:
		return hold(order);
	case ORDER_FENCE:
		return set_fence(order, true);
	case ORDER_UNFENCE:
		return set_fence(order, false);
	case ORDER_CLAIM:
		return claim();
	}
	return -EINVAL;
}
