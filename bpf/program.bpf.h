/* SPDX-License-Identifier: GPL-2.0 */
/* Which programs may run, by the path that the kernel resolved. */
#ifndef HOSTBRAKE_PROGRAM_BPF_H
#define HOSTBRAKE_PROGRAM_BPF_H

#include "policy.bpf.h"

#define SIGKILL 9
#define EACH_BYTE(byte) ((byte)*0x0101010101010101ULL)

/* What the rules for one agent, or for everybody, say of a program. */
struct sought {
	struct program_key key;
	__u32 allowed;
	__u32 denied;
};

/* Take the component at `offset` of the record as the name to look for. */
static __always_inline struct program_node *seek(struct scratch *scratch, struct sought *sought, __u32 offset)
{
	__u64 *words = (__u64 *)sought->key.name;

	__builtin_memset(sought->key.name, 0, sizeof(sought->key.name));
	if (offset > RECORD_BYTES - NAME_BYTES)
		return NULL;
	bpf_probe_read_kernel_str(sought->key.name, sizeof(sought->key.name), scratch->bytes + offset);
	if (sought->key.agent == EVERYBODY)
		for (__u32 i = 0; i < sizeof(sought->key.name) / 8; i++)
			words[i] = folded(words[i]);
	return bpf_map_lookup_elem(&named, &sought->key);
}

static __always_inline void heed(struct sought *sought, __u32 verdict)
{
	sought->allowed |= verdict & PROGRAM_ALLOWED;
	sought->denied |= verdict & PROGRAM_DENIED;
}

__noinline int ask_programs(struct scratch *scratch, struct sought *sought)
{
	struct program_node *node;
	__u32 count;

	if (!scratch || !sought)
		return 0;
	sought->key.state = PROGRAM_BY_NAME;
	node = seek(scratch, sought, sizeof(struct exec_event));
	if (node)
		heed(sought, node->here);
	if (scratch->header.flags & FLAG_TRUNCATED)
		return 0; /* what is left of the path may read as another one */
	sought->key.state = PROGRAM_ROOT;
	count = scratch->components;
	for (__u32 i = 0; i < PATH_COMPONENTS; i++) {
		__u32 at = count - 1 - i;

		if (i >= count || at >= PATH_COMPONENTS)
			break;
		node = seek(scratch, sought, scratch->component[at]);
		if (!node)
			break;
		heed(sought, at ? node->below : node->here);
		sought->key.state = node->next;
	}
	return 0;
}

static __always_inline void judge_program_of(struct judgement *judged, struct scratch *scratch, __u32 agent)
{
	struct sought sought = {.key.agent = agent};
	__u32 flags = limits_of(agent);

	if (!(flags & (LIMIT_PROGRAMS | LIMIT_PROGRAMS_ALONE)))
		return;
	ask_programs(scratch, &sought);
	if ((scratch->header.flags & FLAG_TRUNCATED) && !sought.allowed)
		sought.denied = 1; /* so deep that nothing tells where it is */
	if (sought.denied || ((flags & LIMIT_PROGRAMS_ALONE) && !sought.allowed))
		against(judged, agent, flags & LIMIT_ENFORCED);
}

static __always_inline void judge_for_everybody(struct judgement *judged, struct scratch *scratch,
                                                const struct brakes *set)
{
	struct sought sought = {.key.agent = EVERYBODY};

	if (!set->programs || bpf_get_current_ancestor_cgroup_id(set->scope_level) != set->scope)
		return;
	ask_programs(scratch, &sought);
	if (sought.denied)
		against(judged, EVERYBODY, true);
}

/* Whether the program whose path was appended last may run; to be asked before its first instruction. */
static __always_inline struct judgement judge_program(struct scratch *scratch)
{
	const struct brakes *set = the_brakes();
	struct judgement judged = {};
	struct held held = {};

	if (!set || !(set->policies || set->programs))
		return judged;
	judge_for_everybody(&judged, scratch, set);
	if (policy_of(&held, scratch->header.cgroup_id, scratch->header.tgid)) {
		judge_program_of(&judged, scratch, held.place.agent);
		judge_program_of(&judged, scratch, held.born.agent);
	}
	return judged;
}

#endif
