/* SPDX-License-Identifier: GPL-2.0 */
/* The record of a connection or first datagram, whoever reports it: the socket's hooks, or its first packet. */
#ifndef HOSTBRAKE_CONNECT_BPF_H
#define HOSTBRAKE_CONNECT_BPF_H

#include "common.bpf.h"

#define AF_INET 2
#define AF_INET6 10

/* An IPv4 address in IPv6 clothes (RFC 4291, section 2.5.5.2) is written as what its packets carry. */
static __always_inline __u16 plain_family(__u32 *address, __u16 family)
{
	if (family != AF_INET6 || address[0] || address[1] || address[2] != bpf_htonl(0xffff))
		return family;
	address[0] = address[3];
	address[2] = address[3] = 0;
	return AF_INET;
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
	scratch->connect.protocol = key->more >> 8;
	scratch->connect.destination_port = key->port;
	scratch->connect.family = key->more & 0xff;
	__builtin_memcpy(scratch->connect.destination, key->what, sizeof(key->what));
	scratch->origin.image_length = append_file(scratch, BPF_CORE_READ(task, mm, exe_file));
	return scratch;
}

#endif
