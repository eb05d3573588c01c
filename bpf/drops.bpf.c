// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * drops.bpf.c: packets that the kernel dropped, counted by workload and reason.
 * An event per drop would halve throughput; one is sent only when a workload's
 * rate is crossed.
 */
#include "subject.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define WINDOW_NS 1000000000ULL

/* workload x reason -> packets, per CPU. Agent reads; entries go with the
 * workload. 8192: about eight reasons for each of a thousand workloads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct drop_key);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} drops SEC(".maps");

/* Network namespace inode -> cgroup id of the workload in it. Agent writes; the
 * host's own namespace is not in it, which is the filter. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} networks SEC(".maps");

static __always_inline __u64 workload_of(struct sk_buff *skb)
{
	struct net_device *dev = BPF_CORE_READ(skb, dev);
	struct sock *sk;
	__u64 *id;

	if (dev) {
		__u32 inum = BPF_CORE_READ(dev, nd_net.net, ns.inum);

		id = bpf_map_lookup_elem(&networks, &inum);
		if (id)
			return *id;
	}
	sk = BPF_CORE_READ(skb, sk);
	if (!sk)
		return 0;
	return nearest(BPF_CORE_READ(sk, sk_cgrp_data.cgroup), &subjects);
}

static __always_inline void add(__u64 id, __u32 reason)
{
	struct drop_key key = {.cgroup = id, .reason = reason};
	__u64 one = 1, *n = bpf_map_lookup_elem(&drops, &key);

	if (n)
		(*n)++;
	else if (bpf_map_update_elem(&drops, &key, &one, BPF_NOEXIST))
		count(COUNT_DROPS_FULL);
}

/* One event a window, when its limit is reached. */
static __always_inline void surge(__u64 id, __u32 reason)
{
	struct subject *subject = bpf_map_lookup_elem(&subjects, &id);
	__u64 now = bpf_ktime_get_boot_ns(), seen;
	struct event *e;

	if (!subject || !subject->drop_limit)
		return;
	if (now - subject->window_ns > WINDOW_NS) {
		subject->window_ns = now;
		subject->window_drops = 0;
	}
	seen = __sync_fetch_and_add(&subject->window_drops, 1) + 1;
	if (seen != subject->drop_limit)
		return;
	e = event_new(EVENT_DROPS, id, NULL);
	if (!e)
		return;
	e->detail = FAULT_DROPS;
	e->sig = reason;
	e->code = seen;
	e->flags = declare_fault(id, FAULT_DROPS, true);
	event_send(e, 0);
}

/* Arguments differ between kernels; skb and reason are first and third in all. */
SEC("tp_btf/kfree_skb")
int watch_drops(__u64 *ctx)
{
	__u32 reason = ctx[2];
	__u64 id;

	if (!reason_is_drop(reason))
		return 0;
	id = workload_of((void *)ctx[0]);
	if (!id)
		return 0;
	add(id, reason);
	surge(id, reason);
	return 0;
}
