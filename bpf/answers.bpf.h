/* SPDX-License-Identifier: GPL-2.0 */
/* Host names that an agent may reach: an answer of a trusted resolver opens the way to the addresses in it, here and
 * not in the reader, since the asker connects microseconds after it has the answer. RFC 1035, section 4.1. */
#ifndef HOSTBRAKE_ANSWERS_BPF_H
#define HOSTBRAKE_ANSWERS_BPF_H

#include "flow.bpf.h"
#include "policy.bpf.h"

#define DNS_HEADER 12
#define DNS_LABELS 32  /* of a name that is followed */
#define DNS_RECORDS 24 /* of an answer that are */
#define DNS_A 1
#define DNS_AAAA 28
#define DNS_IN 1
#define POINTER 0xc0
#define LEAST_TTL 30 /* a connection may follow its answer after longer than a TTL of 0 says */
#define MOST_TTL 86400

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u8[16]); /* as in an egress_key */
	__type(value, __u32);
} resolvers SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct host_key);
	__type(value, struct host_node);
} hosts SEC(".maps") __weak;

/* Where a question's name is in a packet, label by label, and what the tree of hosts says of it. */
struct question {
	__u32 end;
	__u32 labels;
	__u16 label[DNS_LABELS];
	struct host_key key;
	__u16 ports[HOST_PORTS];
	__u32 found;
};

static __always_inline __u8 byte_at(struct __sk_buff *skb, __u32 offset)
{
	__u8 byte = 0;

	bpf_skb_load_bytes(skb, offset, &byte, 1);
	return byte;
}

/* The offset after the name that begins at `offset`; 0 where it does not end. */
__noinline int after_name(struct __sk_buff *skb, __u32 offset)
{
	for (__u32 i = 0; i < DNS_LABELS; i++) {
		__u8 length = byte_at(skb, offset);

		if (length >= POINTER)
			return offset + 2;
		if (!length)
			return offset + 1;
		offset += length + 1;
	}
	return 0;
}

/* Note where the labels of the question's name are. */
__noinline int read_question(struct __sk_buff *skb, struct question *question, __u32 offset)
{
	if (!question)
		return 0;
	question->labels = 0;
	for (__u32 i = 0; i < DNS_LABELS; i++) {
		__u8 length = byte_at(skb, offset);

		if (!length) {
			question->labels = i;
			question->end = offset + 1;
			return 1;
		}
		if (length > 63)
			return 0;
		question->label[i] = offset;
		offset += length + 1;
	}
	return 0;
}

static __always_inline bool load_label(struct __sk_buff *skb, struct question *question, __u32 offset)
{
	__u64 *words = (__u64 *)question->key.label;
	__u32 length = byte_at(skb, offset);

	__builtin_memset(question->key.label, 0, sizeof(question->key.label));
	if (length < 1 || length > 63 || bpf_skb_load_bytes(skb, offset + 1, question->key.label, length))
		return false;
	for (__u32 i = 0; i < sizeof(question->key.label) / 8; i++)
		words[i] = folded(words[i]);
	return true;
}

/* Follow the name from its last label to its first: the ports that this agent may reach of it. */
__noinline int ask_hosts(struct __sk_buff *skb, struct question *question)
{
	__u32 count;

	if (!question)
		return 0;
	question->found = 0;
	question->key.state = 0;
	count = question->labels;
	for (__u32 i = 0; i < DNS_LABELS; i++) {
		__u32 at = count - 1 - i;
		struct host_node *node;
		bool last;

		barrier_var(at);
		if (i >= count || at >= DNS_LABELS || !load_label(skb, question, question->label[at]))
			break;
		node = bpf_map_lookup_elem(&hosts, &question->key);
		if (!node)
			break;
		last = at == 0;
		if (last ? node->is_here : node->is_below) {
			__builtin_memcpy(question->ports, last ? node->here : node->below, sizeof(question->ports));
			question->found = 1;
		}
		question->key.state = node->next;
	}
	return question->found;
}

static __always_inline void open_way(const struct question *question, const __u8 *address, __u32 ttl)
{
	struct resolved_key key = {.agent = question->key.agent};
	__u64 until;

	if (ttl < LEAST_TTL)
		ttl = LEAST_TTL;
	if (ttl > MOST_TTL)
		ttl = MOST_TTL;
	until = bpf_ktime_get_boot_ns() + ttl * 1000000000ULL;
	__builtin_memcpy(key.address, address, sizeof(key.address));
	for (__u32 i = 0; i < HOST_PORTS; i++) {
		key.port = question->ports[i];
		if (i && !key.port)
			break; /* 0 first: any port */
		bpf_map_update_elem(&resolved, &key, &until, BPF_ANY);
	}
}

/* Open the way to the addresses in the records from `offset` on. */
__noinline int take_records(struct __sk_buff *skb, const struct question *question, __u32 offset, __u32 count)
{
	if (!question)
		return 0;
	for (__u32 i = 0; i < DNS_RECORDS; i++) {
		__u8 fixed[10], address[16] = {};
		__u32 ttl, length;

		if (i >= count)
			break;
		offset = after_name(skb, offset);
		if (!offset || bpf_skb_load_bytes(skb, offset, fixed, sizeof(fixed)))
			break;
		ttl = (__u32)fixed[4] << 24 | fixed[5] << 16 | fixed[6] << 8 | fixed[7];
		length = fixed[8] << 8 | fixed[9];
		offset += sizeof(fixed);
		if (!fixed[0] && fixed[2] == 0 && fixed[3] == DNS_IN) {
			if (fixed[1] == DNS_A && length == 4) {
				address[10] = address[11] = 0xff;
				if (!bpf_skb_load_bytes(skb, offset, address + 12, 4))
					open_way(question, address, ttl);
			} else if (fixed[1] == DNS_AAAA && length == 16) {
				if (!bpf_skb_load_bytes(skb, offset, address, 16))
					open_way(question, address, ttl);
			}
		}
		offset += length;
	}
	return 0;
}

static __always_inline void heed_answer_for(struct __sk_buff *skb, struct question *question, __u32 agent,
                                            __u32 records)
{
	question->key.agent = agent;
	if (agent && ask_hosts(skb, question))
		take_records(skb, question, question->end + 4, records);
}

/* A datagram from a DNS server; `offset` is where the message begins. */
static __always_inline void heed_answer(struct __sk_buff *skb, const struct flow *flow, __u32 offset)
{
	struct question question = {};
	struct held held = {};
	__u8 from[16] = {}, header[DNS_HEADER];

	if (!policy_of(&held, flow->cgroup_id, flow->tgid))
		return;
	put_address((__u32 *)from, (const __u32 *)flow->ends.remote, flow->ends.family);
	if (!bpf_map_lookup_elem(&resolvers, from) || bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
		return;
	/* a response, without an error, to one question */
	if (!(header[2] & 0x80) || (header[3] & 0x0f) || header[4] || header[5] != 1 || header[6])
		return;
	if (!read_question(skb, &question, offset + DNS_HEADER))
		return;
	heed_answer_for(skb, &question, held.place.agent, header[7]);
	heed_answer_for(skb, &question, held.born.agent, header[7]);
}

#endif
