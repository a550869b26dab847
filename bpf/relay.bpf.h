/* SPDX-License-Identifier: GPL-2.0 */
/* Relays: what comes in on one connection goes out on another at once, as much of it, and so does the answer. Counted
 * here, on the packets themselves, so that nothing depends on when user space looks.
 *
 * The outer connection is one that this host opened to another host. The inner one is any other of the process, or of
 * its cgroup. A way is from the one to the other; a burst is what came in on the first until it has gone out on the
 * second, where the outer side adds its framing to each. */
#ifndef HOSTBRAKE_RELAY_BPF_H
#define HOSTBRAKE_RELAY_BPF_H

#include "flow.bpf.h"

#define FORWARD_NS 250000000ULL /* what goes out later than this was not forwarded */
#define FRAMING_BYTES 96        /* what SSH, TLS or a WebSocket adds to one burst, and a share of what is in it */
#define FRAMING_SHARE 16
#define LARGE_BYTES 256 /* smaller bursts are alike in size by chance */
#define TAIL_BYTES 16
#define PATIENCE 64 /* packets of an inner connection that has relayed nothing until it is let be */

enum way { INWARD, OUTWARD };

/* The connections that this host opened to other hosts: the latest of a process (its tgid) or cgroup (its id). */
struct holding {
	__u64 outer;
	__u64 heard; /* when it spoke, CLOCK_MONOTONIC, coarse; 0: not yet */
	__u64 began;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct heard_key);
	__type(value, struct holding);
} holdings SEC(".maps");

/* Whether a cgroup may hold any: spares all others the look-ups. Cgroups whose ids fall together share an answer. */
#define CGROUP_SLOTS 4096
static __u8 may_hold[CGROUP_SLOTS];

struct relay {
	struct flow_ends outer, inner;
	__u64 start, cgroup_id; /* of the process that holds the outer connection */
	__u32 tgid, uid;
	__u64 inner_start;
	__u32 inner_tgid;
	__u32 inner_flags; /* enum relay_flags */
	__u64 came[2];     /* when the last of a burst came, CLOCK_MONOTONIC, coarse */
	__u32 source[2];   /* bytes of the burst that came in and went out so far */
	__u32 sink[2];
	__u32 bursts[2];    /* that went out as they came in */
	__u32 exchanges[2]; /* those after which anything went out */
	__u32 verbatim[2];
	__u64 bytes[2]; /* in them, without framing */
	__u32 large[2];
	__u32 missed;
	__u32 told_turns;
	__u32 told_exchanges;
	__u32 last;     /* enum way, of what came last */
	__u32 answered; /* of source[INWARD], what the outer side had answered by itself: it may be none of the burst */
	__u32 reserved;
	__u8 tail[2][TAIL_BYTES]; /* of what came last */
};

/* By the outer connection's cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct relay);
} relays SEC(".maps");

/* Nothing, to begin with: a relay is too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct relay);
} no_relay SEC(".maps");

static __always_inline bool may_relay(__u64 cgroup_id)
{
	return may_hold[cgroup_id % CGROUP_SLOTS];
}

/* Whether both ends are this host's. */
static __always_inline bool is_own(const struct flow_ends *ends)
{
	const __u32 *remote = (const __u32 *)ends->remote, *local = (const __u32 *)ends->local;

	if (remote[0] == local[0] && remote[1] == local[1] && remote[2] == local[2] && remote[3] == local[3])
		return true;
	if (ends->family == AF_INET)
		return ends->remote[0] == 127;
	return !remote[0] && !remote[1] && !remote[2] && remote[3] == bpf_htonl(1);
}

static __always_inline void hold(const struct flow *flow, __u64 heard)
{
	struct heard_key key = {.start = flow->start, .who = flow->tgid};
	struct holding holding = {.outer = flow->ends.cookie, .heard = heard, .began = flow->began};

	may_hold[flow->cgroup_id % CGROUP_SLOTS] = 1;
	if (flow->tgid)
		bpf_map_update_elem(&holdings, &key, &holding, BPF_ANY);
	key.start = 0;
	key.who = flow->cgroup_id;
	bpf_map_update_elem(&holdings, &key, &holding, BPF_ANY);
}

static __always_inline struct relay *relay_of(struct flow *flow)
{
	struct relay *relay = bpf_map_lookup_elem(&relays, &flow->ends.cookie);
	__u32 entry = 0;

	if (relay)
		return relay;
	relay = bpf_map_lookup_elem(&no_relay, &entry);
	if (!relay)
		return NULL;
	bpf_map_update_elem(&relays, &flow->ends.cookie, relay, BPF_NOEXIST);
	relay = bpf_map_lookup_elem(&relays, &flow->ends.cookie);
	if (!relay)
		return NULL;
	relay->outer = flow->ends;
	relay->start = flow->start;
	relay->cgroup_id = flow->cgroup_id;
	relay->tgid = flow->tgid;
	relay->uid = flow->uid;
	return relay;
}

static __always_inline __u32 fewer(const __u32 *count)
{
	return count[INWARD] < count[OUTWARD] ? count[INWARD] : count[OUTWARD];
}

static __noinline int send_relay(struct relay *relay)
{
	struct scratch *scratch;
	struct header *header;

	if (!relay)
		return 0;
	scratch = scratch_take(EVENT_RELAY);
	if (!scratch)
		return 0;
	header = &scratch->header;
	scratch->end = sizeof(struct relay_event);
	header->time = bpf_ktime_get_boot_ns();
	header->start = relay->start;
	header->cgroup_id = relay->cgroup_id;
	header->tgid = relay->tgid;
	header->uid = relay->uid;
	header->kind = EVENT_RELAY;
	header->flags = 0;
	scratch->relay.outer = relay->outer;
	scratch->relay.inner = relay->inner;
	scratch->relay.inner_start = relay->inner_start;
	scratch->relay.bytes_in = relay->bytes[INWARD];
	scratch->relay.bytes_out = relay->bytes[OUTWARD];
	scratch->relay.inner_tgid = relay->inner_tgid;
	scratch->relay.inner_flags = relay->inner_flags & (RELAY_OUTER - 1);
	scratch->relay.exchanges = fewer(relay->exchanges);
	scratch->relay.turns = fewer(relay->bursts);
	scratch->relay.reserved = 0;
	scratch->relay.large = fewer(relay->large);
	scratch->relay.verbatim = fewer(relay->verbatim);
	scratch->relay.missed = relay->missed;
	send(scratch, URGENT);
	return 0;
}

static __always_inline void load_tail(struct __sk_buff *skb, const struct packet *packet, __u8 *tail)
{
	__builtin_memset(tail, 0, TAIL_BYTES);
	if (packet->length >= TAIL_BYTES)
		bpf_skb_load_bytes(skb, packet->payload + packet->length - TAIL_BYTES, tail, TAIL_BYTES);
}

static __always_inline void forget(struct relay *relay, enum way way)
{
	relay->source[way] = 0;
	relay->sink[way] = 0;
	if (way == INWARD)
		relay->answered = 0;
}

static __always_inline bool is_due(__u32 turns)
{
	return turns == 1 || turns == 3 || turns == 10 || turns == 30 || turns == 100;
}

/* A burst has gone out, or something in its place. */
static __always_inline void pass(struct relay *relay, enum way way)
{
	__u32 turns = fewer(relay->bursts), exchanges;

	relay->exchanges[way]++;
	exchanges = fewer(relay->exchanges);
	forget(relay, way);
	if (!(is_due(turns) && turns != relay->told_turns) &&
	    !(is_due(exchanges) && exchanges != relay->told_exchanges))
		return;
	relay->told_turns = turns;
	relay->told_exchanges = exchanges;
	send_relay(relay);
}

static __always_inline void miss(struct relay *relay, enum way way)
{
	relay->missed++;
	pass(relay, way);
}

/* Something came in that may go out on the other side. */
static __always_inline void take_in(struct __sk_buff *skb, struct relay *relay, const struct packet *packet,
                                    enum way way, __u64 now)
{
	if (relay->sink[way] && relay->last != way)
		miss(relay, way); /* the answer came while a part of this was still to go out: it never will */
	else if (now - relay->came[way] > FORWARD_NS)
		forget(relay, way);
	relay->last = way;
	relay->source[way] += packet->length;
	relay->came[way] = now;
	load_tail(skb, packet, relay->tail[way]);
}

static __always_inline void went(struct __sk_buff *skb, struct relay *relay, const struct packet *packet, enum way way,
                                 __u32 length)
{
	__u64 tail[2], *came = (__u64 *)relay->tail[way];

	load_tail(skb, packet, (__u8 *)tail);
	if ((tail[0] | tail[1]) && tail[0] == came[0] && tail[1] == came[1])
		relay->verbatim[way]++;
	if (length >= LARGE_BYTES)
		relay->large[way]++;
	relay->bytes[way] += length;
	relay->bursts[way]++;
	pass(relay, way);
}

static __always_inline bool is_framed(__u32 outer, __u32 inner)
{
	return outer >= inner && outer - inner <= FRAMING_BYTES + inner / FRAMING_SHARE;
}

/* Something goes out: is it what came in on the other side? */
static __always_inline void give_out(struct __sk_buff *skb, struct relay *relay, const struct packet *packet,
                                     enum way way, __u64 now)
{
	__u32 inner, outer;

	if (!relay->source[way] || now - relay->came[way] > FORWARD_NS) {
		forget(relay, way);
		if (way == INWARD)
			relay->missed++; /* said on its own account */
		else if (!relay->sink[INWARD])
			relay->answered = relay->source[INWARD];
		return;
	}
	relay->sink[way] += packet->length;
	inner = way == INWARD ? relay->sink[way] : relay->source[way];
	outer = way == INWARD ? relay->source[way] : relay->sink[way];
	if (is_framed(outer, inner) || (way == INWARD && is_framed(outer - relay->answered, inner)))
		went(skb, relay, packet, way, inner);
	else if (relay->sink[way] > relay->source[way])
		miss(relay, way);
}

/* Which connection this one may be the inner end of. One to another host only where that had just spoken to the very
 * process; otherwise two connections of a client would each be the other's. One that was accepted only where the outer
 * one is older; a proxy opens one for each client. */
static __always_inline void watch(struct flow *flow, __u64 now, bool opens)
{
	struct heard_key key = {.start = flow->start, .who = flow->tgid};
	struct holding *holding;
	bool shared, prompted;

	if (!may_relay(flow->cgroup_id))
		return;
	holding = flow->tgid ? bpf_map_lookup_elem(&holdings, &key) : NULL;
	shared = !holding;
	if (shared) {
		key.start = 0;
		key.who = flow->cgroup_id;
		holding = bpf_map_lookup_elem(&holdings, &key);
	}
	if (!holding || holding->outer == flow->ends.cookie)
		return;
	prompted = opens && holding->heard && now - holding->heard < FORWARD_NS;
	if (flow->accepted ? holding->began > flow->began : shared && now - holding->heard >= FORWARD_NS)
		return;
	if ((flow->relay_flags & RELAY_OUTER) && (shared || !prompted))
		return;
	flow->outer = holding->outer;
	flow->patience = PATIENCE;
	flow->relay_flags |= RELAY_INNER | (prompted ? RELAY_PROMPTED : 0) | (shared ? RELAY_SHARED : 0) |
	                     (flow->accepted ? RELAY_ACCEPTED : 0);
}

static __always_inline void follow_inner(struct __sk_buff *skb, struct flow *flow, const struct packet *packet,
                                         enum direction direction, __u64 now)
{
	struct relay *relay = bpf_map_lookup_elem(&relays, &flow->outer);

	if (!relay) {
		flow->relay_flags &= RELAY_OUTER;
		return;
	}
	if (relay->inner.cookie != flow->ends.cookie) {
		relay->inner = flow->ends;
		relay->inner_start = flow->start;
		relay->inner_tgid = flow->tgid;
		relay->inner_flags = flow->relay_flags;
	}
	if (flow->patience && !--flow->patience && !relay->bursts[INWARD] && !relay->bursts[OUTWARD]) {
		flow->relay_flags &= RELAY_OUTER;
		return;
	}
	if (direction == OUTBOUND)
		give_out(skb, relay, packet, INWARD, now);
	else
		take_in(skb, relay, packet, OUTWARD, now);
}

static __always_inline void follow_outer(struct __sk_buff *skb, struct flow *flow, const struct packet *packet,
                                         enum direction direction, __u64 now)
{
	struct relay *relay = relay_of(flow);

	if (!relay)
		return;
	if (direction == OUTBOUND) {
		if (relay->inner.cookie)
			give_out(skb, relay, packet, OUTWARD, now);
		else
			forget(relay, INWARD);
		return;
	}
	if (now - relay->came[INWARD] > TURN_NS)
		hold(flow, now);
	take_in(skb, relay, packet, INWARD, now);
}

#endif
