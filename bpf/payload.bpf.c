/* SPDX-License-Identifier: GPL-2.0 */
/* The first words of each flow that begins here, and what it carries until it ends: cgroup_skb sees every packet of
 * every socket, however it was connected (kernel/bpf/cgroup.c, __cgroup_bpf_run_filter_skb). Once a flow's first
 * words are known a packet costs one look-up and two additions. */
#include "answers.bpf.h"
#include "begin.bpf.h"
#include "relay.bpf.h"

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define SHUTDOWN_BOTH 3 /* SHUTDOWN_MASK in include/net/sock.h */
#define SOCK_RAW 3
#define DENY 0
#define ALLOW 1

#define STREAM_BYTES 4096    /* of each direction are handed up */
#define STREAM_SEGMENTS 1024 /* in at most so many records: a handshake sent byte by byte is still seen whole */
#define DATAGRAMS 6          /* of each direction, to and from one remote address */
#define CHUNK_BYTES 4096
#define ANSWER_NS 500000000ULL /* what comes later than this after our own words is no answer to them */

/* Raw and ping sockets that a process made (the kernel's own, which answer ICMP and reset TCP, pass no sock_create
 * hook), and UDP sockets of a network that whoever made it may rule: nothing that comes there is a resolver's word. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} made_apart SEC(".maps");

/* A process may begin this many flows a second to one end with the same word and have each looked at: a busy client
 * is told by some of its flows. The others are counted. */
#define ALIKE_PER_SECOND 32

static __always_inline bool one_of_many(struct __sk_buff *skb, const struct flow *flow, const struct packet *packet)
{
	struct repeat_key key = {.kind = EVENT_PAYLOAD, .port = flow->ends.remote_port, .tgid = flow->tgid};
	struct repeat *seen, fresh = {.reported = bpf_ktime_get_boot_ns()};

	if (packet->length < 4 || bpf_skb_load_bytes(skb, packet->payload, &key.more, 4))
		return false;
	key.start = flow->start;
	key.cgroup_id = flow->cgroup_id;
	__builtin_memcpy(key.what, flow->ends.remote, sizeof(key.what));
	seen = bpf_map_lookup_elem(&repeats, &key);
	if (!seen || fresh.reported - seen->reported >= COLLAPSE_NS) {
		bpf_map_update_elem(&repeats, &key, &fresh, BPF_ANY);
		return false;
	}
	if (__sync_fetch_and_add(&seen->since, 1) < ALIKE_PER_SECOND)
		return false;
	count(EVENT_PAYLOAD, COUNT_COLLAPSED);
	return true;
}

static __always_inline void hand_up(struct __sk_buff *skb, struct flow *flow, const struct packet *packet,
                                    enum direction way, __u32 stream_offset)
{
	__u32 length = packet->length;
	struct scratch *scratch = scratch_take(EVENT_PAYLOAD);

	if (!scratch)
		return;
	fill_owner(scratch, flow, EVENT_PAYLOAD, sizeof(struct payload_event));
	scratch->payload.ends = flow->ends;
	scratch->payload.offset = stream_offset;
	scratch->payload.inbound = way;
	if (length > CHUNK_BYTES)
		length = CHUNK_BYTES;
	if (length == 0 ||
	    bpf_skb_load_bytes(skb, packet->payload, scratch->bytes + sizeof(struct payload_event), length))
		length = 0;
	scratch->payload.length = length;
	scratch->end += length;
	send(scratch, URGENT);
}

static __always_inline void look_stream(struct __sk_buff *skb, struct flow *flow, enum direction way)
{
	struct packet packet = {};
	__u32 offset;

	if (!parse(skb, way, &packet))
		return;
	if (packet.syn)
		flow->base[way] = packet.sequence + 1;
	if (!packet.length)
		return;
	offset = packet.syn ? 0 : packet.sequence - flow->base[way];
	if (offset >= 1U << 31)
		return; /* before the first byte: a keep-alive */
	if (offset >= STREAM_BYTES || flow->records[way] >= STREAM_SEGMENTS) {
		flow->silent |= 1 << way;
		return;
	}
	if (way == OUTBOUND && !flow->records[way] && one_of_many(skb, flow, &packet)) {
		flow->silent = 3;
		return;
	}
	flow->records[way]++;
	hand_up(skb, flow, &packet, way, offset);
}

/* Remember who spoke to whom without having been asked: see fill_prompt. */
static __always_inline void listen(struct flow *flow, enum direction way, __u64 now)
{
	struct heard_key key = {.start = flow->start, .who = flow->tgid};
	struct heard heard = {};

	if (way == OUTBOUND) {
		flow->said = now;
		return;
	}
	if (now - flow->said < ANSWER_NS)
		return;
	heard.time = bpf_ktime_get_boot_ns();
	heard.port = flow->ends.remote_port;
	heard.family = flow->ends.family;
	__builtin_memcpy(heard.remote, flow->ends.remote, sizeof(heard.remote));
	bpf_map_update_elem(&unasked, &key, &heard, BPF_ANY);
	key.start = 0;
	key.who = flow->cgroup_id;
	bpf_map_update_elem(&unasked, &key, &heard, BPF_ANY);
}

/* What a connection carries, where it may be an end of a relay. */
static __always_inline void follow(struct __sk_buff *skb, struct flow *flow, enum direction way)
{
	struct packet packet = {};
	__u64 now;

	if (!flow->relay_flags && (++flow->seen & 15) == 4)
		watch(flow, bpf_ktime_get_coarse_ns(), false);
	if (!(flow->relay_flags & (RELAY_OUTER | RELAY_INNER)))
		return;
	if (!parse(skb, way, &packet) || !packet.length)
		return;
	now = bpf_ktime_get_coarse_ns();
	if (flow->relay_flags & RELAY_OUTER) {
		listen(flow, way, now);
		follow_outer(skb, flow, &packet, way, now);
	}
	if (flow->relay_flags & RELAY_INNER)
		follow_inner(skb, flow, &packet, way, now);
}

static __always_inline struct flow *new_datagrams(struct __sk_buff *skb, const struct datagram_key *key,
                                                  const struct packet *packet)
{
	struct ledger *ledger = ledger_of(TABLE_DATAGRAMS);
	struct flow fresh = {};

	begin(skb, &fresh, packet);
	if (ledger && !bpf_map_update_elem(&datagrams, key, &fresh, BPF_NOEXIST))
		__sync_fetch_and_add(&ledger->added, 1);
	return bpf_map_lookup_elem(&datagrams, key);
}

/* Whether somebody who lives under limits sends as if it were one of the DNS servers that say what it may reach. */
static __always_inline bool is_forged(struct __sk_buff *skb)
{
	__u64 cgroup_id = bpf_skb_cgroup_id(skb);
	struct held held = {};
	__u32 address[4];
	__u8 from[16];

	if (!policy_of(&held, cgroup_id, bpf_get_current_pid_tgid() >> 32))
		return false;
	load_address(skb, 12, 8, address);
	put_address((__u32 *)from, address, skb->protocol == bpf_htons(0x0800) ? AF_INET : AF_INET6);
	return bpf_map_lookup_elem(&resolvers, from);
}

static __always_inline int look_datagram(struct __sk_buff *skb, struct bpf_sock *sock, enum direction way)
{
	struct datagram_key key = {};
	struct packet packet = {};
	struct flow *flow;

	if (!parse(skb, way, &packet))
		return ALLOW;
	if (way == OUTBOUND && packet.local_port == DNS_PORT && is_forged(skb))
		return DENY;
	key.cookie = bpf_get_socket_cookie(skb);
	load_address(skb, way == OUTBOUND ? 16 : 12, way == OUTBOUND ? 24 : 8, key.remote);
	key.port = packet.remote_port;
	key.protocol = packet.protocol;
	flow = bpf_map_lookup_elem(&datagrams, &key);
	if (!flow) {
		if (way == INBOUND)
			return ALLOW; /* somebody else began to talk to us */
		flow = new_datagrams(skb, &key, &packet);
		if (!flow)
			return ALLOW;
	}
	if (flow->denied)
		return DENY;
	if (way == INBOUND && packet.remote_port == DNS_PORT && !bpf_sk_storage_get(&made_apart, sock, NULL, 0))
		heed_answer(skb, flow, packet.payload);
	flow->said = bpf_ktime_get_coarse_ns();
	add(flow, skb, way);
	if (flow->records[way] >= DATAGRAMS && packet.remote_port != DNS_PORT)
		return ALLOW;
	flow->records[way]++;
	hand_up(skb, flow, &packet, way, 0);
	return ALLOW;
}

/* What we did not see opened is watched once it is no short exchange: of those there are most, and the kernel's own
 * counts say enough when they end (end_short). */
#define SHORT_SEGMENTS 32
#define SHORT_SURELY 256 /* what has more at first sight is older than we are */
#define HEADERS 52       /* of a segment with its usual option, timestamps; IPv6 has 20 more */

static __always_inline void add_past(struct flow *flow, const struct bpf_tcp_sock *tcp, __u32 current)
{
	__u32 headers = flow->ends.family == AF_INET ? HEADERS : HEADERS + 20;

	if (tcp->segs_in + tcp->segs_out >= SHORT_SURELY)
		return;
	flow->totals.packets[INBOUND] = tcp->segs_in;
	flow->totals.packets[OUTBOUND] = tcp->segs_out - current;
	flow->totals.bytes[INBOUND] = tcp->bytes_received + tcp->segs_in * headers;
	flow->totals.bytes[OUTBOUND] =
		tcp->bytes_acked + (tcp->snd_nxt - tcp->snd_una) + (tcp->segs_out - current) * headers;
}

/* `flow`: what on_state has noted of it, if anything. */
static __always_inline struct flow *new_stream(struct __sk_buff *skb, struct bpf_sock *sock, struct flow *flow,
                                               enum direction way)
{
	bool is_noted = flow != NULL;
	struct bpf_tcp_sock *tcp = NULL;
	struct packet packet = {};

	if (way == INBOUND)
		return NULL;
	if (sock->state != TCP_SYN_SENT && !is_noted) {
		if (sock->state != TCP_ESTABLISHED && sock->state != TCP_CLOSE_WAIT)
			return NULL; /* a listener, or told already */
		tcp = bpf_tcp_sock(sock);
		if (!tcp || tcp->segs_in + tcp->segs_out < SHORT_SEGMENTS)
			return NULL;
	}
	if (!parse(skb, way, &packet))
		return NULL;
	flow = bpf_sk_storage_get(&streams, sock, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!flow)
		return NULL;
	begin(skb, flow, &packet);
	if (tcp) {
		add_past(flow, tcp, skb->gso_segs ? skb->gso_segs : 1);
		/* When it was accepted its cgroup held no connection to another host, or on_state had noted it. */
		if (flow->accepted && tcp->segs_in + tcp->segs_out < SHORT_SURELY)
			flow->relay_flags = RELAY_NONE;
	}
	if (!flow->accepted && !is_own(&flow->ends))
		flow->relay_flags = RELAY_OUTER;
	if (!(flow->relay_flags & RELAY_NONE))
		watch(flow, flow->reported, !flow->accepted);
	if (flow->relay_flags & RELAY_OUTER)
		hold(flow, 0);
	return flow;
}

static __always_inline bool is_plain_udp(const struct bpf_sock *sock)
{
	return sock->protocol == IPPROTO_UDP && sock->type != SOCK_RAW;
}

static __always_inline int look(struct __sk_buff *skb, enum direction way)
{
	struct bpf_sock *sock = skb->sk;
	struct flow *flow;

	if (!sock)
		return ALLOW;
	sock = bpf_sk_fullsock(sock);
	if (!sock)
		return ALLOW;
	if (sock->type == SOCK_RAW || sock->protocol != IPPROTO_TCP) {
		if (is_plain_udp(sock) || bpf_sk_storage_get(&made_apart, sock, NULL, 0))
			return look_datagram(skb, sock, way);
		return ALLOW;
	}
	flow = bpf_sk_storage_get(&streams, sock, NULL, 0);
	if (!flow || !flow->ends.cookie) {
		flow = new_stream(skb, sock, flow, way);
		if (!flow)
			return ALLOW;
	}
	if (flow->denied)
		return DENY;
	if (!flow->tgid && way == OUTBOUND)
		name_owner(flow, false); /* its first packet left while another ran: an acknowledgement does */
	add(flow, skb, way);
	follow(skb, flow, way);
	if (!(flow->silent & 1 << way))
		look_stream(skb, flow, way);
	return ALLOW;
}

/* Whether the packet's cgroup is cut off and may not send it: what was open before is, too. */
static __always_inline bool is_cut_off(struct __sk_buff *skb)
{
	const struct brakes *set = the_brakes();
	struct flow_ends ends = {};
	struct packet packet = {};
	struct policy *policy;
	__u64 cgroup_id;

	if (!set || !set->isolated)
		return false;
	cgroup_id = bpf_skb_cgroup_id(skb);
	policy = bpf_map_lookup_elem(&policies, &cgroup_id);
	if (!policy || !(policy->state & STATE_ISOLATED))
		return false;
	if (!parse(skb, OUTBOUND, &packet))
		return true;
	fill_ends(skb, &ends, &packet, OUTBOUND);
	return !may_reach(ISOLATION, (__u32 *)ends.remote, ends.family, ends.remote_port);
}

static __always_inline bool is_network_of_a_user(void)
{
	return BPF_CORE_READ(bpf_get_current_task_btf(), nsproxy, net_ns, user_ns, level) > 0;
}

SEC("cgroup/sock_create")
int on_socket(struct bpf_sock *sock)
{
	bool is_datagram = is_plain_udp(sock);

	if (sock->type != SOCK_RAW && sock->protocol == IPPROTO_TCP)
		return ALLOW;
	if (is_datagram && !is_network_of_a_user())
		return ALLOW;
	/* What could not be told apart later may not be. */
	return bpf_sk_storage_get(&made_apart, sock, NULL, BPF_SK_STORAGE_GET_F_CREATE) ? ALLOW : DENY;
}

/* The last descriptor of a socket is closed (net/ipv4/af_inet.c, inet_release). Only of a connected one is known with
 * whom it talked; what others sent has ended once it is silent, see sweep.bpf.c. */
SEC("cgroup/sock_release")
int on_release(struct bpf_sock *sock)
{
	struct datagram_key key = {.protocol = IPPROTO_UDP};
	struct ledger *ledger;
	struct flow *flow;

	if (!is_plain_udp(sock) || sock->state != TCP_ESTABLISHED)
		return ALLOW;
	key.cookie = bpf_get_socket_cookie(sock);
	key.port = bpf_ntohs(sock->dst_port);
	key.remote[0] = sock->dst_ip4;
	if (sock->family == AF_INET6) {
		key.remote[0] = sock->dst_ip6[0];
		key.remote[1] = sock->dst_ip6[1];
		key.remote[2] = sock->dst_ip6[2];
		key.remote[3] = sock->dst_ip6[3];
		plain_family(key.remote, AF_INET6);
	}
	flow = bpf_map_lookup_elem(&datagrams, &key);
	if (!flow)
		return ALLOW;
	settle(flow, CLOSED);
	ledger = ledger_of(TABLE_DATAGRAMS);
	if (ledger && !bpf_map_delete_elem(&datagrams, &key))
		__sync_fetch_and_add(&ledger->removed, 1);
	return ALLOW;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	if (is_cut_off(skb))
		return DENY;
	return look(skb, OUTBOUND);
}

SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	return look(skb, INBOUND);
}

static __always_inline void fill_socket_ends(struct flow_ends *ends, struct sock *sock)
{
	struct sock_common *common = &sock->__sk_common;
	__u32 *remote = (__u32 *)ends->remote, *local = (__u32 *)ends->local;

	ends->cookie = bpf_get_socket_cookie(sock);
	ends->remote_port = bpf_ntohs(common->skc_dport);
	ends->local_port = common->skc_num;
	ends->protocol = IPPROTO_TCP;
	ends->family = common->skc_family;
	if (ends->family == AF_INET) {
		remote[0] = common->skc_daddr;
		local[0] = common->skc_rcv_saddr;
		return;
	}
	for (int i = 0; i < 4; i++) {
		remote[i] = common->skc_v6_daddr.in6_u.u6_addr32[i];
		local[i] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
	}
	ends->family = plain_family(remote, ends->family);
	plain_family(local, AF_INET6);
}

/* A short connection that we did not see opened is shut from one side or both. Who closes it holds it: in tcp_close()
 * current is the one (net/ipv4/tcp.c). Where something is still to come it is watched from here on. */
static __always_inline void end_short(struct sock *sock, int after)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sock);
	struct flow flow = {.silent = 3};
	__u32 headers;

	if (!tcp || !bpf_core_field_exists(sock->sk_cgrp_data.cgroup))
		return;
	/* a copy of its listener, backlog included (net/core/sock.c, sk_clone_lock); else it is older than we are */
	flow.accepted = sock->sk_max_ack_backlog != 0;
	fill_socket_ends(&flow.ends, sock);
	flow.cgroup_id = sock->sk_cgrp_data.cgroup->kn->id;
	if (task->mm && flow.cgroup_id == bpf_get_current_cgroup_id()) {
		flow.start = task->group_leader->start_boottime;
		flow.tgid = task->tgid;
		flow.uid = bpf_get_current_uid_gid();
	}
	headers = tcp->tcp_header_len + (sock->__sk_common.skc_family == AF_INET ? 20 : 40);
	flow.totals.packets[INBOUND] = tcp->segs_in;
	flow.totals.packets[OUTBOUND] = tcp->segs_out;
	flow.totals.bytes[INBOUND] = tcp->bytes_received + tcp->segs_in * headers;
	flow.totals.bytes[OUTBOUND] = tcp->bytes_sent + tcp->segs_out * headers;
	if (after == TCP_CLOSE || (sock->sk_shutdown == SHUTDOWN_BOTH && tcp->write_seq == tcp->snd_nxt)) {
		settle(&flow, CLOSED);
		return;
	}
	flow.reported = bpf_ktime_get_ns();
	bpf_sk_storage_get(&streams, sock, &flow, BPF_SK_STORAGE_GET_F_CREATE);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sock, int before, int after)
{
	struct flow *flow;

	/* Where it may be an end of a relay it matters when it was accepted. */
	if (before == TCP_SYN_RECV && after == TCP_ESTABLISHED && may_relay(sock->sk_cgrp_data.cgroup->kn->id)) {
		flow = bpf_sk_storage_get(&streams, sock, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (flow) {
			flow->accepted = true;
			flow->began = bpf_ktime_get_boot_ns();
		}
	}
	if (after != TCP_CLOSE && after != TCP_FIN_WAIT1 && after != TCP_LAST_ACK)
		return 0;
	flow = bpf_sk_storage_get(&streams, sock, NULL, 0);
	if (flow && !flow->ends.cookie)
		flow = NULL; /* it was accepted and has sent nothing yet */
	if (flow && after == TCP_CLOSE)
		settle(flow, before == TCP_SYN_SENT ? CLOSED_REFUSED : CLOSED);
	if (!flow && (before == TCP_ESTABLISHED || before == TCP_CLOSE_WAIT) && sock->sk_protocol == IPPROTO_TCP)
		end_short(sock, after);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
