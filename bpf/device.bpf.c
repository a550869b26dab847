/* SPDX-License-Identifier: GPL-2.0 */
/* Opens of GPU devices, told by device number: a path, link or node with another name changes nothing.
 * security/device_cgroup.c calls the hook for every open of a device node. */
#include "policy.bpf.h"

#define DENY 0
#define ALLOW 1
#define DEVICE_CHAR 2 /* BPF_DEVCG_DEV_CHAR */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u8);
} gpu_majors SEC(".maps");

SEC("cgroup/dev")
int on_device(struct bpf_cgroup_dev_ctx *ctx)
{
	struct repeat_key key = {.kind = EVENT_DEVICE};
	__u32 repeated, major = ctx->major;
	/* access_type: kind of device in the low half; mknod 1, read 2, write 4 in the high half */
	__u32 access = ctx->access_type >> 17;
	struct judgement judged;
	struct task_struct *task;
	struct scratch *scratch;

	if ((ctx->access_type & 0xffff) != DEVICE_CHAR || !access || !bpf_map_lookup_elem(&gpu_majors, &major))
		return ALLOW;
	fill_key(&key);
	judged = judge_gpu(key.cgroup_id, key.tgid);
	key.more = judged.unwanted << 2 | access;
	*(__u32 *)key.what = major;
	*(__u32 *)(key.what + 4) = ctx->minor;
	if (!first_or_due(&key, &repeated))
		return judged.denied ? DENY : ALLOW;
	scratch = scratch_take(EVENT_DEVICE);
	if (!scratch)
		return judged.denied ? DENY : ALLOW;
	task = bpf_get_current_task_btf();
	fill_header(scratch, task, EVENT_DEVICE, sizeof(struct device_event));
	fill_ancestors(&scratch->origin, task);
	scratch->origin.repeats = repeated;
	scratch->device.major = major;
	scratch->device.minor = ctx->minor;
	scratch->device.access = access;
	fill_judgement(&scratch->origin, &judged);
	scratch->origin.image_length = append_file(scratch, BPF_CORE_READ(task, mm, exe_file));
	send(scratch, URGENT);
	return judged.denied ? DENY : ALLOW;
}

char LICENSE[] SEC("license") = "GPL";
