/* SPDX-License-Identifier: GPL-2.0 */
/* What a flow carries, reported while it lasts and when it ends. */
#ifndef HOSTBRAKE_FLOW_BPF_H
#define HOSTBRAKE_FLOW_BPF_H

#include "packet.bpf.h"

#define DNS_PORT 53

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
	__u64 said;           /* when the process last sent something, or UDP either side; CLOCK_MONOTONIC, coarse */
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
	__u32 denied;     /* none of it leaves */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct flow);
} streams SEC(".maps") __weak;

/* A UDP socket talks to many: one flow for each remote end. */
struct datagram_key {
	__u64 cookie;
	__u32 remote[4];
	__u32 port;
	__u32 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct datagram_key);
	__type(value, struct flow);
} datagrams SEC(".maps") __weak;

/* Flows of one process to one end: what has ended since one of them was reported. */
struct settled {
	__u64 reported;
	struct flow_ends ends; /* of the first of them all, without cookie */
	struct totals totals;
	__u32 uid;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct repeat_key);
	__type(value, struct settled);
} settlements SEC(".maps") __weak;

/* How many entries went in and were taken out: what is neither there nor taken out, the table let go. */
enum table {
	TABLE_DATAGRAMS,
	TABLE_SETTLEMENTS,
	TABLES,
};

struct ledger {
	__u64 added;
	__u64 removed;
	__u64 missing; /* at the last look */
	__u64 evicted;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TABLES);
	__type(key, __u32);
	__type(value, struct ledger);
} ledgers SEC(".maps") __weak;

static __always_inline struct ledger *ledger_of(enum table table)
{
	__u32 entry = table;

	return bpf_map_lookup_elem(&ledgers, &entry);
}

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

/* A flow whose words were handed up is told alone, so that user space closes it too; of these there are few, see
 * one_of_many. DNS has no words to close: each message is whole. */
static __always_inline bool has_spoken(const struct flow *flow)
{
	bool is_dns = flow->ends.remote_port == DNS_PORT && flow->ends.protocol == IPPROTO_UDP;

	return (flow->records[OUTBOUND] || flow->records[INBOUND]) && !is_dns;
}

/* A process that opens flow after flow to one end gets one record a second, which sums up those since the last; and so
 * does one that accepts flow after flow from one address, where each has another port. */
static __always_inline void settle(struct flow *flow, __u32 state)
{
	struct repeat_key key = {.kind = EVENT_FLOW, .port = flow->ends.remote_port, .tgid = flow->tgid};
	struct settled *settled, fresh = {.reported = bpf_ktime_get_boot_ns(), .uid = flow->uid};
	struct ledger *ledger;
	struct totals sum = {};

	key.start = flow->start;
	key.cgroup_id = flow->cgroup_id;
	key.more = flow->ends.protocol << 2 | state;
	if (flow->accepted) {
		key.port = flow->ends.local_port;
		key.more |= 1 << 31;
	}
	__builtin_memcpy(key.what, flow->ends.remote, sizeof(key.what));
	settled = bpf_map_lookup_elem(&settlements, &key);
	if (settled) {
		move_totals(&flow->totals, &settled->totals);
		__sync_fetch_and_add(&settled->totals.flows, 1);
		if (fresh.reported - settled->reported < COLLAPSE_NS && !has_spoken(flow)) {
			count(EVENT_FLOW, COUNT_COLLAPSED);
			return;
		}
		settled->reported = fresh.reported;
		move_totals(&settled->totals, &sum);
		sum.flows = __sync_lock_test_and_set(&settled->totals.flows, 0);
	} else {
		fresh.ends = flow->ends;
		fresh.ends.cookie = 0;
		ledger = ledger_of(TABLE_SETTLEMENTS);
		if (ledger && !bpf_map_update_elem(&settlements, &key, &fresh, BPF_NOEXIST))
			__sync_fetch_and_add(&ledger->added, 1);
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
	if ((__s64)(now - flow->reported) < (__s64)REPORT_NS)
		return; /* the coarse clock may be behind */
	flow->reported = now;
	move_totals(&flow->totals, &sum);
	send_totals(flow, &sum, OPEN);
}

#endif
