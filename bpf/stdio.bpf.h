/* SPDX-License-Identifier: GPL-2.0 */
/* What kind of thing an open file is, as far as it has another end. */
#ifndef HOSTBRAKE_STDIO_BPF_H
#define HOSTBRAKE_STDIO_BPF_H

#include "kernel.h"
#include "wire.h"

#include <bpf/bpf_core_read.h>

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFCHR 0020000
#define S_IFIFO 0010000

/* Documentation/admin-guide/devices.txt; a device number keeps the minor in its low 20 bits. */
#define TTY_MAJOR_FIRST 136 /* slaves of ptys */
#define TTY_MAJOR_LAST 143
#define PTMX (5 << 20 | 2)
#define TTY (5 << 20)

/* 0: none. END_UNIX stands for any socket. */
static __always_inline __u32 end_kind(struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u32 device;

	switch (BPF_CORE_READ(inode, i_mode) & S_IFMT) {
	case S_IFSOCK:
		return END_UNIX;
	case S_IFIFO:
		return END_PIPE;
	case S_IFCHR:
		device = BPF_CORE_READ(inode, i_rdev);
		if (device == PTMX || device == TTY)
			return END_PTY;
		if (device >> 20 >= TTY_MAJOR_FIRST && device >> 20 <= TTY_MAJOR_LAST)
			return END_PTY;
	}
	return 0;
}

#endif
