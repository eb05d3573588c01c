/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * maps.bpf.h: the maps that more than one object uses. The loader creates each
 * once, pins it by its name, and gives the same map to every object.
 */
#ifndef REPRIEVE_MAPS_BPF_H
#define REPRIEVE_MAPS_BPF_H

#include "kernel.h"
#include "reprieve.h"
#include <bpf/bpf_helpers.h>

/* cgroup id -> guard. Written by the agent; the kernel sets faulty, deadline and
 * held. 4096: containers on one host, eight times a full Kubernetes node. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct guard);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} guards SEC(".maps");

/* cgroup id -> fence. Written by the agent; the kernel closes it and counts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct fence);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fences SEC(".maps");

/* cgroup id -> subject: the filter of every observing program. Written by the
 * agent. 16384: simulated at 10,000 containers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct subject);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} subjects SEC(".maps");

/* [0] -> the agent's identity. Written by the agent at start. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct agent);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} agents SEC(".maps");

/* Events to the agent. 1 MiB: 6,000 events, 14 ms at the highest rate measured. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

/* enum counter -> count, per CPU. Read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		(*n)++;
}

#endif
