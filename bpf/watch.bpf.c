// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * watch.bpf.c: tells of faults at the instant. tp_btf programs; they only
 * observe, so they load on hosts that refuse LSM programs too. A workload that
 * nobody registered in subjects sends nothing.
 */
#include "subject.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Enums have no place in a map: these pointers keep them in the BTF, from which
 * the Go constants are made. */
const enum guard_mode *emit_guard_mode __attribute__((unused));
const enum guard_flag *emit_guard_flag __attribute__((unused));
const enum fault_kind *emit_fault_kind __attribute__((unused));
const enum way *emit_way __attribute__((unused));
const enum event_kind *emit_event_kind __attribute__((unused));
const enum event_flag *emit_event_flag __attribute__((unused));
const enum subject_flag *emit_subject_flag __attribute__((unused));
const enum counter *emit_counter __attribute__((unused));
const struct event *emit_event __attribute__((unused));

/* Signals that a process gets by its own doing: QUIT is not, ABRT is (glibc). */
#define FAULT_SIGNALS                                                                   \
	(SIG_BIT(4) | SIG_BIT(5) | SIG_BIT(6) | SIG_BIT(7) | SIG_BIT(8) | SIG_BIT(11) | \
	 SIG_BIT(24) | SIG_BIT(25) | SIG_BIT(31))
/* TERM KILL INT QUIT HUP ABRT STOP: what the flight record keeps. */
#define STOP_SIGNALS \
	(SIG_BIT(15) | SIG_BIT(9) | SIG_BIT(2) | SIG_BIT(3) | SIG_BIT(1) | SIG_BIT(6) | SIG_BIT(19))
/* TERM KILL INT QUIT: told to stop. HUP and the others have other uses, too. */
#define WANTED_STOPS (SIG_BIT(15) | SIG_BIT(9) | SIG_BIT(2) | SIG_BIT(3))
/* An end within this time of a stop is its effect. Kubernetes' default grace is
 * 30 s; more than ten times that is rare. */
#define STOP_WINDOW_NS 300000000000ULL
/* A process that survives its fault (debuggers can make it so) repeats it tens of
 * thousands of times a second. */
#define FATAL_PAUSE_NS 1000000ULL
#define SIG_DFL 0

/* cgroup id -> when it was made and when its init first ran its program. LRU:
 * 1024 creations within the moment the agent needs to look. Agent reads. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct newborn);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} newborns SEC(".maps");

/* tgid of a process that the OOM killer chose -> when: its exit is FAULT_OOM.
 * Written here, read here and by the agent. LRU: 1024 kills back. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} victims SEC(".maps");

static __always_inline bool is_stopping(struct subject *subject)
{
	__u64 since = subject->stopping_ns;

	return since && bpf_ktime_get_boot_ns() - since < STOP_WINDOW_NS;
}

/* The fault that a wait status is. An end by a stop signal that nobody was seen
 * to send (from inside, or before the workload was known) is a stop, too. */
static __always_inline __u32 fault_of_exit(int status, bool oom, bool stopping)
{
	int sig = status & 0x7f;

	if (oom)
		return FAULT_OOM;
	if (stopping)
		return FAULT_STOP;
	if (!status)
		return FAULT_NONE;
	if (!sig)
		return FAULT_EXIT;
	return FAULT_SIGNALS & SIG_BIT(sig) ? FAULT_FATAL_SIGNAL : FAULT_STOP;
}

static __always_inline __u32 guarded_flag(__u64 id)
{
	struct guard *guard = bpf_map_lookup_elem(&guards, &id);

	if (!guard || guard->deadline_ns <= bpf_ktime_get_boot_ns())
		return 0;
	return EVENT_GUARDED;
}

/* The dying thread has not given its memory back yet. */
SEC("tp_btf/sched_process_exit")
int watch_exit(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	__u64 id = nearest(task_cgroup(task), &subjects);
	struct subject *subject;
	__u32 tgid, fault, flags;
	bool init, oom, last, stopping;
	struct event *e;
	int status;

	if (!id)
		return 0;
	last = exit_is_last(ctx, task);
	if (!last)
		return 0;
	subject = bpf_map_lookup_elem(&subjects, &id);
	if (!subject)
		return 0;
	tgid = BPF_CORE_READ(task, tgid);
	init = is_init(task, subject);
	oom = bpf_map_lookup_elem(&victims, &tgid) != NULL;
	status = BPF_CORE_READ(task, exit_code);
	if (!status && !init && !(subject->flags & SUBJECT_EVERY_EXIT)) {
		count(COUNT_QUIET);
		return 0;
	}
	stopping = is_stopping(subject);
	fault = fault_of_exit(status, oom, stopping);
	flags = guarded_flag(id) | EVENT_LAST | (init ? EVENT_INIT : 0) |
		(stopping ? EVENT_STOPPING : 0);
	if (fault)
		flags |= declare_fault(id, fault, init);
	e = event_new(EVENT_EXIT, id, task);
	if (!e)
		return 0;
	e->code = status;
	e->detail = fault;
	e->flags = flags;
	event_send(e, flags & (EVENT_INIT | EVENT_FAULTY) ? 0 : BPF_RB_NO_WAKEUP);
	return 0;
}

/* Runs in the process that is about to die of the signal, memory whole: with
 * 1 GB of it, 100 ms before anything else could tell. */
SEC("tp_btf/signal_deliver")
int BPF_PROG(watch_fatal, int sig, struct kernel_siginfo *info, struct k_sigaction *action)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct subject *subject;
	struct event *e;
	__u64 id, now;
	__u32 flags;
	bool init;

	if (sig <= 0 || sig > 31 || !(FAULT_SIGNALS & SIG_BIT(sig)))
		return 0;
	if (BPF_CORE_READ(action, sa.sa_handler) != SIG_DFL)
		return 0;
	id = nearest(task_cgroup(task), &subjects);
	subject = id ? bpf_map_lookup_elem(&subjects, &id) : NULL;
	if (!subject)
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (now - subject->fatal_ns < FATAL_PAUSE_NS) {
		count(COUNT_QUIET);
		return 0;
	}
	subject->fatal_ns = now;
	init = is_init(task, subject);
	flags = guarded_flag(id) | (init ? EVENT_INIT : 0);
	if (is_stopping(subject))
		flags |= EVENT_STOPPING;
	else
		flags |= declare_fault(id, FAULT_FATAL_SIGNAL, init);
	e = event_new(EVENT_FATAL, id, task);
	if (!e)
		return 0;
	e->sig = sig;
	e->detail = FAULT_FATAL_SIGNAL;
	e->flags = flags;
	event_send(e, 0);
	return 0;
}

static __always_inline bool sender_is_outside(__u64 id)
{
	return nearest(task_cgroup((void *)bpf_get_current_task()), &subjects) != id;
}

/* Who sent a stop signal that passed: the story's first line on hosts without
 * a guard. */
SEC("tp_btf/signal_generate")
int BPF_PROG(watch_sent, int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
	     int result)
{
	struct subject *subject;
	struct event *e;
	__u64 raw = 0, id;
	__u32 flags;
	bool init;

	if (sig <= 0 || sig > 31 || !(STOP_SIGNALS & SIG_BIT(sig)))
		return 0;
	id = nearest(task_cgroup(task), &subjects);
	subject = id ? bpf_map_lookup_elem(&subjects, &id) : NULL;
	if (!subject)
		return 0;
	init = is_init(task, subject);
	flags = guarded_flag(id) | (init ? EVENT_INIT : 0);
	/* info may be SEND_SIG_NOINFO (0) or SEND_SIG_PRIV (1): a number. */
	bpf_probe_read_kernel(&raw, sizeof(raw), &ctx[1]);
	if (raw == 1) {
		flags |= EVENT_KERNEL;
	} else if (init && WANTED_STOPS & SIG_BIT(sig) && sender_is_outside(id)) {
		subject->stopping_ns = bpf_ktime_get_boot_ns();
		flags |= EVENT_STOPPING;
	}
	e = event_new(EVENT_SENT, id, task);
	if (!e)
		return 0;
	e->sig = sig;
	e->code = result;
	e->flags = flags;
	event_send(e, 0);
	return 0;
}

static __always_inline int oom_victim(__u32 pid, struct task_struct *task, __u64 id)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct subject *subject;
	struct event *e;
	__u32 flags = 0;

	bpf_map_update_elem(&victims, &pid, &now, BPF_ANY);
	subject = id ? bpf_map_lookup_elem(&subjects, &id) : NULL;
	if (task && !subject)
		return 0;
	if (subject) {
		bool init = is_init(task, subject);

		flags = guarded_flag(id) | (init ? EVENT_INIT : 0);
		flags |= declare_fault(id, FAULT_OOM, init);
	}
	e = event_new(EVENT_OOM, id, task);
	if (!e)
		return 0;
	e->pid = pid;
	e->detail = FAULT_OOM;
	e->flags = flags;
	event_send(e, 0);
	return 0;
}

/* The kernel gives anonymous memory back 2 s later: evidence of it comes first. */
SEC("tp_btf/mark_victim")
int watch_oom(__u64 *ctx)
{
	struct task_struct *task;

	if (victim_is_pid())
		return oom_victim(ctx[0], NULL, 0);
	task = (void *)ctx[0];
	return oom_victim(BPF_CORE_READ(task, tgid), task, nearest(task_cgroup(task), &subjects));
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(watch_exec, struct task_struct *task, int old_pid)
{
	__u64 id = nearest(task_cgroup(task), &newborns);
	struct newborn *newborn;
	struct event *e;

	if (!id || !is_namespace_init(task))
		return 0;
	newborn = bpf_map_lookup_elem(&newborns, &id);
	if (!newborn || newborn->exec_ns)
		return 0;
	newborn->exec_ns = bpf_ktime_get_boot_ns();
	e = event_new(EVENT_EXEC, id, task);
	if (!e)
		return 0;
	e->flags = EVENT_INIT;
	event_send(e, 0);
	return 0;
}

static __always_inline void cgroup_event(__u32 kind, __u64 id, const char *path)
{
	struct event *e = event_new(kind, id, NULL);

	if (!e)
		return;
	bpf_probe_read_kernel_str(e->name, sizeof(e->name), path);
	event_send(e, 0);
}

/* Rare, and a new workload is known to nobody yet: sent unfiltered. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(watch_cgroup_new, struct cgroup *cgrp, const char *path)
{
	struct newborn newborn = {.created_ns = bpf_ktime_get_boot_ns()};
	__u64 id = BPF_CORE_READ(cgrp, kn, id);

	if (bpf_map_update_elem(&newborns, &id, &newborn, BPF_ANY))
		count(COUNT_NEWBORN_FULL);
	cgroup_event(EVENT_CGROUP_NEW, id, path);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(watch_cgroup_gone, struct cgroup *cgrp, const char *path)
{
	__u64 id = BPF_CORE_READ(cgrp, kn, id);

	bpf_map_delete_elem(&newborns, &id);
	cgroup_event(EVENT_CGROUP_GONE, id, path);
	return 0;
}
