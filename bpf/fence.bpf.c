// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * fence.bpf.c: cuts a workload's business traffic and lets examiners in. Two
 * hooks, because each alone is walked around: cgroup_skb misses sockets made
 * before the process entered the cgroup and AF_PACKET; the host veth misses
 * workloads on the host's network.
 */
#include "maps.bpf.h"
#include <bpf/bpf_endian.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* tcx and tc verdicts alike. */
#define NEXT (-1)
#define SHOT 2
#define CGROUP_PASS 1
#define CGROUP_DROP 0
#define CGROUP_DROP_SILENT 2 /* egress: the sender sees no EPERM */
#define LOOPBACK_IFINDEX 1   /* in every network namespace */
#define ETH_ARP 0x0806
#define ETH_IP4 0x0800
#define ETH_IP6 0x86dd
#define PROTO_TCP 6
#define PROTO_ICMP6 58
#define TCP_FLAGS 13
#define TCP_RST 0x04

/* Addresses that pass every fence. Agent writes; 256: people, not machines. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, struct prefix);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} examiners SEC(".maps");

/* ifindex of a host veth -> cgroup id of the workload behind it. Agent writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} veths SEC(".maps");

static __always_inline bool examiner(struct prefix *key)
{
	key->bits = 128;
	return bpf_map_lookup_elem(&examiners, key) != NULL;
}

static __always_inline void map_ip4(struct prefix *key, __be32 addr)
{
	key->addr[10] = 0xff;
	key->addr[11] = 0xff;
	__builtin_memcpy(&key->addr[12], &addr, sizeof(addr));
}

/* A reset leaving the workload tells its peer at once; it can carry no business. */
static __always_inline bool is_reset(struct __sk_buff *skb, __u32 at)
{
	__u8 flags = 0;

	if (bpf_skb_load_bytes(skb, at + TCP_FLAGS, &flags, 1))
		return false;
	return flags & TCP_RST;
}

static __always_inline bool passes_ip4(struct __sk_buff *skb, __u32 at, bool out)
{
	struct prefix key = {};
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return false;
	if (out && ip.protocol == PROTO_TCP && is_reset(skb, at + ip.ihl * 4))
		return true;
	map_ip4(&key, out ? ip.daddr : ip.saddr);
	return examiner(&key);
}

/* Neighbour discovery (types 133..137) passes, as ARP does. */
static __always_inline bool is_neighbour(struct __sk_buff *skb, __u32 at)
{
	__u8 type = 0;

	if (bpf_skb_load_bytes(skb, at, &type, 1))
		return false;
	return type >= 133 && type <= 137;
}

static __always_inline bool passes_ip6(struct __sk_buff *skb, __u32 at, bool out)
{
	struct prefix key = {};
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return false;
	if (ip.nexthdr == PROTO_ICMP6 && is_neighbour(skb, at + sizeof(ip)))
		return true;
	if (out && ip.nexthdr == PROTO_TCP && is_reset(skb, at + sizeof(ip)))
		return true;
	__builtin_memcpy(key.addr, out ? &ip.daddr : &ip.saddr, sizeof(key.addr));
	return examiner(&key);
}

static __always_inline bool passes(struct __sk_buff *skb, __u32 at, bool out)
{
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_ARP:
		return true;
	case ETH_IP4:
		return passes_ip4(skb, at, out);
	case ETH_IP6:
		return passes_ip6(skb, at, out);
	}
	return false;
}

/* True when a closed fence stops the packet; counts it. */
static __always_inline bool stopped(struct __sk_buff *skb, struct fence *fence, __u32 at, bool out)
{
	if (!fence->since_ns || passes(skb, at, out))
		return false;
	__sync_fetch_and_add(out ? &fence->dropped_out : &fence->dropped_in, 1);
	if (fence->audit)
		return false;
	count(COUNT_FENCED);
	return true;
}

static __always_inline struct fence *fence_of_cgroup(struct __sk_buff *skb)
{
	__u64 id = bpf_skb_cgroup_id(skb);
	struct fence *fence = bpf_map_lookup_elem(&fences, &id);

	for (int level = 1; !fence && level < MAX_DEPTH; level++) {
		id = bpf_skb_ancestor_cgroup_id(skb, level);
		if (!id)
			break;
		fence = bpf_map_lookup_elem(&fences, &id);
	}
	return fence;
}

/* Attached at the cgroup root. 1: pass, 0: drop. */
SEC("cgroup_skb/ingress")
int fence_cgroup_in(struct __sk_buff *skb)
{
	struct fence *fence;

	if (skb->ifindex == LOOPBACK_IFINDEX)
		return CGROUP_PASS;
	fence = fence_of_cgroup(skb);
	return fence && stopped(skb, fence, 0, false) ? CGROUP_DROP : CGROUP_PASS;
}

/* 1: pass, 2: drop in silence. */
SEC("cgroup_skb/egress")
int fence_cgroup_out(struct __sk_buff *skb)
{
	struct fence *fence;

	if (skb->ifindex == LOOPBACK_IFINDEX)
		return CGROUP_PASS;
	fence = fence_of_cgroup(skb);
	return fence && stopped(skb, fence, 0, true) ? CGROUP_DROP_SILENT : CGROUP_PASS;
}

static __always_inline int at_veth(struct __sk_buff *skb, bool out)
{
	__u32 ifindex = skb->ifindex;
	__u64 *id = bpf_map_lookup_elem(&veths, &ifindex);
	struct fence *fence = id ? bpf_map_lookup_elem(&fences, id) : NULL;

	return fence && stopped(skb, fence, ETH_HLEN, out) ? SHOT : NEXT;
}

/* Ingress of the host's end: what the workload sends. tcx since 6.6, else tc. */
SEC("tc")
int fence_veth_out(struct __sk_buff *skb)
{
	return at_veth(skb, true);
}

/* Egress of the host's end: what the workload would get. */
SEC("tc")
int fence_veth_in(struct __sk_buff *skb)
{
	return at_veth(skb, false);
}
