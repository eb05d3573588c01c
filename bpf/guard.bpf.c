// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * guard.bpf.c: holds stop signals to guarded workloads and closes the ways
 * around. LSM programs (kernels with "bpf" in their lsm list) and two fexit
 * programs that see the target of a cgroup move.
 */
#include "subject.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CGROUP2_MAGIC 0x63677270
#define MAY_WRITE 2
#define PTRACE_MODE_ATTACH 2
#define EPERM 1
#define ESRCH 3
#define MAX_ERRNO 4095

/* dev, inode of a workload's root file system -> its cgroup id. Agent writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct root_key);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} roots SEC(".maps");

/* The writer of cgroup.procs -> errno for the permission check that follows in
 * the same write. Lives from procs_write_start to the check or to the end. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __s32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} refused_moves SEC(".maps");

enum answer {
	PASS,
	REPORT, /* audit: would be held */
	HOLD,
};

/* One attempt to stop a workload, by a signal or by a way around. */
struct attempt {
	__u64 cgroup;
	struct task_struct *target; /* NULL for whole-cgroup writes */
	const unsigned char *name;
	__s32 sig;
	__u32 way;
	__u32 flags;
	bool stop; /* a stop in itself, so MODE_ALWAYS starts a judgement */
};

/* -ESRCH would make kill_pid_info() loop for ever; above 0 or below -4095 is
 * refused by the verifier since 6.12. */
static __always_inline int answer_errno(__s32 err)
{
	__s64 e = err;

	if (e == -ESRCH)
		return -EPERM;
	if (e < -MAX_ERRNO || e >= 0)
		return -EPERM;
	return e;
}

/* Host PID 1 takes the machine down; it is never held. */
static __always_inline bool sender_is_exempt(void)
{
	return bpf_get_current_pid_tgid() >> 32 == 1 || sender_is_agent();
}

static __always_inline bool sender_is_inside(__u64 id)
{
	return nearest(task_cgroup((void *)bpf_get_current_task()), &guards) == id;
}

static __always_inline enum answer answer_of(struct guard *guard, bool stop)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 deadline = guard->deadline_ns;

	if (guard->mode == MODE_AUDIT)
		return stop || guard->faulty_ns ? REPORT : PASS;
	if (!deadline && guard->mode == MODE_ALWAYS && stop) {
		guard->deadline_ns = now + guard->judge_ns;
		return HOLD;
	}
	if (!deadline || (guard->mode == MODE_FAULTY && !guard->faulty_ns))
		return PASS;
	if (now < deadline)
		return HOLD;
	count(COUNT_LAPSED);
	return PASS;
}

static __always_inline void report(struct guard *guard, struct attempt *a, enum answer answer)
{
	struct event *e;

	e = event_new(answer == HOLD ? EVENT_HELD : EVENT_AUDIT, a->cgroup, a->target);
	if (!e)
		return;
	e->sig = a->sig;
	e->code = answer == HOLD ? answer_errno(guard->err) : 0;
	e->detail = a->way;
	e->flags = a->flags | (guard->faulty_ns ? EVENT_FAULTY : 0);
	if (a->name)
		bpf_probe_read_kernel_str(e->name, sizeof(e->name), a->name);
	event_send(e, 0);
}

/* The verdict of one attempt: 0 lets it pass, a negative errno refuses it. */
static __noinline int decide(struct attempt *a)
{
	struct guard *guard;
	enum answer answer;

	if (!a)
		return 0;
	guard = bpf_map_lookup_elem(&guards, &a->cgroup);
	if (!guard)
		return 0;
	if (a->sig && !(guard->signals & SIG_BIT(a->sig)))
		return 0;
	if (!guard->faulty_ns && !(guard->flags & GUARD_INSIDE) && sender_is_inside(a->cgroup))
		return 0;
	answer = answer_of(guard, a->stop);
	if (answer == PASS)
		return 0;
	report(guard, a, answer);
	if (answer == REPORT) {
		count(COUNT_AUDIT);
		return 0;
	}
	count(COUNT_HELD);
	if (a->sig)
		__sync_fetch_and_or(&guard->held, SIG_BIT(a->sig));
	__sync_fetch_and_add(&guard->held_count, 1);
	guard->sender = bpf_get_current_pid_tgid() >> 32;
	return answer_errno(guard->err);
}

static __always_inline int clamp_errno(int ret)
{
	__s64 r = ret;

	asm volatile("" : "+r"(r));
	if (r < -MAX_ERRNO || r > 0)
		return -EPERM;
	return r;
}

static __always_inline int attempt_on(struct task_struct *target, __s32 sig, __u32 way, bool stop)
{
	struct attempt a = {.target = target, .sig = sig, .way = way, .stop = stop};

	if (sender_is_exempt())
		return 0;
	a.cgroup = nearest(task_cgroup(target), &guards);
	if (!a.cgroup)
		return 0;
	return clamp_errno(decide(&a));
}

/* Every kill, tgkill, sigqueue, pidfd_send_signal and parent-death signal.
 * Since 5.7. 0: deliver; negative: the caller gets that errno. */
SEC("lsm/task_kill")
int BPF_PROG(guard_task_kill, struct task_struct *p, struct kernel_siginfo *info, int sig,
	     const struct cred *cred)
{
	if (sig <= 0 || sig > 64)
		return 0;
	return attempt_on(p, sig, WAY_NONE, true);
}

/* SIGIO and F_SETSIG signals, which do not pass task_kill. */
SEC("lsm/file_send_sigiotask")
int BPF_PROG(guard_sigio, struct task_struct *p, struct fown_struct *fown, int sig)
{
	if (sig <= 0 || sig > 64)
		return 0;
	return attempt_on(p, sig, WAY_SIGIO, false);
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(guard_ptrace, struct task_struct *child, unsigned int mode)
{
	if (!(mode & PTRACE_MODE_ATTACH))
		return 0;
	return attempt_on(child, 0, WAY_PTRACE, false);
}

SEC("lsm/task_setrlimit")
int BPF_PROG(guard_rlimit, struct task_struct *p, unsigned int resource, struct rlimit *limit)
{
	if (p == bpf_get_current_task_btf())
		return 0;
	return attempt_on(p, 0, WAY_RLIMIT, false);
}

SEC("lsm/sb_umount")
int BPF_PROG(guard_umount, struct vfsmount *mnt, int flags)
{
	struct root_key key = {
		.dev = BPF_CORE_READ(mnt, mnt_sb, s_dev),
		.ino = BPF_CORE_READ(mnt, mnt_root, d_inode, i_ino),
	};
	struct attempt a = {.way = WAY_UMOUNT};
	__u64 *id = bpf_map_lookup_elem(&roots, &key);

	if (!id || sender_is_exempt())
		return 0;
	a.cgroup = *id;
	return clamp_errno(decide(&a));
}

struct search {
	__u64 ancestor;
	__u64 found;
};

struct bpf_map;

static long has_ancestor(struct bpf_map *map, const __u64 *id, struct guard *guard,
			 struct search *search)
{
	for (int i = 0; i < MAX_ANCESTORS; i++) {
		if (guard->ancestors[i] != search->ancestor)
			continue;
		search->found = *id;
		return 1;
	}
	return 0;
}

/* The guarded cgroup whose directory holds the file, or lies above it. Dentries,
 * not kernfs nodes: their parent was renamed in 6.15. */
static __always_inline __u64 guarded_above(struct dentry *dentry)
{
	struct dentry *at = dentry;

	for (int i = 0; i < MAX_DEPTH; i++) {
		struct dentry *parent = BPF_CORE_READ(at, d_parent);
		__u64 id;

		if (!parent || parent == at)
			return 0;
		at = parent;
		id = BPF_CORE_READ(at, d_inode, i_ino);
		if (bpf_map_lookup_elem(&guards, &id))
			return id;
	}
	count(COUNT_DEPTH);
	return 0;
}

/* A guarded cgroup below the directory that holds the file; 0 where none is.
 * One of several: refusing one is refusing the write. */
static __always_inline __u64 guarded_below(struct dentry *dentry)
{
	struct search search = {
		.ancestor = BPF_CORE_READ(dentry, d_parent, d_inode, i_ino),
	};

	bpf_for_each_map_elem(&guards, has_ancestor, &search, 0);
	return search.found;
}

#define NAME_IS(name, text) (!__builtin_memcmp(name, text, sizeof(text)))

/* Which way around a write to a cgroup file is; 0: none. */
static __always_inline __u32 way_of_file(const char *name)
{
	if (NAME_IS(name, "cgroup.kill"))
		return WAY_CGROUP_KILL;
	if (NAME_IS(name, "cgroup.freeze") || NAME_IS(name, "memory.max") ||
	    NAME_IS(name, "memory.high") || NAME_IS(name, "memory.reclaim") ||
	    NAME_IS(name, "memory.oom.group") || NAME_IS(name, "pids.max"))
		return WAY_CGROUP_FILE;
	return WAY_NONE;
}

static __noinline int cgroup_write(struct dentry *dentry)
{
	struct attempt a = {};
	char name[24] = {};

	if (!dentry)
		return 0;
	a.name = BPF_CORE_READ(dentry, d_name.name);
	bpf_probe_read_kernel_str(name, sizeof(name), a.name);
	a.way = way_of_file(name);
	if (!a.way || sender_is_exempt())
		return 0;
	a.cgroup = guarded_above(dentry);
	if (a.way == WAY_CGROUP_KILL) {
		a.sig = SIG_KILL;
		a.stop = true;
		if (!a.cgroup)
			a.cgroup = guarded_below(dentry);
	}
	if (!a.cgroup)
		return 0;
	return decide(&a);
}

/* Every write, also through descriptors opened earlier, splice and bind mounts. */
SEC("lsm/file_permission")
int BPF_PROG(guard_cgroup_write, struct file *file, int mask)
{
	if (!(mask & MAY_WRITE))
		return 0;
	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != CGROUP2_MAGIC)
		return 0;
	return clamp_errno(cgroup_write(BPF_CORE_READ(file, f_path.dentry)));
}

/* Sees which task a write to cgroup.procs or cgroup.threads is about to move,
 * before the permission checks of the same write. */
SEC("fexit/cgroup_procs_write_start")
int BPF_PROG(guard_move_seen, char *buf, bool threadgroup, void *locked, struct task_struct *ret)
{
	struct task_struct *me = bpf_get_current_task_btf();
	__s32 none = 0, *refused;
	int err;

	if (!ret || (unsigned long)ret >= (unsigned long)-MAX_ERRNO)
		return 0;
	err = attempt_on(ret, 0, WAY_MOVE, false);
	if (!err)
		return 0;
	refused = bpf_task_storage_get(&refused_moves, me, &none, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (refused)
		*refused = err;
	return 0;
}

SEC("lsm/inode_permission")
int BPF_PROG(guard_move, struct inode *inode, int mask)
{
	__s32 *refused;
	int err;

	if (!(mask & MAY_WRITE) || inode->i_sb->s_magic != CGROUP2_MAGIC)
		return 0;
	refused = bpf_task_storage_get(&refused_moves, bpf_get_current_task_btf(), 0, 0);
	if (!refused || !*refused)
		return 0;
	err = *refused;
	*refused = 0;
	return clamp_errno(err);
}

SEC("fexit/cgroup_procs_write_finish")
int BPF_PROG(guard_move_done)
{
	__s32 *refused = bpf_task_storage_get(&refused_moves, bpf_get_current_task_btf(), 0, 0);

	if (refused)
		*refused = 0;
	return 0;
}
