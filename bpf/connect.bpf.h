/* SPDX-License-Identifier: GPL-2.0 */
/* The record of a connection or first datagram, whoever reports it: the socket's hooks, or its first packet. */
#ifndef HOSTBRAKE_CONNECT_BPF_H
#define HOSTBRAKE_CONNECT_BPF_H

#include "policy.bpf.h"

/* An IPv4 address in IPv6 clothes (RFC 4291, section 2.5.5.2) is written as what its packets carry. */
static __always_inline __u16 plain_family(__u32 *address, __u16 family)
{
	if (family != AF_INET6 || address[0] || address[1] || address[2] != bpf_htonl(0xffff))
		return family;
	address[0] = address[3];
	address[2] = address[3] = 0;
	return AF_INET;
}

#define PROMPT_NS 1000000000ULL

/* Who was last told something unasked, and by whom: a process (its tgid) or any in a cgroup (its id). */
struct heard_key {
	__u64 start;
	__u64 who;
};

struct heard {
	__u64 time;
	__u8 remote[16];
	__u16 port;
	__u16 family;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct heard_key);
	__type(value, struct heard);
} unasked SEC(".maps") __weak;

/* A tunnel's far end speaks first, and only then does the near end connect. */
static __always_inline void fill_prompt(struct connect_event *event)
{
	struct header *header = &event->origin.header;
	struct heard_key key = {.start = header->start, .who = header->tgid};
	struct heard *heard = bpf_map_lookup_elem(&unasked, &key);

	event->prompt_family = 0;
	event->prompt_port = 0;
	event->prompt_shared = 0;
	event->prompted = 0;
	__builtin_memset(event->prompt, 0, sizeof(event->prompt));
	if (!heard || header->time - heard->time > PROMPT_NS) {
		key.start = 0;
		key.who = header->cgroup_id;
		heard = bpf_map_lookup_elem(&unasked, &key);
		if (!heard || header->time - heard->time > PROMPT_NS)
			return;
		event->prompt_shared = 1;
	}
	event->prompt_family = heard->family;
	event->prompt_port = heard->port;
	event->prompted = heard->time;
	__builtin_memcpy(event->prompt, heard->remote, sizeof(event->prompt));
}

/* What tells connections of one process to one end apart. */
static __always_inline __u32 connect_more(__u16 protocol, __u16 family, const struct judgement *judged)
{
	return (__u32)judged->unwanted << 24 | protocol << 8 | family;
}

/* A record of the current task's connection to what `key` says, all but the source; NULL where it is lost. */
static __always_inline struct scratch *begin_connect(const struct repeat_key *key, __u32 repeated)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct scratch *scratch = scratch_take(EVENT_CONNECT);

	if (!scratch)
		return NULL;
	fill_header(scratch, task, EVENT_CONNECT, sizeof(struct connect_event));
	fill_ancestors(&scratch->origin, task);
	scratch->origin.repeats = repeated;
	scratch->connect.protocol = key->more >> 8 & 0xffff;
	scratch->connect.destination_port = key->port;
	scratch->connect.family = key->more & 0xff;
	__builtin_memcpy(scratch->connect.destination, key->what, sizeof(key->what));
	fill_prompt(&scratch->connect);
	scratch->origin.image_length = append_file(scratch, BPF_CORE_READ(task, mm, exe_file));
	return scratch;
}

#endif
