/* SPDX-License-Identifier: GPL-2.0 */
/* What a flow carries, reported while it lasts and when it ends. */
#ifndef HOSTBRAKE_FLOW_BPF_H
#define HOSTBRAKE_FLOW_BPF_H

#include "packet.bpf.h"

#ifndef REPORT_NS /* a test has it sooner */
#define REPORT_NS 60000000000ULL
#endif

struct totals {
	__u64 bytes[2];
	__u32 packets[2];
	__u32 flows;
	__u32 reserved;
};

struct flow {
	struct flow_ends ends;
	__u64 start; /* with tgid: the process that sent the first packet */
	__u64 cgroup_id;
	__u32 tgid;
	__u32 uid;
	__u64 began;
	__u64 said;           /* when the process last sent something, CLOCK_MONOTONIC, coarse */
	__u64 reported;       /* CLOCK_MONOTONIC, coarse */
	struct totals totals; /* since the last report */
	__u32 base[2];        /* TCP sequence number of the first byte */
	__u32 records[2];
	__u32 silent;     /* nothing more to hand up: one bit for each direction */
	__u8 accepted;    /* somebody else opened it */
	__u8 seen;        /* packets, where it is an end of no relay: see relay.bpf.h */
	__u8 patience;    /* packets until it is none any more, unless it relays */
	__u8 relay_flags; /* enum relay_flags */
	__u64 outer;      /* cookie of the connection whose inner end it may be */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct flow);
} streams SEC(".maps");

struct settled {
	__u64 reported;
	struct totals totals;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct repeat_key);
	__type(value, struct settled);
} settlements SEC(".maps");

static __always_inline void fill_owner(struct scratch *scratch, const struct flow *flow, __u16 kind, __u32 fixed)
{
	struct header *header = &scratch->header;

	scratch->end = fixed;
	header->time = bpf_ktime_get_boot_ns();
	header->start = flow->start;
	header->cgroup_id = flow->cgroup_id;
	header->tgid = flow->tgid;
	header->uid = flow->uid;
	header->kind = kind;
	header->flags = flow->accepted ? FLAG_ACCEPTED : 0;
}

static __always_inline void send_totals(const struct flow *flow, const struct totals *sum, __u32 closed)
{
	struct scratch *scratch = scratch_take(EVENT_FLOW);

	if (!scratch)
		return;
	fill_owner(scratch, flow, EVENT_FLOW, sizeof(struct flow_event));
	scratch->flow.ends = flow->ends;
	scratch->flow.began = flow->began;
	scratch->flow.bytes_out = sum->bytes[OUTBOUND];
	scratch->flow.bytes_in = sum->bytes[INBOUND];
	scratch->flow.packets_out = sum->packets[OUTBOUND];
	scratch->flow.packets_in = sum->packets[INBOUND];
	scratch->flow.flows = sum->flows;
	scratch->flow.closed = closed;
	send(scratch, HOUSEKEEPING);
}

static __always_inline void move_totals(struct totals *from, struct totals *to)
{
	for (int way = 0; way < 2; way++) {
		__sync_fetch_and_add(&to->bytes[way], __sync_lock_test_and_set(&from->bytes[way], 0));
		__sync_fetch_and_add(&to->packets[way], __sync_lock_test_and_set(&from->packets[way], 0));
	}
}

/* A process that opens flow after flow to one end gets one record a second, which sums up those since the last. */
static __always_inline void settle(struct flow *flow, __u32 state)
{
	struct repeat_key key = {.kind = EVENT_FLOW, .port = flow->ends.remote_port, .tgid = flow->tgid};
	struct settled *settled, fresh = {.reported = bpf_ktime_get_boot_ns()};
	struct totals sum = {};

	key.start = flow->start;
	key.cgroup_id = flow->cgroup_id;
	key.more = flow->ends.protocol << 2 | state;
	__builtin_memcpy(key.what, flow->ends.remote, sizeof(key.what));
	settled = bpf_map_lookup_elem(&settlements, &key);
	if (settled) {
		move_totals(&flow->totals, &settled->totals);
		__sync_fetch_and_add(&settled->totals.flows, 1);
		if (fresh.reported - settled->reported < COLLAPSE_NS) {
			count(EVENT_FLOW, COUNT_COLLAPSED);
			return;
		}
		settled->reported = fresh.reported;
		move_totals(&settled->totals, &sum);
		sum.flows = __sync_lock_test_and_set(&settled->totals.flows, 0);
	} else {
		bpf_map_update_elem(&settlements, &key, &fresh, BPF_ANY);
		move_totals(&flow->totals, &sum);
		sum.flows = 1;
	}
	send_totals(flow, &sum, state);
}

static __always_inline void add(struct flow *flow, struct __sk_buff *skb, enum direction way)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct totals sum = {};

	__sync_fetch_and_add(&flow->totals.bytes[way], skb->len);
	__sync_fetch_and_add(&flow->totals.packets[way], skb->gso_segs ? skb->gso_segs : 1);
	if (now - flow->reported < REPORT_NS)
		return;
	flow->reported = now;
	move_totals(&flow->totals, &sum);
	send_totals(flow, &sum, OPEN);
}

#endif
