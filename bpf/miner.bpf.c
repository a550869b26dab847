/* SPDX-License-Identifier: GPL-2.0 */
/* RandomX by its rounding modes. Its programs set the mode of floating-point arithmetic from their data (CFROUND,
 * section 5.4.1 of its specification), so that whenever the scheduler takes the CPU from one, any of the four modes is
 * as likely as another. The kernel has then saved MXCSR, and calls this tracepoint (arch/x86/include/asm/fpu/sched.h).
 * A kernel without it gets this object without this program. */
#include "common.bpf.h"

#define XFEATURE_SSE 2ULL /* a bit of XSTATE_BV: clear where the registers, MXCSR among them, are as at reset */
#define MXCSR_ROUNDING 13 /* where the two bits begin: 0 to nearest, 1 down, 2 up, 3 toward zero */
#define SAMPLE_NS 100000000ULL
#define WINDOW_NS 60000000000ULL
#define SAMPLES 64

/* Which program. A new one in the same process begins anew. */
struct rounding_key {
	__u64 start;
	__u32 tgid;
	__u32 exec_id;
};

struct samples {
	__u64 since;
	__u64 last;
	__u32 counts[3]; /* down, up, toward zero */
	__u32 changes;   /* how many differ from the one before */
	__u32 mode;
	__u32 reported;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct rounding_key);
	__type(value, struct samples);
} roundings SEC(".maps");

/* Not to nearest: one of the three modes less one; else negative. */
static __always_inline int directed_mode(struct fpu *fpu)
{
	union fpregs_state *saved;

	if (bpf_core_field_exists(fpu->fpstate))
		saved = &fpu->fpstate->regs;
	else /* before 5.16 */
		saved = &((struct fpu___5_15 *)fpu)->state;
	if (!(saved->xsave.header.xfeatures & XFEATURE_SSE))
		return -1;
	return (int)(saved->fxsave.mxcsr >> MXCSR_ROUNDING & 3) - 1;
}

/* Interval arithmetic goes up and down and knows no third mode; a test of arithmetic stays with one for long. Here
 * each mode has a sixth of the samples at least, where a third is expected, and half differ from the one before, where
 * two thirds are. */
static __always_inline bool looks_random(const struct samples *seen)
{
	__u32 all = seen->counts[0] + seen->counts[1] + seen->counts[2];

	return all >= SAMPLES && seen->counts[0] * 6 >= all && seen->counts[1] * 6 >= all &&
	       seen->counts[2] * 6 >= all && seen->changes * 2 >= all;
}

static __always_inline void report(struct task_struct *task, const struct samples *seen)
{
	struct scratch *scratch = scratch_take(EVENT_ROUNDING);

	if (!scratch)
		return;
	fill_header(scratch, task, EVENT_ROUNDING, sizeof(struct rounding_event));
	fill_ancestors(&scratch->origin, task);
	scratch->origin.repeats = 0;
	scratch->rounding.span = seen->last - seen->since;
	__builtin_memcpy(scratch->rounding.counts, seen->counts, sizeof(seen->counts));
	scratch->rounding.changes = seen->changes;
	scratch->origin.image_length = append_file(scratch, BPF_CORE_READ(task, mm, exe_file));
	send(scratch, URGENT);
}

SEC("?tp_btf/x86_fpu_regs_deactivated")
int BPF_PROG(on_rounding, struct fpu *fpu)
{
	struct samples *seen, fresh = {};
	struct rounding_key key = {};
	struct task_struct *task;
	int mode = directed_mode(fpu);
	__u64 now;

	if (mode < 0 || mode > 2)
		return 0;
	task = bpf_get_current_task_btf(); /* still the one that leaves: current changes after this */
	key.start = task->group_leader->start_boottime;
	key.tgid = task->tgid;
	key.exec_id = task->self_exec_id;
	now = bpf_ktime_get_ns();
	seen = bpf_map_lookup_elem(&roundings, &key);
	if (!seen) {
		fresh.since = fresh.last = now;
		fresh.mode = mode;
		fresh.counts[mode] = 1;
		bpf_map_update_elem(&roundings, &key, &fresh, BPF_NOEXIST);
		return 0;
	}
	if (seen->reported || now - seen->last < SAMPLE_NS)
		return 0;
	seen->last = now;
	if (now - seen->since > WINDOW_NS) {
		seen->since = now;
		seen->counts[0] = seen->counts[1] = seen->counts[2] = seen->changes = 0;
	}
	seen->counts[mode]++;
	if (seen->mode != mode)
		seen->changes++;
	seen->mode = mode;
	if (!looks_random(seen) || __sync_lock_test_and_set(&seen->reported, 1))
		return 0;
	fresh = *seen; /* other threads count on */
	report(task, &fresh);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
