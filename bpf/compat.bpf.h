/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* compat.bpf.h: what differs between kernels, one accessor a difference. */
#ifndef REPRIEVE_COMPAT_BPF_H
#define REPRIEVE_COMPAT_BPF_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/*
 * Tracepoint prototypes are told apart by the btf_trace_<name> typedef of the
 * running kernel, never by version. Pointer arguments must be forward-declared
 * flavours, or the loader's match is silently false.
 */
struct task_struct___fwd;

/* sched_process_exit got group_dead in 6.17 (commit "sched: add group_dead"). */
typedef void (*btf_trace_sched_process_exit___dead)(void *, struct task_struct___fwd *, _Bool);

/* mark_victim carried a pid until 6.8, then the task and its uid. */
typedef void (*btf_trace_mark_victim___pid)(void *, int);

static __always_inline bool exit_is_last(__u64 *ctx, struct task_struct *task)
{
	if (bpf_core_type_matches(btf_trace_sched_process_exit___dead))
		return ctx[1];
	return BPF_CORE_READ(task, signal, live.counter) == 0;
}

static __always_inline bool victim_is_pid(void)
{
	return bpf_core_type_matches(btf_trace_mark_victim___pid);
}

/* SKB_CONSUMED is no drop; its number differs, and 6.1 has none. */
enum skb_drop_reason___known {
	SKB_CONSUMED___known = 0x7fffffff,
};

static __always_inline bool reason_is_drop(__u32 reason)
{
	if (!reason)
		return false;
	if (!bpf_core_enum_value_exists(enum skb_drop_reason___known, SKB_CONSUMED___known))
		return true;
	return reason != bpf_core_enum_value(enum skb_drop_reason___known, SKB_CONSUMED___known);
}

#endif
