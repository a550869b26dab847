/* SPDX-License-Identifier: GPL-2.0 */
/* The first words of each flow that begins here, and what it carries until it ends: cgroup_skb sees every packet of
 * every socket, however it was connected (kernel/bpf/cgroup.c, __cgroup_bpf_run_filter_skb). Once a flow's first
 * words are known a packet costs one look-up and two additions. */
#include "answers.bpf.h"

#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define ALLOW 1

#define STREAM_BYTES 4096   /* of each direction are handed up */
#define STREAM_SEGMENTS 160 /* in at most so many records: a handshake sent byte by byte is still seen whole */
#define DATAGRAMS 6         /* of each direction, to and from one remote address */
#define CHUNK_BYTES 4096
#define DNS_PORT 53
#define ANSWER_NS 500000000ULL /* what comes later than this after our own words is no answer to them */
#define BARE_BYTES 92          /* a packet no longer than this may be an acknowledgement alone */

/* Raw and ping sockets that a process made. The kernel's own, which answer ICMP, pass no sock_create hook. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} made_raw SEC(".maps");

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
} datagrams SEC(".maps");

/* What no hook saw connect (fast open, raw and ICMP sockets, MPTCP's own subflows) its first packet reports. */
static __always_inline void report_unless_known(const struct flow_ends *ends)
{
	struct repeat_key key = {.kind = EVENT_CONNECT, .port = ends->remote_port};
	struct repeat fresh = {.reported = bpf_ktime_get_boot_ns()};
	struct scratch *scratch;

	fill_key(&key);
	key.more = ends->protocol << 8 | ends->family;
	__builtin_memcpy(key.what, ends->remote, sizeof(key.what));
	if (bpf_map_lookup_elem(&repeats, &key))
		return;
	bpf_map_update_elem(&repeats, &key, &fresh, BPF_ANY);
	scratch = begin_connect(&key, 0);
	if (!scratch)
		return;
	__builtin_memcpy(scratch->connect.source, ends->local, sizeof(ends->local));
	scratch->connect.source_port = ends->local_port;
	send(scratch, URGENT);
}

/* The first packet of a connection or datagram leaves while its sender runs; so current is the one. A connection
 * that is older than we are, or that somebody else opened, is only counted. */
static __always_inline void begin(struct __sk_buff *skb, struct flow *flow, const struct packet *packet)
{
	struct task_struct *task = bpf_get_current_task_btf();
	bool begins = packet->protocol != IPPROTO_TCP || (packet->syn && !packet->ack);

	fill_ends(skb, &flow->ends, packet, OUTBOUND);
	flow->began = bpf_ktime_get_boot_ns();
	flow->reported = bpf_ktime_get_coarse_ns();
	flow->said = flow->reported;
	flow->cgroup_id = bpf_skb_cgroup_id(skb);
	if (!begins)
		flow->silent = 3;
	if (!BPF_CORE_READ(task, mm) || !(begins || flow->cgroup_id == bpf_get_current_cgroup_id()))
		return;
	flow->start = BPF_CORE_READ(task, group_leader, start_boottime);
	flow->tgid = BPF_CORE_READ(task, tgid);
	flow->uid = bpf_get_current_uid_gid();
	if (begins)
		report_unless_known(&flow->ends);
}

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
static __always_inline void listen(struct __sk_buff *skb, struct flow *flow, enum direction way)
{
	struct heard_key key = {.start = flow->start, .who = flow->tgid};
	__u64 now = bpf_ktime_get_coarse_ns();
	struct packet packet = {};
	struct heard heard = {};

	if (way == INBOUND && now - flow->said < ANSWER_NS)
		return;
	if (skb->len <= BARE_BYTES && (!parse(skb, way, &packet) || !packet.length))
		return;
	if (way == OUTBOUND) {
		flow->said = now;
		return;
	}
	heard.time = bpf_ktime_get_boot_ns();
	heard.port = flow->ends.remote_port;
	heard.family = flow->ends.family;
	__builtin_memcpy(heard.remote, flow->ends.remote, sizeof(heard.remote));
	bpf_map_update_elem(&unasked, &key, &heard, BPF_ANY);
	key.start = 0;
	key.who = flow->cgroup_id;
	bpf_map_update_elem(&unasked, &key, &heard, BPF_ANY);
}

static __always_inline bool is_loopback(const struct flow_ends *ends)
{
	const __u32 *remote = (const __u32 *)ends->remote;

	if (ends->family == AF_INET)
		return ends->remote[0] == 127;
	return !remote[0] && !remote[1] && !remote[2] && remote[3] == bpf_htonl(1);
}

static __always_inline void look_datagram(struct __sk_buff *skb, enum direction way)
{
	struct datagram_key key = {};
	struct flow *flow, fresh = {};
	struct packet packet = {};

	if (!parse(skb, way, &packet))
		return;
	key.cookie = bpf_get_socket_cookie(skb);
	load_address(skb, way == OUTBOUND ? 16 : 12, way == OUTBOUND ? 24 : 8, key.remote);
	key.port = packet.remote_port;
	key.protocol = packet.protocol;
	flow = bpf_map_lookup_elem(&datagrams, &key);
	if (!flow) {
		if (way == INBOUND)
			return; /* somebody else began to talk to us */
		begin(skb, &fresh, &packet);
		bpf_map_update_elem(&datagrams, &key, &fresh, BPF_ANY);
		flow = bpf_map_lookup_elem(&datagrams, &key);
		if (!flow)
			return;
	}
	if (way == INBOUND && packet.remote_port == DNS_PORT)
		heed_answer(skb, flow, packet.payload);
	add(flow, skb, way);
	if (flow->records[way] >= DATAGRAMS && packet.remote_port != DNS_PORT)
		return;
	flow->records[way]++;
	hand_up(skb, flow, &packet, way, 0);
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
	if (sock->protocol != IPPROTO_TCP) {
		if (sock->protocol == IPPROTO_UDP || bpf_sk_storage_get(&made_raw, sock, NULL, 0))
			look_datagram(skb, way);
		return ALLOW;
	}
	flow = bpf_sk_storage_get(&streams, sock, NULL, 0);
	if (!flow) {
		struct packet packet = {};

		if (way == INBOUND || !parse(skb, way, &packet))
			return ALLOW;
		flow = bpf_sk_storage_get(&streams, sock, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!flow)
			return ALLOW;
		begin(skb, flow, &packet);
	}
	add(flow, skb, way);
	if (!is_loopback(&flow->ends))
		listen(skb, flow, way);
	if (!(flow->silent & 1 << way))
		look_stream(skb, flow, way);
	return ALLOW;
}

SEC("cgroup/sock_create")
int on_socket(struct bpf_sock *sock)
{
	if (sock->protocol != IPPROTO_TCP && sock->protocol != IPPROTO_UDP)
		bpf_sk_storage_get(&made_raw, sock, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	return ALLOW;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	return look(skb, OUTBOUND);
}

SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	return look(skb, INBOUND);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sock, int before, int after)
{
	struct flow *flow;

	if (after != TCP_CLOSE)
		return 0;
	flow = bpf_sk_storage_get(&streams, sock, NULL, 0);
	if (flow)
		settle(flow, before == TCP_SYN_SENT ? CLOSED_REFUSED : CLOSED);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
