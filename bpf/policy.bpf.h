/* SPDX-License-Identifier: GPL-2.0 */
/* What an agent's processes may do. Every hook asks here, so a limit holds before anything has left or run, for
 * children too, and whether or not a reader listens. A process is held by its cgroup's policy and by that of the
 * cgroup it began in: moving it sheds nothing. */
#ifndef HOSTBRAKE_POLICY_BPF_H
#define HOSTBRAKE_POLICY_BPF_H

#include "common.bpf.h"

#define EACH_BYTE(byte) ((byte)*0x0101010101010101ULL)

/* Numbers with a meaning of their own where an agent's number stands. */
#define EVERYBODY 0          /* programs: rules that hold for every process in scope */
#define ISOLATION 0xffffffff /* egress: what those who are cut off may still reach */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); /* cgroup id */
	__type(value, struct policy);
} policies SEC(".maps") __weak;

/* The processes that live under a policy, by thread group id: their exit takes them out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct policy);
} bound SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);   /* agent */
	__type(value, __u32); /* enum limit */
} limits SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egress_key);
	__type(value, __u32);
} egress SEC(".maps") __weak;

/* Addresses that answers gave for names which the agent may reach. */
struct resolved_key {
	__u32 agent;
	__u32 port; /* 0: any */
	__u8 address[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct resolved_key);
	__type(value, __u64); /* until when, CLOCK_BOOTTIME, ns */
} resolved SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct program_key);
	__type(value, struct program_node);
} named SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct brakes);
} brakes SEC(".maps") __weak;

/* Upper case becomes lower, in eight bytes at once; others than ASCII stay. */
static __always_inline __u64 folded(__u64 word)
{
	__u64 low = word & EACH_BYTE(0x7f);
	__u64 from_a = low + EACH_BYTE(0x80 - 'A'), past_z = low + EACH_BYTE(0x80 - 'Z' - 1);

	return word | ((from_a & ~past_z & ~word & EACH_BYTE(0x80)) >> 2);
}

static __always_inline const struct brakes *the_brakes(void)
{
	__u32 entry = 0;

	return bpf_map_lookup_elem(&brakes, &entry);
}

/* The policies that hold for a process in a cgroup; either may be none (agent 0). */
struct held {
	struct policy place; /* by the cgroup it is in */
	struct policy born;  /* by those which it came from, where they are another agent's or cut off */
};

static __always_inline bool policy_of(struct held *held, __u64 cgroup_id, __u32 tgid)
{
	const struct brakes *set = the_brakes();
	struct policy *found;

	if (!set || !set->policies)
		return false;
	found = bpf_map_lookup_elem(&policies, &cgroup_id);
	if (found)
		held->place = *found;
	found = bpf_map_lookup_elem(&bound, &tgid);
	if (found && (found->agent != held->place.agent || found->state))
		held->born = *found;
	return held->place.agent || held->born.agent || held->place.state || held->born.state;
}

static __always_inline bool is_isolated(const struct held *held)
{
	return (held->place.state | held->born.state) & STATE_ISOLATED;
}

static __always_inline __u32 limits_of(__u32 agent)
{
	__u32 *found = agent ? bpf_map_lookup_elem(&limits, &agent) : NULL;

	return found ? *found : 0;
}

static __always_inline void bind_process(__u32 tgid, const struct policy *policy)
{
	if ((policy->agent || policy->state) && bpf_map_update_elem(&bound, &tgid, policy, BPF_ANY))
		count(EVENT_CGROUP_MOVED, COUNT_LOST_POLICY);
}

/* What a limit says of one deed. */
struct judgement {
	__u32 agent; /* whose limit it was */
	bool unwanted;
	bool denied; /* and it is enforced */
};

static __always_inline void against(struct judgement *judged, __u32 agent, bool enforced)
{
	if (judged->denied)
		return;
	judged->agent = agent;
	judged->unwanted = true;
	judged->denied = enforced;
}

/* As an egress_key has it: an IPv4 address in IPv6 clothes. */
static __always_inline void put_address(__u32 *to, const __u32 *address, __u16 family)
{
	if (family == AF_INET) {
		to[0] = to[1] = 0;
		to[2] = bpf_htonl(0xffff);
		to[3] = address[0];
		return;
	}
	to[0] = address[0];
	to[1] = address[1];
	to[2] = address[2];
	to[3] = address[3];
}

static __always_inline bool was_resolved(struct resolved_key *key, __u16 port)
{
	__u64 *until;

	key->port = port;
	until = bpf_map_lookup_elem(&resolved, key);
	return until && *until > bpf_ktime_get_boot_ns();
}

static __always_inline bool may_reach(__u32 agent, const __u32 *address, __u16 family, __u16 port)
{
	struct egress_key key = {.prefix = EGRESS_BITS, .agent = agent, .port = port};
	struct resolved_key name = {.agent = agent};

	put_address((__u32 *)key.address, address, family);
	if (bpf_map_lookup_elem(&egress, &key))
		return true;
	key.port = 0;
	if (bpf_map_lookup_elem(&egress, &key))
		return true;
	put_address((__u32 *)name.address, address, family);
	return was_resolved(&name, port) || was_resolved(&name, 0);
}

static __always_inline void judge_egress_of(struct judgement *judged, __u32 agent, const __u32 *address, __u16 family,
                                            __u16 port)
{
	__u32 flags = limits_of(agent);

	if ((flags & LIMIT_EGRESS) && !may_reach(agent, address, family, port))
		against(judged, agent, flags & LIMIT_ENFORCED);
}

static __always_inline struct judgement judge_egress(__u64 cgroup_id, __u32 tgid, const __u32 *address, __u16 family,
                                                     __u16 port)
{
	struct judgement judged = {};
	struct held held = {};

	if (!policy_of(&held, cgroup_id, tgid))
		return judged;
	if (is_isolated(&held) && !may_reach(ISOLATION, address, family, port))
		against(&judged, held.place.agent, true);
	judge_egress_of(&judged, held.place.agent, address, family, port);
	judge_egress_of(&judged, held.born.agent, address, family, port);
	return judged;
}

static __always_inline void judge_gpu_of(struct judgement *judged, __u32 agent)
{
	__u32 flags = limits_of(agent);

	if (flags & LIMIT_GPU)
		against(judged, agent, flags & LIMIT_ENFORCED);
}

static __always_inline struct judgement judge_gpu(__u64 cgroup_id, __u32 tgid)
{
	struct judgement judged = {};
	struct held held = {};

	if (!policy_of(&held, cgroup_id, tgid))
		return judged;
	if (is_isolated(&held))
		against(&judged, held.place.agent, true);
	judge_gpu_of(&judged, held.place.agent);
	judge_gpu_of(&judged, held.born.agent);
	return judged;
}

static __always_inline void fill_judgement(struct origin *origin, const struct judgement *judged)
{
	origin->agent = judged->agent;
	if (judged->denied)
		origin->header.flags |= FLAG_DENIED;
	else if (judged->unwanted)
		origin->header.flags |= FLAG_UNWANTED;
}

#endif
