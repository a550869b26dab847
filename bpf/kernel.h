/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel's own types, reduced to the fields that are read here. CO-RE relocates each access to the
 * running kernel's layout, so that the object compiles without its headers and runs on another build. */
#ifndef HOSTBRAKE_KERNEL_H
#define HOSTBRAKE_KERNEL_H

#include <linux/types.h>
#include <stdbool.h>

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr {
	const unsigned char *name;
};

struct pipe_inode_info;

struct inode {
	unsigned short i_mode;
	unsigned int i_rdev;
	unsigned int i_nlink;
	struct pipe_inode_info *i_pipe;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	unsigned int f_mode;
	struct inode *f_inode;
	void *private_data;
};

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};

struct cgroup;

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock {
	struct sock_common __sk_common;
	__u8 sk_shutdown;
	__u16 sk_protocol;
	__u32 sk_max_ack_backlog;
	struct sock_cgroup_data sk_cgrp_data;
};

struct tcp_sock {
	__u16 tcp_header_len;
	__u32 segs_in;
	__u32 segs_out;
	__u32 snd_nxt;
	__u32 write_seq;
	__u64 bytes_received;
	__u64 bytes_sent;
};

struct unix_sock {
	struct sock *peer;
};

struct tty_struct {
	struct tty_struct *link;
};

struct tty_file_private {
	struct tty_struct *tty;
};

struct socket {
	struct sock *sk;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct fs_struct {
	struct path pwd;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
};

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

struct css_set;

struct user_namespace {
	int level;
};

struct net {
	struct user_namespace *user_ns;
};

struct nsproxy {
	struct net *net_ns;
};

struct task_struct {
	int pid;
	int tgid;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct nsproxy *nsproxy;
	const struct cred *cred;
};

struct linux_binprm {
	struct file *file;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct fxregs_state {
	__u32 mxcsr;
};

struct xstate_header {
	__u64 xfeatures;
};

struct xregs_state {
	struct xstate_header header;
};

union fpregs_state {
	struct fxregs_state fxsave;
	struct xregs_state xsave;
};

struct fpstate {
	union fpregs_state regs;
};

struct fpu {
	struct fpstate *fpstate;
};

struct fpu___5_15 {
	union fpregs_state state;
};

#pragma clang attribute pop

#endif
