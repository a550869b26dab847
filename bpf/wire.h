/* SPDX-License-Identifier: GPL-2.0 */
/* What the kernel side sends and user space reads (sensor/wire.py mirrors it; a test compares both with BTF).
 * Little or big endian as the machine; every struct is a multiple of eight bytes and has no hidden padding. */
#ifndef HOSTBRAKE_WIRE_H
#define HOSTBRAKE_WIRE_H

#include <linux/types.h>

#define ANCESTORS 8
#define PATH_BYTES 4096 /* PATH_MAX: what is kept of each path */
#define ARGS_BYTES 4096 /* what is kept of argv */

enum event_kind {
	EVENT_EXEC = 1,
	EVENT_EXIT,
	EVENT_CONNECT,
	EVENT_DEVICE,
	EVENT_CGROUP_MADE,
	EVENT_CGROUP_REMOVED,
	EVENT_CGROUP_MOVED,
	EVENT_PAYLOAD,
	EVENT_FLOW,
	EVENT_ROUNDING,
	EVENT_RELAY,
	EVENT_KINDS,
};

enum event_flags {
	FLAG_TRUNCATED = 1, /* a path or the arguments were longer than what is kept */
	FLAG_FILELESS = 2,
	FLAG_STDIO_SOCKET = 4,
	FLAG_DENIED = 8,
	FLAG_ARGS_UNREADABLE = 16,
	FLAG_UNWANTED = 32,     /* against a limit that is not enforced */
	FLAG_LEFT = 64,         /* moved out of the cgroup whose policy holds for it */
	FLAG_STDIO_FED = 128,   /* standard input and output each have another end here: pipe, pty, unix socket */
	FLAG_STDIO_PIPED = 256, /* and neither is a pty */
	FLAG_ACCEPTED = 512,    /* a flow that somebody else opened */
};

/* Counted per CPU and per event kind: slot = kind * COUNTERS + counter. */
enum counter {
	COUNT_SENT,            /* records that reached the ring */
	COUNT_LOST_RING,       /* the ring was full */
	COUNT_LOST_SCRATCH,    /* no scratch buffer was free */
	COUNT_COLLAPSED,       /* repeats folded into an earlier record */
	COUNT_ARGS_UNREADABLE, /* argv was not resident; the record has none */
	COUNT_LOST_POLICY,     /* a child of a policed cgroup or process could not inherit: the table is full */
	COUNT_EVICTED,         /* flows, or sums of flows, that a full table let go, maybe with totals untold */
	COUNTERS,
};

struct header {
	__u64 time;  /* CLOCK_BOOTTIME, ns */
	__u64 start; /* start_boottime of the thread group leader, ns */
	__u64 cgroup_id;
	__u32 tgid;
	__u32 uid;
	__u16 kind;
	__u16 flags;
	__u32 size; /* of the whole record */
};

/* An event of which rules judge. Paths follow the fixed part in the order of their lengths, each as its
 * components from the leaf to the root, every one ended by NUL: "true\0bin\0usr\0". */
struct origin {
	struct header header;
	__u64 ancestor_start[ANCESTORS];
	__u32 ancestor_tgid[ANCESTORS]; /* the parent first; 0 ends the list */
	__u32 repeats;
	__u16 image_length;
	__u16 agent; /* whose limit denied it or would have; 0: none */
};

struct exec_event {
	struct origin origin;
	__u16 parent_image_length;
	__u16 cwd_length;
	__u16 args_length;  /* argv as the process sees it, each argument ended by NUL */
	__u16 stdio_family; /* AF_* of the first of the three standard streams that is a socket */
};

struct connect_event {
	struct origin origin;
	__u8 destination[16]; /* IPv4 in the first four bytes */
	__u8 source[16];
	__u32 protocol;
	__u16 destination_port;
	__u16 source_port; /* 0: not bound yet */
	__u16 family;
	__u16 prompt_family; /* 0: nothing prompted it */
	__u16 prompt_port;
	__u16 prompt_shared; /* another process of the cgroup was told, not this one */
	__u8 prompt[16];     /* whose unasked words came just before, on a connection that is held */
	__u64 prompted;      /* when, CLOCK_BOOTTIME, ns */
};

struct device_event {
	struct origin origin;
	__u32 major;
	__u32 minor;
	__u32 access; /* 1 read, 2 write */
	__u32 reserved;
};

/* The path follows, as the kernel prints it. */
struct cgroup_event {
	struct header header;
	__u64 subject; /* the cgroup made, removed or moved into */
	__u64 moved_start;
	__u32 moved_tgid;
	__u16 path_length;
	__u16 agent; /* whose policy goes with the moved process */
};

enum flow_state {
	OPEN,
	CLOSED,
	CLOSED_REFUSED, /* it was never established */
};

/* Whose flow it is and between which ends. The header's task is the one that sent the first packet. */
struct flow_ends {
	__u64 cookie;    /* the socket's, unique since boot */
	__u8 remote[16]; /* IPv4 in the first four bytes */
	__u8 local[16];
	__u16 remote_port;
	__u16 local_port;
	__u16 family;
	__u16 protocol;
};

/* A part of a flow's first bytes follows. */
struct payload_event {
	struct header header;
	struct flow_ends ends;
	__u32 offset; /* of the part in its direction's stream; 0 for a datagram */
	__u16 length;
	__u16 inbound; /* 0: sent, 1: received */
};

/* What SEC("syscall") sweep is called with. */
struct sweep {
	__u64 silence; /* ns without a packet after which a datagram flow of few words has ended; four times it for others */
	__u32 all; /* tell also sums that are due in a moment */
	__u32 reserved;
};

/* What a flow has carried since the last report of it, headers from IP on included. */
struct flow_event {
	struct header header;
	struct flow_ends ends;
	__u64 began; /* CLOCK_BOOTTIME, ns; 0: not known */
	__u64 bytes_out;
	__u64 bytes_in;
	__u32 packets_out;
	__u32 packets_in;
	__u32 closed; /* enum flow_state */
	__u32 flows;  /* that ended, of one process to one end; the totals are of all of them */
};

/* The rounding modes, other than to nearest, in which a program's threads were found when they left the CPU. */
struct rounding_event {
	struct origin origin;
	__u64 span;      /* from the first sample to the last, ns */
	__u32 counts[3]; /* samples down, up, toward zero */
	__u32 changes;   /* how many differ from the one before */
};

enum relay_flags {
	RELAY_ACCEPTED = 1, /* the inner connection was opened by somebody else */
	RELAY_SHARED = 2,   /* it is another process's of the cgroup */
	RELAY_PROMPTED = 4, /* it was opened when the outer one had just spoken */
	RELAY_OUTER = 8,    /* of a flow: it may be an outer one */
	RELAY_INNER = 16,   /* of a flow: it may be an inner one */
	RELAY_NONE = 32,    /* of a flow: it is neither */
};

/* What comes in on an outer connection goes out on an inner one, and the answer back. The header's task holds the
 * outer one. */
struct relay_event {
	struct header header;
	struct flow_ends outer, inner;
	__u64 inner_start; /* with inner_tgid: the process that holds the inner one; 0 where unknown */
	__u64 bytes_in;    /* relayed from the outer connection to the inner one, without framing */
	__u64 bytes_out;
	__u32 inner_tgid;
	__u32 inner_flags; /* enum relay_flags */
	__u32 exchanges;   /* bursts after which something went out, of the way that has fewer */
	__u32 turns;       /* so, of those that went out as they came */
	__u32 large;       /* as turns, of those of 256 bytes or more */
	__u32 verbatim;    /* and of those that ended in the very same bytes */
	__u32 missed;      /* bursts on either connection that were not relayed */
	__u32 reserved;
};

enum end_kind {
	END_PIPE = 1,
	END_PTY,
	END_UNIX,
	END_INTERNET,
};

enum end_role {
	ROLE_READ = 1, /* of a pipe */
	ROLE_WRITE = 2,
	ROLE_MASTER = 4, /* of a pty; the slave's role is 0 */
};

/* What a file descriptor of a process is one end of: read by the iterator, not sent through the ring. */
struct held_end {
	__u64 object; /* tells this pipe, pty or unix socket from others; of an internet socket its cookie */
	__u64 peer;   /* of a unix socket: the object of the other end */
	__u64 start;
	__u64 parent_start;
	__u64 cgroup_id;
	__u32 tgid;
	__u32 parent_tgid;
	__u32 uid;
	__u32 fd;
	__u32 kind;
	__u32 role;
};

/* The policy maps, which user space writes. Agents have numbers from 1 on. */
enum policy_state { STATE_ISOLATED = 1 }; /* what is above it tells one isolation from another */

struct policy {
	__u32 agent; /* 0: nobody's, for a cgroup that is only isolated */
	__u32 state;
};

enum limit {
	LIMIT_ENFORCED = 1, /* else what goes against it is only told */
	LIMIT_EGRESS = 2,   /* denied but for what `egress` holds */
	LIMIT_GPU = 4,
	LIMIT_PROGRAMS = 8,        /* `named` holds programs of this agent */
	LIMIT_PROGRAMS_ALONE = 16, /* denied but for those that are allowed */
};

#define EGRESS_BITS 192 /* of an egress_key whose whole address counts */

struct egress_key {
	__u32 prefix; /* in bits, those before the address (64) included */
	__u32 agent;
	__u16 port; /* 0: any */
	__u16 reserved;
	__u8 address[16]; /* IPv4 as ::ffff:a.b.c.d */
};

enum program_verdict { PROGRAM_ALLOWED = 1, PROGRAM_DENIED = 2 };

/* The paths of programs as a tree: from the root, one step for each component. */
enum program_state {
	PROGRAM_ROOT = 0,
	PROGRAM_BY_NAME = 0xffffffff, /* no step: the last component, wherever it is */
};

#define PROGRAM_NAME_BYTES 56 /* with the NUL; one that fills it may be cut, and is left to the reader */

struct program_key {
	__u32 agent; /* 0: for everybody, and in lower case */
	__u32 state;
	char name[PROGRAM_NAME_BYTES];
};

struct program_node {
	__u32 next;  /* the state after this component */
	__u16 here;  /* enum program_verdict, where the path ends here */
	__u16 below; /* the same, where it goes on */
};

/* The host names that agents may reach as a tree: from the top level on, one step for each label. */
#define HOST_PORTS 6

struct host_key {
	__u32 agent;
	__u32 state;
	char label[64]; /* in lower case, padded with NUL */
};

struct host_node {
	__u32 next;
	__u16 is_here;          /* the name that ends here may be reached */
	__u16 is_below;         /* and so may all below it */
	__u16 here[HOST_PORTS]; /* at these ports, 0 being any; the first 0 after that ends the list */
	__u16 below[HOST_PORTS];
};

/* What there is to ask for at all, so that a hook on a node without policies asks for nothing more. */
struct brakes {
	__u32 policies; /* any */
	__u32 isolated; /* any */
	__u32 programs; /* any that are denied to everybody */
	__u32 reserved;
	__u64 scope;       /* id of the cgroup below which they hold */
	__u64 scope_level; /* its depth */
};

#endif
