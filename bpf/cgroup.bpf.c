/* SPDX-License-Identifier: GPL-2.0 */
/* Cgroups that come, go and are moved into (kernel/cgroup/cgroup.c, include/trace/events/cgroup.h), and the policy
 * that goes with them. */
#include "policy.bpf.h"

static __always_inline bool is_version_2(struct cgroup *cgroup)
{
	return BPF_CORE_READ(cgroup, root, hierarchy_id) == 0;
}

static __always_inline void report(struct cgroup *cgroup, const char *path, struct task_struct *moved, __u16 kind,
                                   __u32 left)
{
	const struct brakes *set = the_brakes();
	struct scratch *scratch = scratch_take(kind);
	long length;

	if (!scratch)
		return;
	fill_header(scratch, bpf_get_current_task_btf(), kind, sizeof(struct cgroup_event));
	scratch->cgroup.subject = BPF_CORE_READ(cgroup, kn, id);
	scratch->cgroup.moved_tgid = moved ? BPF_CORE_READ(moved, tgid) : 0;
	scratch->cgroup.moved_start = moved ? BPF_CORE_READ(moved, group_leader, start_boottime) : 0;
	scratch->cgroup.agent = left;
	if (left)
		scratch->header.flags |= FLAG_LEFT;
	length = bpf_probe_read_kernel_str(scratch->bytes + sizeof(struct cgroup_event), PATH_BYTES, path);
	if (length < 0)
		length = 0;
	if (length == PATH_BYTES)
		scratch->header.flags |= FLAG_TRUNCATED;
	scratch->cgroup.path_length = length;
	scratch->end += length;
	/* A new cgroup may be an agent's: its limits are wanted before anything is in it. */
	send(scratch, left || (kind == EVENT_CGROUP_MADE && set && set->policies) ? URGENT : HOUSEKEEPING);
}

/* The trace point comes before the directory can be opened, so nothing runs in it yet. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup_made, struct cgroup *cgroup, const char *path)
{
	const struct brakes *set = the_brakes();
	struct cgroup_subsys_state *above;
	__u64 parent, made;
	struct policy *policy;

	if (!is_version_2(cgroup))
		return 0;
	if (set && set->policies) {
		above = BPF_CORE_READ(cgroup, self.parent);
		parent = BPF_CORE_READ(above, cgroup, kn, id);
		made = BPF_CORE_READ(cgroup, kn, id);
		policy = bpf_map_lookup_elem(&policies, &parent);
		if (policy && bpf_map_update_elem(&policies, &made, policy, BPF_ANY))
			count(EVENT_CGROUP_MADE, COUNT_LOST_POLICY);
	}
	report(cgroup, path, NULL, EVENT_CGROUP_MADE, 0);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_cgroup_removed, struct cgroup *cgroup, const char *path)
{
	__u64 id;

	if (!is_version_2(cgroup))
		return 0;
	id = BPF_CORE_READ(cgroup, kn, id);
	bpf_map_delete_elem(&policies, &id);
	report(cgroup, path, NULL, EVENT_CGROUP_REMOVED, 0);
	return 0;
}

/* Which agent's policy a moved process takes with it out of that agent's cgroups; 0: none. */
static __always_inline __u32 left_by(struct task_struct *task, __u64 into)
{
	const struct brakes *set = the_brakes();
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct policy *born, *place;

	if (!set || !set->policies)
		return 0;
	born = bpf_map_lookup_elem(&bound, &tgid);
	place = bpf_map_lookup_elem(&policies, &into);
	if (!born && place)
		bind_process(tgid, place);
	if (!born || (place && place->agent == born->agent))
		return 0;
	return born->agent;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_cgroup_moved, struct cgroup *cgroup, const char *path, struct task_struct *task)
{
	if (is_version_2(cgroup))
		report(cgroup, path, task, EVENT_CGROUP_MOVED, left_by(task, BPF_CORE_READ(cgroup, kn, id)));
	return 0;
}

/* A child is under its parent's policies, wherever clone3(2) puts it. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	const struct brakes *set = the_brakes();
	__u64 cgroup_id = bpf_get_current_cgroup_id();
	struct policy own = {}, *policy;
	__u32 tgid;

	if (!set || !set->policies || BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid))
		return 0;
	tgid = BPF_CORE_READ(parent, tgid);
	policy = bpf_map_lookup_elem(&bound, &tgid);
	if (policy)
		own = *policy;
	policy = bpf_map_lookup_elem(&policies, &cgroup_id);
	if (policy && !own.agent)
		own.agent = policy->agent;
	if (policy && !own.state)
		own.state = policy->state;
	tgid = BPF_CORE_READ(child, tgid);
	if (own.agent || own.state)
		bind_process(tgid, &own);
	else if (bpf_map_lookup_elem(&bound, &tgid))
		bpf_map_delete_elem(&bound, &tgid); /* of a process that had this id before */
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
