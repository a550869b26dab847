/* SPDX-License-Identifier: GPL-2.0 */
/* What every program family shares: the ring, the counters, scratch space, and who the current task is.
 * The maps are weak: each family declares them, the linker makes one of each. */
#ifndef HOSTBRAKE_COMMON_BPF_H
#define HOSTBRAKE_COMMON_BPF_H

#include <linux/bpf.h>

#include "kernel.h"
#include "wire.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define SCRATCH_PER_CPU 4
#define PATH_COMPONENTS 48
#define NAME_BYTES 256 /* NAME_MAX and the NUL */
#define COLLAPSE_NS 1000000000ULL
#define TURN_NS 8000000ULL /* how long an event may wait for the reader's next turn: TURN_S in sensor/daemon.py */

/* The largest record: three paths and argv; a component may overhang the limit by one name. */
#define RECORD_BYTES (sizeof(struct exec_event) + 3 * (PATH_BYTES + NAME_BYTES) + ARGS_BYTES)

struct scratch {
	__u32 busy;
	/* Where the record ends so far. Volatile: read anew at each step, the verifier sees any value and not the
	 * sum of what each turn of a loop may have added, which it would follow one by one. */
	volatile __u32 end;
	/* Where the components of the path that was appended last begin, the leaf first. */
	volatile __u16 component[PATH_COMPONENTS];
	volatile __u32 components;
	union {
		struct header header;
		struct origin origin;
		struct exec_event exec;
		struct connect_event connect;
		struct device_event device;
		struct cgroup_event cgroup;
		struct payload_event payload;
		struct flow_event flow;
		struct rounding_event rounding;
		struct relay_event relay;
		__u8 bytes[RECORD_BYTES + ARGS_BYTES];
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024); /* the loader makes it fit the number of CPUs */
} events SEC(".maps") __weak;

/* One entry with all counters, so that one look-up reads them all. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[EVENT_KINDS * COUNTERS]);
} counters SEC(".maps") __weak;

/* Not per CPU: a cgroup program can be preempted, and another may then run on the same CPU. Each CPU has a few
 * slots, taken by compare-and-swap. The loader sets max_entries to SCRATCH_PER_CPU times the possible CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SCRATCH_PER_CPU);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps") __weak;

/* One process doing the same thing again and again is one record a second. exec_id keeps a new program in the
 * same process apart from the old one, cgroup_id the same process after a move. */
struct repeat_key {
	__u64 start;
	__u64 cgroup_id;
	__u32 tgid;
	__u32 exec_id;
	__u8 what[16];
	__u32 more;
	__u16 port;
	__u16 kind;
};

struct repeat {
	__u64 reported;
	__u32 since;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct repeat_key);
	__type(value, struct repeat);
} repeats SEC(".maps") __weak;

/* When the reader was last woken, CLOCK_BOOTTIME. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} last_wake SEC(".maps") __weak;

static __always_inline void count_many(__u32 kind, __u32 counter, __u64 more)
{
	__u32 slot = kind * COUNTERS + counter, entry = 0;
	__u64 *values = bpf_map_lookup_elem(&counters, &entry);

	if (values && slot < EVENT_KINDS * COUNTERS)
		__sync_fetch_and_add(&values[slot], more); /* another program may preempt this one */
}

static __always_inline void count(__u32 kind, __u32 counter)
{
	count_many(kind, counter, 1);
}

static __always_inline struct scratch *scratch_take(__u32 kind)
{
	__u32 first = bpf_get_smp_processor_id() * SCRATCH_PER_CPU;

	for (__u32 i = 0; i < SCRATCH_PER_CPU; i++) {
		__u32 slot = first + i;
		struct scratch *scratch = bpf_map_lookup_elem(&scratches, &slot);

		if (scratch && __sync_val_compare_and_swap(&scratch->busy, 0, 1) == 0)
			return scratch;
	}
	count(kind, COUNT_LOST_SCRATCH);
	return NULL;
}

enum urgency {
	HOUSEKEEPING, /* only keeps the reader's tables: waits for the next record that wakes it */
	FAMILIAR,     /* may wait for the reader's next turn, if there was one just now */
	URGENT,       /* wakes the reader at once */
};

static __always_inline bool wake_now(enum urgency urgency, __u64 now)
{
	__u32 entry = 0;
	__u64 *last = bpf_map_lookup_elem(&last_wake, &entry);

	if (!last)
		return true;
	if (urgency == HOUSEKEEPING && bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < 1024 * 1024)
		return false;
	if (urgency == FAMILIAR && now - *last < TURN_NS)
		return false;
	*last = now;
	return true;
}

/* Send what the scratch buffer holds and free it. */
static __always_inline void send(struct scratch *scratch, enum urgency urgency)
{
	__u32 kind = scratch->header.kind, size = scratch->end;
	__u64 flags = wake_now(urgency, scratch->header.time) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;

	scratch->header.size = size;
	if (size > RECORD_BYTES)
		size = RECORD_BYTES;
	if (bpf_ringbuf_output(&events, scratch->bytes, size, flags))
		count(kind, COUNT_LOST_RING);
	else
		count(kind, COUNT_SENT);
	__sync_lock_test_and_set(&scratch->busy, 0);
}

/* `fixed` is the size of the record before its variable part. */
static __always_inline void fill_header(struct scratch *scratch, struct task_struct *task, __u16 kind, __u32 fixed)
{
	struct header *header = &scratch->header;

	scratch->end = fixed;
	header->time = bpf_ktime_get_boot_ns();
	header->start = BPF_CORE_READ(task, group_leader, start_boottime);
	header->cgroup_id = bpf_get_current_cgroup_id();
	header->tgid = BPF_CORE_READ(task, tgid);
	header->uid = bpf_get_current_uid_gid();
	header->kind = kind;
	header->flags = 0;
}

static __always_inline void fill_ancestors(struct origin *origin, struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	origin->agent = 0;
	for (int i = 0; i < ANCESTORS; i++) {
		struct task_struct *parent = BPF_CORE_READ(leader, real_parent, group_leader);
		__u32 tgid = BPF_CORE_READ(parent, tgid);

		if (parent == leader)
			tgid = 0; /* the idle task is its own parent */
		origin->ancestor_tgid[i] = tgid;
		origin->ancestor_start[i] = tgid ? BPF_CORE_READ(parent, start_boottime) : 0;
		leader = parent;
	}
}

static __always_inline void note_component(struct scratch *scratch, __u32 at)
{
	__u32 count = scratch->components;

	if (count >= PATH_COMPONENTS)
		return;
	scratch->component[count] = at;
	scratch->components = count + 1;
}

/* Append a path's components, leaf first; returns how many bytes. Walks to the root of the mount namespace, not
 * to the process's root: a program cannot give itself another name by chroot. Global, with addresses for pointers, so
 * that the verifier looks at it once and not at each call. */
__weak __noinline int append_path(struct scratch *scratch, __u64 dentry_address, __u64 vfs_address)
{
	struct mount *mount = (void *)vfs_address - bpf_core_field_offset(struct mount, mnt);
	struct dentry *dentry = (void *)dentry_address;
	__u32 begin;

	if (!scratch)
		return 0;
	begin = scratch->end;
	scratch->components = 0;
	for (int i = 0; i < PATH_COMPONENTS; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		__u32 end = scratch->end;
		long length;

		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			if (above == mount)
				return scratch->end - begin;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		if (end - begin > PATH_BYTES || end > RECORD_BYTES - NAME_BYTES)
			break;
		note_component(scratch, end);
		length =
			bpf_probe_read_kernel_str(scratch->bytes + end, NAME_BYTES, BPF_CORE_READ(dentry, d_name.name));
		if (length > 0)
			scratch->end = end + length;
		if (dentry == parent) /* a pseudo file: its name is all there is */
			return scratch->end - begin;
		dentry = parent;
	}
	scratch->header.flags |= FLAG_TRUNCATED;
	return scratch->end - begin;
}

static __always_inline __u16 append_file(struct scratch *scratch, struct file *file)
{
	if (!file)
		return 0;
	return append_path(scratch, (__u64)BPF_CORE_READ(file, f_path.dentry), (__u64)BPF_CORE_READ(file, f_path.mnt));
}

static __always_inline void fill_key(struct repeat_key *key)
{
	struct task_struct *task = bpf_get_current_task_btf();

	key->start = task->group_leader->start_boottime;
	key->exec_id = task->self_exec_id;
	key->tgid = task->tgid;
	key->cgroup_id = bpf_get_current_cgroup_id();
}

/* Whether to report what `fill_key` filled. False: it repeats one reported less than a second ago, and was counted.
 * `repeated` gets how many were counted since that report. */
static __always_inline bool first_or_due(struct repeat_key *key, __u32 *repeated)
{
	struct repeat *seen, fresh = {.reported = bpf_ktime_get_boot_ns()};

	seen = bpf_map_lookup_elem(&repeats, key);
	if (!seen) {
		bpf_map_update_elem(&repeats, key, &fresh, BPF_ANY);
		*repeated = 0;
		return true;
	}
	if (fresh.reported - seen->reported < COLLAPSE_NS) {
		__sync_fetch_and_add(&seen->since, 1);
		count(key->kind, COUNT_COLLAPSED);
		return false;
	}
	seen->reported = fresh.reported;
	*repeated = __sync_lock_test_and_set(&seen->since, 0);
	return true;
}

#endif
