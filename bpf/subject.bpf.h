/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* subject.bpf.h: which workload a task belongs to, and events about it. */
#ifndef REPRIEVE_SUBJECT_BPF_H
#define REPRIEVE_SUBJECT_BPF_H

#include "compat.bpf.h"
#include "maps.bpf.h"

/* The bit of a signal, sig-1; the mask is for the verifier. */
#define SIG_BIT(sig) (1ULL << (((sig) - 1) & 63))
#define SIG_KILL 9

static __always_inline struct cgroup *task_cgroup(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

/* Id of the nearest cgroup, from cg upward, that map knows; 0 where none is. */
static __always_inline __u64 nearest(struct cgroup *cg, void *map)
{
	int level;

	if (!cg)
		return 0;
	level = BPF_CORE_READ(cg, level);
	for (int up = 0; up < MAX_DEPTH; up++) {
		struct cgroup *at = NULL;
		int index = level - up;
		__u64 id;

		if (index < 1) /* the root is nobody's workload */
			return 0;
		if (bpf_core_read(&at, sizeof(at), &cg->ancestors[index]) || !at)
			return 0;
		id = BPF_CORE_READ(at, kn, id);
		if (bpf_map_lookup_elem(map, &id))
			return id;
	}
	count(COUNT_DEPTH);
	return 0;
}

/* PID 1 of a pid namespace below the host's. */
static __always_inline bool is_namespace_init(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	unsigned int level;
	int nr = 0;

	if (!pid)
		return false;
	level = BPF_CORE_READ(pid, level);
	if (!level || level > 32)
		return false;
	bpf_probe_read_kernel(&nr, sizeof(nr),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid));
	return nr == 1;
}

static __always_inline bool is_init(struct task_struct *task, struct subject *subject)
{
	int tgid = BPF_CORE_READ(task, tgid);

	if (subject->init_tgid)
		return subject->init_tgid == tgid;
	return BPF_CORE_READ(task, pid) == tgid
		       ? is_namespace_init(task)
		       : is_namespace_init(BPF_CORE_READ(task, group_leader));
}

static __always_inline bool sender_is_agent(void)
{
	struct task_struct *me = (void *)bpf_get_current_task();
	__u32 zero = 0;
	struct agent *agent = bpf_map_lookup_elem(&agents, &zero);

	if (!agent || !agent->tgid || agent->tgid != bpf_get_current_pid_tgid() >> 32)
		return false;
	return agent->start_ns == BPF_CORE_READ(me, group_leader, start_boottime);
}

/* A fresh event with time, kind, sender and, where there is one, the task; NULL
 * (and counted) when the ring is full. */
static __always_inline struct event *event_new(__u32 kind, __u64 cgroup, struct task_struct *task)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(COUNT_LOST + kind);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->ts_ns = bpf_ktime_get_boot_ns();
	e->cgroup = cgroup;
	e->kind = kind;
	e->sender = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->sender_comm, sizeof(e->sender_comm));
	if (task) {
		e->pid = BPF_CORE_READ(task, tgid);
		e->tid = BPF_CORE_READ(task, pid);
		BPF_CORE_READ_STR_INTO(&e->comm, task, comm);
	}
	return e;
}

static __always_inline void event_send(struct event *e, __u64 wakeup)
{
	count(COUNT_EVENT + e->kind);
	bpf_ringbuf_submit(e, wakeup);
}

/* Marks the workload faulty, starts its hold and closes its fence. Returns
 * enum event_flag bits of what it did. A fault that policy does not let the
 * kernel declare, or a second one, changes nothing. */
static __always_inline __u32 declare_fault(__u64 id, __u32 kind, bool init)
{
	struct guard *guard = bpf_map_lookup_elem(&guards, &id);
	__u64 now = bpf_ktime_get_boot_ns();
	struct fence *fence;

	if (!guard || guard->faulty_ns || !(guard->faults & (1U << kind)))
		return 0;
	if (!init && !(guard->flags & GUARD_ANY))
		return 0;
	guard->reason = kind;
	guard->deadline_ns = now + guard->hold_ns;
	guard->faulty_ns = now;
	if (guard->mode == MODE_AUDIT || !(guard->flags & GUARD_FENCE))
		return EVENT_FAULTY;
	fence = bpf_map_lookup_elem(&fences, &id);
	if (!fence)
		return EVENT_FAULTY;
	if (!fence->since_ns)
		fence->since_ns = now;
	return EVENT_FAULTY | EVENT_FENCED;
}

#endif
