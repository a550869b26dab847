/* SPDX-License-Identifier: GPL-2.0 */
/* Cgroups that come, go and are moved into (kernel/cgroup/cgroup.c, include/trace/events/cgroup.h). */
#include "common.bpf.h"

static __always_inline void report(struct cgroup *cgroup, const char *path, struct task_struct *moved, __u16 kind)
{
	struct scratch *scratch;
	long length;

	if (BPF_CORE_READ(cgroup, root, hierarchy_id) != 0)
		return; /* a version 1 hierarchy; version 2 is always 0 */
	scratch = scratch_take(kind);
	if (!scratch)
		return;
	fill_header(scratch, bpf_get_current_task_btf(), kind, sizeof(struct cgroup_event));
	scratch->cgroup.subject = BPF_CORE_READ(cgroup, kn, id);
	scratch->cgroup.moved_tgid = moved ? BPF_CORE_READ(moved, tgid) : 0;
	scratch->cgroup.moved_start = moved ? BPF_CORE_READ(moved, group_leader, start_boottime) : 0;
	length = bpf_probe_read_kernel_str(scratch->bytes + sizeof(struct cgroup_event), PATH_BYTES, path);
	if (length < 0)
		length = 0;
	if (length == PATH_BYTES)
		scratch->header.flags |= FLAG_TRUNCATED;
	scratch->cgroup.path_length = length;
	scratch->end += length;
	send(scratch, HOUSEKEEPING);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup_made, struct cgroup *cgroup, const char *path)
{
	report(cgroup, path, NULL, EVENT_CGROUP_MADE);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_cgroup_removed, struct cgroup *cgroup, const char *path)
{
	report(cgroup, path, NULL, EVENT_CGROUP_REMOVED);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_cgroup_moved, struct cgroup *cgroup, const char *path, struct task_struct *task)
{
	report(cgroup, path, task, EVENT_CGROUP_MOVED);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
