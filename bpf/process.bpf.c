/* SPDX-License-Identifier: GPL-2.0 */
/* Programs that begin and end. tp_btf: kernel/sched tracepoints in fs/exec.c and kernel/exit.c. */
#include "program.bpf.h"
#include "stdio.bpf.h"

#define FAMILIAR_RUNS 3
#define FAMILIAR_NS 1000000000ULL

struct run_key {
	__u64 cgroup_id;
	__u64 inode; /* its address: enough to tell programs apart for a second */
};

struct program_runs {
	__u64 since;
	__u64 runs;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct run_key);
	__type(value, struct program_runs);
} programs SEC(".maps");

/* In a storm of execs most are of few programs. The first few runs of each wake the reader at once, so that a miner
 * among a thousand compiler runs is judged as fast as one alone; the rest share the reader's turns. */
static __always_inline enum urgency urgency_of(struct scratch *scratch, struct inode *inode)
{
	struct run_key key = {.cgroup_id = scratch->header.cgroup_id, .inode = (__u64)inode};
	struct program_runs *runs = bpf_map_lookup_elem(&programs, &key);
	struct program_runs fresh = {.since = scratch->header.time, .runs = 1};

	if (!runs || fresh.since - runs->since > FAMILIAR_NS) {
		bpf_map_update_elem(&programs, &key, &fresh, BPF_ANY);
		return URGENT;
	}
	return __sync_fetch_and_add(&runs->runs, 1) < FAMILIAR_RUNS ? URGENT : FAMILIAR;
}

/* Sets the flags of what the standard streams are; gives AF_* of the first that is a socket, 0 where none is. */
static __always_inline __u16 look_at_stdio(struct task_struct *task, __u16 *flags)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	__u32 limit = BPF_CORE_READ(table, max_fds), fed = 0, terminals = 0;
	__u16 first = 0;

	for (__u32 i = 0; i < 3 && i < limit; i++) {
		struct file *file = NULL;
		__u16 family = AF_UNIX;
		__u32 kind;

		bpf_probe_read_kernel(&file, sizeof(file), files + i);
		kind = file ? end_kind(file) : 0;
		if (kind == END_UNIX) {
			struct socket *socket = BPF_CORE_READ(file, private_data);

			family = BPF_CORE_READ(socket, sk, __sk_common.skc_family);
			*flags |= FLAG_STDIO_SOCKET;
			first = first ? first : family;
		}
		fed += i < 2 && kind && family == AF_UNIX;
		terminals += i < 2 && kind == END_PTY;
	}
	if (fed == 2)
		*flags |= terminals ? FLAG_STDIO_FED : FLAG_STDIO_FED | FLAG_STDIO_PIPED;
	return first;
}

/* argv lies in the new program's memory, written moments ago by execve itself. */
static __always_inline __u16 append_args(struct scratch *scratch, struct task_struct *task)
{
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	unsigned long length = BPF_CORE_READ(task, mm, arg_end) - start;
	__u32 end = scratch->end;

	if (length > ARGS_BYTES) {
		length = ARGS_BYTES;
		scratch->header.flags |= FLAG_TRUNCATED;
	}
	if (end > RECORD_BYTES - ARGS_BYTES)
		return 0;
	if (bpf_probe_read_user(scratch->bytes + end, length, (void *)start)) {
		scratch->header.flags |= FLAG_ARGS_UNREADABLE;
		count(EVENT_EXEC, COUNT_ARGS_UNREADABLE);
		return 0;
	}
	scratch->end = end + length;
	return length;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct scratch *scratch = scratch_take(EVENT_EXEC);
	struct judgement judged;
	struct exec_event *event;
	struct inode *inode;
	struct file *file;

	if (!scratch)
		return 0;
	event = &scratch->exec;
	fill_header(scratch, task, EVENT_EXEC, sizeof(struct exec_event));
	fill_ancestors(&event->origin, task);
	event->origin.repeats = 0;
	event->stdio_family = look_at_stdio(task, &event->origin.header.flags);
	file = BPF_CORE_READ(bprm, file);
	inode = BPF_CORE_READ(file, f_inode);
	if (BPF_CORE_READ(inode, i_nlink) == 0)
		event->origin.header.flags |= FLAG_FILELESS;
	event->origin.image_length = append_file(scratch, file);
	judged = judge_program(scratch);
	if (judged.denied)
		bpf_send_signal(SIGKILL); /* handled on the way to user space: not one instruction runs */
	fill_judgement(&event->origin, &judged);
	event->parent_image_length = append_file(scratch, BPF_CORE_READ(task, real_parent, mm, exe_file));
	event->cwd_length = append_path(scratch, (__u64)BPF_CORE_READ(task, fs, pwd.dentry),
	                                (__u64)BPF_CORE_READ(task, fs, pwd.mnt));
	event->args_length = append_args(scratch, task);
	send(scratch, judged.unwanted ? URGENT : urgency_of(scratch, inode));
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	const struct brakes *set = the_brakes();
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct scratch *scratch;

	if (BPF_CORE_READ(task, signal, live.counter))
		return 0; /* other threads live on */
	if (set && set->policies)
		bpf_map_delete_elem(&bound, &tgid);
	scratch = scratch_take(EVENT_EXIT);
	if (!scratch)
		return 0;
	fill_header(scratch, task, EVENT_EXIT, sizeof(struct header));
	send(scratch, HOUSEKEEPING);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
