/* SPDX-License-Identifier: GPL-2.0 */
/* Whose a flow is, who opened it, and whether it may be: told by its first packet. */
#ifndef HOSTBRAKE_BEGIN_BPF_H
#define HOSTBRAKE_BEGIN_BPF_H

#include "flow.bpf.h"
#include "policy.bpf.h"

/* What no hook saw connect (fast open, raw and ICMP sockets, MPTCP's own subflows) its first packet reports. */
static __always_inline void report_unless_known(const struct flow *flow, const struct judgement *judged)
{
	const struct flow_ends *ends = &flow->ends;
	struct repeat_key key = {.kind = EVENT_CONNECT, .port = ends->remote_port};
	struct repeat fresh = {.reported = flow->began};
	struct scratch *scratch;

	fill_key(&key);
	key.more = connect_more(ends->protocol, ends->family, judged);
	__builtin_memcpy(key.what, ends->remote, sizeof(key.what));
	if (bpf_map_lookup_elem(&repeats, &key))
		return;
	bpf_map_update_elem(&repeats, &key, &fresh, BPF_ANY);
	scratch = begin_connect(&key, 0);
	if (!scratch)
		return;
	fill_judgement(&scratch->origin, judged);
	__builtin_memcpy(scratch->connect.source, ends->local, sizeof(ends->local));
	scratch->connect.source_port = ends->local_port;
	send(scratch, URGENT);
}

/* Whether somebody else opened a connection that is older than we are: then a listener has its port. */
static __always_inline bool was_accepted(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = sizeof(tuple.ipv4);
	struct bpf_sock *sock;

	if (skb->protocol == bpf_htons(0x0800)) {
		bpf_skb_load_bytes(skb, 12, &tuple.ipv4.daddr, 4);
		tuple.ipv4.dport = bpf_htons(packet->local_port);
	} else {
		size = sizeof(tuple.ipv6);
		bpf_skb_load_bytes(skb, 8, tuple.ipv6.daddr, 16);
		tuple.ipv6.dport = bpf_htons(packet->local_port);
	}
	sock = bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0); /* from nobody: finds a listener alone */
	if (!sock)
		return false;
	bpf_sk_release(sock);
	return true;
}

/* `surely`: whoever runs now sends it, whatever its cgroup is. */
static __always_inline void name_owner(struct flow *flow, bool surely)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (!task->mm || !(surely || flow->cgroup_id == bpf_get_current_cgroup_id()))
		return;
	flow->start = task->group_leader->start_boottime;
	flow->tgid = task->tgid;
	flow->uid = bpf_get_current_uid_gid();
}

/* The first packet of a connection or datagram leaves while its sender runs; so current is the one. A connection
 * that is older than we are, or that somebody else opened, is only counted. */
static __always_inline void begin(struct __sk_buff *skb, struct flow *flow, const struct packet *packet)
{
	bool begins = packet->protocol != IPPROTO_TCP || (packet->syn && !packet->ack);
	struct judgement judged;

	fill_ends(skb, &flow->ends, packet, OUTBOUND);
	if (!flow->began)
		flow->began = bpf_ktime_get_boot_ns();
	flow->reported = bpf_ktime_get_coarse_ns();
	flow->said = flow->reported;
	flow->cgroup_id = bpf_skb_cgroup_id(skb);
	if (!begins) {
		flow->silent = 3;
		flow->accepted = flow->accepted || was_accepted(skb, packet);
	}
	name_owner(flow, begins);
	if (!begins || !flow->tgid)
		return;
	judged = judge_egress(flow->cgroup_id, flow->tgid, (__u32 *)flow->ends.remote, flow->ends.family,
	                      flow->ends.remote_port);
	flow->denied = judged.denied;
	report_unless_known(flow, &judged);
}

#endif
