/* SPDX-License-Identifier: GPL-2.0 */
/* A packet as cgroup_skb shows it: from its IP header on. */
#ifndef HOSTBRAKE_PACKET_BPF_H
#define HOSTBRAKE_PACKET_BPF_H

#include "connect.bpf.h"

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

enum direction { OUTBOUND, INBOUND };

struct packet {
	__u32 protocol;
	__u32 payload; /* offset of the first byte above the transport header */
	__u32 length;  /* of what is above it */
	__u32 sequence;
	bool syn;
	bool ack;
	__u16 remote_port;
	__u16 local_port;
};

static __always_inline bool parse_transport(struct __sk_buff *skb, __u32 offset, enum direction way,
                                            struct packet *packet)
{
	__u8 bytes[16];
	__u32 header = 8;
	__u16 source, destination;

	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP) {
		packet->payload = offset;
		packet->length = skb->len > offset ? skb->len - offset : 0;
		return true;
	}
	if (bpf_skb_load_bytes(skb, offset, bytes, 8))
		return false;
	source = bytes[0] << 8 | bytes[1];
	destination = bytes[2] << 8 | bytes[3];
	packet->local_port = way == OUTBOUND ? source : destination;
	packet->remote_port = way == OUTBOUND ? destination : source;
	if (packet->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, offset, bytes, 16))
			return false;
		packet->sequence = (__u32)bytes[4] << 24 | bytes[5] << 16 | bytes[6] << 8 | bytes[7];
		header = (bytes[12] >> 4) * 4;
		packet->syn = bytes[13] & 2;
		packet->ack = bytes[13] & 16;
	}
	packet->payload = offset + header;
	packet->length = skb->len > packet->payload ? skb->len - packet->payload : 0;
	return true;
}

/* A program may put extension headers before what it sends (RFC 8200 section 4): more than these nobody does. */
#define EXTENSIONS 6

static __always_inline bool is_extension(__u8 header)
{
	return header == 0 || header == 43 || header == 44 || header == 60 || header == 135;
}

static __always_inline bool parse6(struct __sk_buff *skb, enum direction way, struct packet *packet)
{
	__u8 next[2]; /* header, and in an extension its length in units of 8 bytes beyond the first */
	__u32 offset = 40;

	if (bpf_skb_load_bytes(skb, 6, next, 1))
		return false;
	for (int i = 0; i < EXTENSIONS && is_extension(next[0]); i++) {
		if (bpf_skb_load_bytes(skb, offset, next, 2))
			return false;
		offset += (next[1] + 1) * 8;
	}
	packet->protocol = next[0];
	return parse_transport(skb, offset, way, packet);
}

static __always_inline bool parse(struct __sk_buff *skb, enum direction way, struct packet *packet)
{
	__u8 first, protocol;

	if (skb->protocol == bpf_htons(0x0800)) {
		if (bpf_skb_load_bytes(skb, 0, &first, 1) || bpf_skb_load_bytes(skb, 9, &protocol, 1))
			return false;
		packet->protocol = protocol;
		return parse_transport(skb, (first & 15) * 4, way, packet);
	}
	return parse6(skb, way, packet);
}

static __always_inline void load_address(struct __sk_buff *skb, __u32 v4, __u32 v6, __u32 *address)
{
	address[0] = address[1] = address[2] = address[3] = 0;
	if (skb->protocol == bpf_htons(0x0800))
		bpf_skb_load_bytes(skb, v4, address, 4);
	else
		bpf_skb_load_bytes(skb, v6, address, 16);
}

static __always_inline void fill_ends(struct __sk_buff *skb, struct flow_ends *ends, const struct packet *packet,
                                      enum direction way)
{
	ends->cookie = bpf_get_socket_cookie(skb);
	load_address(skb, way == OUTBOUND ? 16 : 12, way == OUTBOUND ? 24 : 8, (__u32 *)ends->remote);
	load_address(skb, way == OUTBOUND ? 12 : 16, way == OUTBOUND ? 8 : 24, (__u32 *)ends->local);
	ends->remote_port = packet->remote_port;
	ends->local_port = packet->local_port;
	ends->family = skb->protocol == bpf_htons(0x0800) ? AF_INET : AF_INET6;
	ends->protocol = packet->protocol;
}

#endif
