/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * reprieve.h: the records that kernel and user space share. C owns the
 * layouts; bpf2go emits the Go types; nothing is copied by hand.
 *
 * All times are CLOCK_BOOTTIME nanoseconds: a deadline also runs out while
 * the machine is suspended.
 */
#ifndef REPRIEVE_H
#define REPRIEVE_H

#include <linux/types.h>

#define REPRIEVE_ABI 1 /* raise it when a pinned layout changes */

#define COMM_LEN 16
#define NAME_LEN 80      /* a 64-digit container id with a prefix fits */
#define MAX_DEPTH 16     /* cgroup levels walked, from the task upward */
#define MAX_ANCESTORS 12 /* ancestors whose cgroup.kill is watched, per guard */

/* What a guard does with a stop signal. */
enum guard_mode {
	MODE_AUDIT = 1,  /* report, let it pass */
	MODE_FAULTY = 2, /* hold only while the workload is faulty */
	MODE_ALWAYS = 3, /* hold first, for the time a judgement takes */
};

enum guard_flag {
	GUARD_INSIDE = 1 << 0, /* hold signals among the workload's own processes too */
	GUARD_ANY = 1 << 1,    /* a fault of any process counts, not only of init */
	GUARD_FENCE = 1 << 2,  /* an in-kernel fault closes the fence too */
};

/* Why a workload is faulty. 0 is none. */
enum fault_kind {
	FAULT_NONE = 0,
	FAULT_FATAL_SIGNAL = 1, /* SEGV, ABRT, ... by its own doing */
	FAULT_EXIT = 2,         /* init ended with a status other than 0 */
	FAULT_OOM = 3,
	FAULT_STOP = 4, /* a stop signal from outside that nobody explained */
	FAULT_HANG = 5,
	FAULT_DROPS = 6,
	FAULT_MANUAL = 7,
};

/* Ways around task_kill that were refused. */
enum way {
	WAY_NONE = 0,
	WAY_CGROUP_KILL = 1,
	WAY_CGROUP_FILE = 2, /* freeze, memory limits, pids.max */
	WAY_MOVE = 3,        /* moving a task to another cgroup */
	WAY_PTRACE = 4,
	WAY_SIGIO = 5,
	WAY_RLIMIT = 6,
	WAY_UMOUNT = 7,
};

enum event_kind {
	EVENT_NONE = 0,
	EVENT_HELD = 1,  /* signal or way refused */
	EVENT_AUDIT = 2, /* would have been refused */
	EVENT_SENT = 3,  /* a stop signal reached a workload's process */
	EVENT_FATAL = 4, /* a fatal signal is being delivered */
	EVENT_EXIT = 5,  /* code: wait status */
	EVENT_OOM = 6,   /* chosen by the OOM killer */
	EVENT_EXEC = 7,  /* init of a new workload ran its program */
	EVENT_CGROUP_NEW = 8,
	EVENT_CGROUP_GONE = 9,
	EVENT_DROPS = 10, /* drop rate crossed: sig is the reason, code the count */
	EVENT_KINDS = 11,
};

enum event_flag {
	EVENT_INIT = 1 << 0,     /* the process is the workload's init */
	EVENT_FAULTY = 1 << 1,   /* this event made the workload faulty */
	EVENT_FENCED = 1 << 2,   /* and closed its fence */
	EVENT_KERNEL = 1 << 3,   /* the signal came from the kernel itself */
	EVENT_LAST = 1 << 4,     /* last thread of its process */
	EVENT_STOPPING = 1 << 6, /* it had been told to stop */
	EVENT_GUARDED = 1 << 5,  /* a guard was holding when it happened */
};

/* Key: cgroup id (inode of its directory). Writer: user space arms, kernel marks. */
struct guard {
	__u64 deadline_ns; /* a hold ends here; 0: none has begun */
	__u64 hold_ns;     /* length of a hold of a faulty workload */
	__u64 judge_ns;    /* length of a hold before the verdict (MODE_ALWAYS) */
	__u64 faulty_ns;   /* when it became faulty; 0: healthy */
	__u64 held;        /* signals withheld, bit sig-1 */
	__u64 held_count;
	__u64 signals; /* signals to hold, bit sig-1 */
	__u64 ancestors[MAX_ANCESTORS];
	__u32 mode;   /* enum guard_mode */
	__s32 err;    /* what the caller of a held signal gets: -EPERM, never -ESRCH */
	__u32 flags;  /* enum guard_flag */
	__u32 faults; /* which fault kinds the kernel itself may declare, bit kind */
	__u32 reason; /* enum fault_kind of faulty_ns */
	__u32 sender; /* tgid of the last held signal's sender */
};
_Static_assert(sizeof(struct guard) == 176, "guard layout");

/* Key: cgroup id. */
struct fence {
	__u64 since_ns; /* closed since; 0: open */
	__u64 dropped_in;
	__u64 dropped_out;
	__u32 audit; /* count, drop nothing */
	__u32 pad;
};
_Static_assert(sizeof(struct fence) == 32, "fence layout");

enum subject_flag {
	/* Send the exits of processes that end well, too. Shells and health checks
	 * make dozens a second, which would push what matters out of the record. */
	SUBJECT_EVERY_EXIT = 1 << 0,
};

/* Key: cgroup id. A known workload: only these send events. */
struct subject {
	__u64 drop_limit; /* drops per window that raise EVENT_DROPS; 0: off */
	__u64 window_ns;  /* start of the current window */
	__u64 window_drops;
	__u32 init_tgid; /* host pid of its init; 0: found by pid namespace */
	__u32 flags;     /* enum subject_flag */
	/* When somebody outside last told its init to stop, and was not refused: an
	 * end soon after is that stop, whatever its status, and no fault of its own. */
	__u64 stopping_ns;
	__u64 fatal_ns; /* last EVENT_FATAL: a fault that repeats itself is told once */
};
_Static_assert(sizeof(struct subject) == 48, "subject layout");

/* Key: cgroup id. A cgroup made lately, whether known or not. */
struct newborn {
	__u64 created_ns;
	__u64 exec_ns; /* its init ran its program; 0: not yet */
};
_Static_assert(sizeof(struct newborn) == 16, "newborn layout");

struct drop_key {
	__u64 cgroup;
	__u32 reason; /* enum skb_drop_reason of the running kernel */
	__u32 pad;
};
_Static_assert(sizeof(struct drop_key) == 16, "drop_key layout");

/* Key of the examiners' allow list; IPv4 is mapped (::ffff:a.b.c.d). */
struct prefix {
	__u32 bits; /* of the 128 */
	__u8 addr[16];
};
_Static_assert(sizeof(struct prefix) == 20, "prefix layout");

/* A root file system that must not be unmounted. */
struct root_key {
	__u64 dev; /* kernel dev_t */
	__u64 ino;
};
_Static_assert(sizeof(struct root_key) == 16, "root_key layout");

/* The agent, exempt from every guard. start_ns tells it from a reused pid. */
struct agent {
	__u32 tgid;
	__u32 abi;
	__u64 start_ns;
};
_Static_assert(sizeof(struct agent) == 16, "agent layout");

enum order_verb {
	ORDER_HOLD = 1, /* make faulty for reason, unless it is; hold until deadline_ns */
	ORDER_FENCE = 2,
	ORDER_UNFENCE = 3,
	ORDER_CLAIM = 4, /* the caller is the agent from now on */
};

/* What the agent asks the kernel side to change, as an argument of obey(). */
struct order {
	__u64 cgroup;
	__u64 deadline_ns;
	__u32 verb;
	__u32 reason;
};
_Static_assert(sizeof(struct order) == 24, "order layout");

struct event {
	__u64 ts_ns;
	__u64 cgroup;
	__u32 kind;  /* enum event_kind */
	__u32 flags; /* enum event_flag */
	__s32 sig;   /* signal number */
	__s32 code;  /* wait status, errno or count, as the kind says */
	__u32 pid;   /* the process concerned (tgid on the host) */
	__u32 tid;
	__u32 sender; /* tgid of who did it */
	__u32 detail; /* enum way, enum fault_kind or ancestor flag, as the kind says */
	char comm[COMM_LEN];
	char sender_comm[COMM_LEN];
	char name[NAME_LEN]; /* file or cgroup name */
};
_Static_assert(sizeof(struct event) == 160, "event layout");

/* Per-CPU counters: what fell out, and why. LOST_EVENT + kind counts full rings. */
enum counter {
	COUNT_HELD = 0,
	COUNT_AUDIT = 1,
	COUNT_LAPSED = 2,     /* a stop passed because the deadline was over */
	COUNT_FENCED = 3,     /* packets dropped by fences */
	COUNT_DROPS_FULL = 4, /* the drops map had no room */
	COUNT_NEWBORN_FULL = 5,
	COUNT_DEPTH = 6,  /* a cgroup deeper than MAX_DEPTH was cut short */
	COUNT_QUIET = 7,  /* exits that went well and repeated faults, not sent */
	COUNT_EVENT = 16, /* + kind: events sent */
	COUNT_LOST = 32,  /* + kind: events lost to a full ring */
	COUNTERS = 48,
};

#endif
