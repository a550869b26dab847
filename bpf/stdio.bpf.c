/* SPDX-License-Identifier: GPL-2.0 */
/* Who holds which end of what: a walk over the descriptors of the processes of some cgroups, made when user space
 * asks for it (BPF iterator, kernel/bpf/task_iter.c). It finds who is at the other end of a shell's standard streams. */
#include "common.bpf.h"
#include "stdio.bpf.h"

#define CGROUP_LEVELS 16

/* Cgroups to look at, with those below them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} looked_at SEC(".maps");

/* The id of the task's cgroup where that or one above it is looked at, else 0. */
static __always_inline __u64 wanted_cgroup(struct task_struct *task)
{
	struct cgroup_subsys_state *state;
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	__u64 own = BPF_CORE_READ(cgroup, kn, id), id = own;

	for (int i = 0; i < CGROUP_LEVELS; i++) {
		if (bpf_map_lookup_elem(&looked_at, &id))
			return own;
		state = BPF_CORE_READ(cgroup, self.parent);
		if (!state)
			return 0;
		cgroup = BPF_CORE_READ(state, cgroup);
		id = BPF_CORE_READ(cgroup, kn, id);
	}
	return 0;
}

/* Not inlined, so that the object's BTF has the record: a test compares it with user space's. */
static __noinline bool fill_socket(struct held_end *end, struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sock;
	__u16 family;

	if (!socket)
		return false;
	sock = socket->sk;
	if (!sock)
		return false;
	family = sock->__sk_common.skc_family;
	if (family == AF_UNIX) {
		end->kind = END_UNIX;
		end->object = (__u64)sock;
		end->peer = (__u64)BPF_CORE_READ((struct unix_sock *)sock, peer);
		return end->peer != 0;
	}
	end->kind = END_INTERNET;
	end->object = bpf_get_socket_cookie(sock);
	return family == AF_INET || family == AF_INET6;
}

SEC("iter/task_file")
int on_descriptor(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct held_end end = {};

	if (!task || !file)
		return 0;
	end.kind = end_kind(file);
	if (!end.kind)
		return 0;
	end.cgroup_id = wanted_cgroup(task);
	if (!end.cgroup_id)
		return 0;
	if (end.kind == END_UNIX) {
		if (!fill_socket(&end, file))
			return 0;
	} else if (end.kind == END_PIPE) {
		end.object = (__u64)BPF_CORE_READ(file, f_inode, i_pipe);
		end.role = BPF_CORE_READ(file, f_mode) & (ROLE_READ | ROLE_WRITE);
	} else {
		struct tty_file_private *private = BPF_CORE_READ(file, private_data);
		struct tty_struct *tty = BPF_CORE_READ(private, tty);

		end.role = BPF_CORE_READ(file, f_inode, i_rdev) == PTMX ? ROLE_MASTER : 0;
		end.object = (__u64)(end.role ? tty : BPF_CORE_READ(tty, link));
	}
	end.fd = ctx->fd;
	end.tgid = task->tgid;
	end.start = BPF_CORE_READ(task, group_leader, start_boottime);
	end.parent_tgid = BPF_CORE_READ(task, group_leader, real_parent, tgid);
	end.parent_start = BPF_CORE_READ(task, group_leader, real_parent, group_leader, start_boottime);
	end.uid = BPF_CORE_READ(task, cred, uid.val);
	bpf_seq_write(ctx->meta->seq, &end, sizeof(end));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
