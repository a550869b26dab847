/* SPDX-License-Identifier: GPL-2.0 */
/* Connections and first datagrams, IPv4 and IPv6: the cgroup hooks of connect(2) and of sendto(2) without a
 * connection, which io_uring passes too. net/ipv4/af_inet.c, net/ipv4/udp.c, net/ipv6/. */
#include "connect.bpf.h"

#define DENY 0
#define ALLOW 1

static __always_inline void fill_destination(struct bpf_sock_addr *ctx, __u32 *address, __u16 family)
{
	if (family == AF_INET) {
		address[0] = ctx->user_ip4;
		address[1] = address[2] = address[3] = 0;
		return;
	}
	address[0] = ctx->user_ip6[0];
	address[1] = ctx->user_ip6[1];
	address[2] = ctx->user_ip6[2];
	address[3] = ctx->user_ip6[3];
}

static __always_inline void fill_source(struct bpf_sock_addr *ctx, struct connect_event *event, __u16 family)
{
	struct bpf_sock *sock = ctx->sk;
	__u32 *source = (__u32 *)event->source;

	source[0] = source[1] = source[2] = source[3] = 0;
	event->source_port = 0;
	if (!sock)
		return;
	event->source_port = sock->src_port;
	if (family == AF_INET) {
		source[0] = sock->src_ip4;
		return;
	}
	source[0] = sock->src_ip6[0];
	source[1] = sock->src_ip6[1];
	source[2] = sock->src_ip6[2];
	source[3] = sock->src_ip6[3];
	plain_family(source, family);
}

static __always_inline int report(struct bpf_sock_addr *ctx, __u16 family)
{
	struct repeat_key key = {.kind = EVENT_CONNECT};
	struct judgement judged;
	struct scratch *scratch;
	__u32 repeated;
	__u16 plain;

	key.port = bpf_ntohs(ctx->user_port);
	fill_destination(ctx, (__u32 *)key.what, family);
	plain = plain_family((__u32 *)key.what, family);
	fill_key(&key);
	judged = judge_egress(key.cgroup_id, key.tgid, (__u32 *)key.what, plain, key.port);
	key.more = connect_more(ctx->protocol, plain, &judged);
	if (!first_or_due(&key, &repeated))
		return judged.denied ? DENY : ALLOW;
	scratch = begin_connect(&key, repeated);
	if (!scratch)
		return judged.denied ? DENY : ALLOW;
	fill_judgement(&scratch->origin, &judged);
	fill_source(ctx, &scratch->connect, family);
	send(scratch, URGENT);
	return judged.denied ? DENY : ALLOW;
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	return report(ctx, AF_INET);
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	return report(ctx, AF_INET6);
}

SEC("cgroup/sendmsg4")
int on_sendmsg4(struct bpf_sock_addr *ctx)
{
	return report(ctx, AF_INET);
}

SEC("cgroup/sendmsg6")
int on_sendmsg6(struct bpf_sock_addr *ctx)
{
	return report(ctx, AF_INET6);
}

char LICENSE[] SEC("license") = "GPL";
