"""The kernel side's records: the mirror of bpf/wire.h. A test compares both with the object's BTF."""

from __future__ import annotations

import struct

ANCESTORS = 8

EXEC, EXIT, CONNECT, DEVICE, CGROUP_MADE, CGROUP_REMOVED, CGROUP_MOVED, PAYLOAD, FLOW, ROUNDING, RELAY = range(1, 12)
KINDS = {
    EXEC: "exec",
    EXIT: "exit",
    CONNECT: "connect",
    DEVICE: "device",
    CGROUP_MADE: "cgroup_made",
    CGROUP_REMOVED: "cgroup_removed",
    CGROUP_MOVED: "cgroup_moved",
    PAYLOAD: "payload",
    FLOW: "flow",
    ROUNDING: "rounding",
    RELAY: "relay",
}

TRUNCATED, FILELESS, STDIO_SOCKET, DENIED, ARGS_UNREADABLE, UNWANTED, LEFT = (1 << bit for bit in range(7))
STDIO_FED, STDIO_PIPED, ACCEPTED = 128, 256, 512

COUNTERS = ("sent", "lost_ring", "lost_scratch", "collapsed", "args_unreadable", "lost_policy", "evicted")
"""enum counter, in order; the place in the counters map's entry is kind * len(COUNTERS) + counter."""

_HEADER = "QQQIIHHI"
_ORIGIN = f"{_HEADER}{ANCESTORS}Q{ANCESTORS}IIHH"

_ENDS = "Q16s16sHHHH"

HEADER = struct.Struct(f"={_HEADER}")
"""time, start, cgroup_id, tgid, uid, kind, flags, size"""
EXEC_EVENT = struct.Struct(f"={_ORIGIN}HHHH")
"""header, ancestor starts, ancestor tgids, repeats, image length, agent,
parent image length, cwd length, args length, stdio family"""
CONNECT_EVENT = struct.Struct(f"={_ORIGIN}16s16sIHHHHHH16sQ")
"""…, destination, source, protocol, destination port, source port, family,
prompt family, prompt port, prompt shared, prompt, prompted"""
DEVICE_EVENT = struct.Struct(f"={_ORIGIN}IIII")
"""…, major, minor, access, reserved"""
CGROUP_EVENT = struct.Struct(f"={_HEADER}QQIHH")
"""header, subject, moved start, moved tgid, path length, agent"""
PAYLOAD_EVENT = struct.Struct(f"={_HEADER}{_ENDS}IHH")
"""header, cookie, remote, local, remote port, local port, family, protocol, offset, length, inbound"""
FLOW_EVENT = struct.Struct(f"={_HEADER}{_ENDS}QQQIIII")
"""…, began, bytes out, bytes in, packets out, packets in, state, flows"""
SWEEP = struct.Struct("=QII")
"""silence, all, reserved"""
ROUNDING_EVENT = struct.Struct(f"={_ORIGIN}QIIII")
"""…, span, samples down, up, toward zero, changes"""
RELAY_EVENT = struct.Struct(f"={_HEADER}{_ENDS}{_ENDS}QQQIIIIIIII")
"""header, outer and inner ends, inner start, bytes in, bytes out, inner tgid, flags,
exchanges, turns, large, verbatim, missed, reserved"""

RELAY_ACCEPTED, RELAY_SHARED, RELAY_PROMPTED = 1, 2, 4

OPEN, CLOSED, CLOSED_REFUSED = range(3)

HELD_END = struct.Struct("=QQQQQIIIIII")
"""object, peer, start, parent start, cgroup_id, tgid, parent tgid, uid, fd, kind, role"""

PIPE, PTY, UNIX, INTERNET = range(1, 5)
READ, WRITE, MASTER = 1, 2, 4

POLICY = struct.Struct("=II")
"""agent, state"""
ISOLATED = 1
LIMIT_ENFORCED, LIMIT_EGRESS, LIMIT_GPU, LIMIT_PROGRAMS, LIMIT_PROGRAMS_ALONE = (1 << bit for bit in range(5))
EGRESS_KEY = struct.Struct("=IIHH16s")
"""prefix, agent, port, reserved, address"""
RESOLVED_KEY = struct.Struct("=II16s")
"""agent, port, address"""
EGRESS_BITS = 192
ISOLATION = 0xFFFFFFFF
"""Stands for an agent in an EGRESS_KEY: what those who are cut off may still reach."""
PROGRAM_NAME_BYTES = 56
"""Of a path's component, its NUL included, that a PROGRAM_KEY holds."""
PROGRAM_KEY = struct.Struct(f"=II{PROGRAM_NAME_BYTES}s")
"""agent, state, name"""
PROGRAM_NODE = struct.Struct("=IHH")
"""next state, verdict where the path ends here, verdict where it goes on"""
EVERYBODY = 0
"""Stands for an agent in a PROGRAM_KEY."""
PROGRAM_ROOT, PROGRAM_BY_NAME = 0, 0xFFFFFFFF
PROGRAM_ALLOWED, PROGRAM_DENIED = 1, 2
HOST_PORTS = 6
HOST_KEY = struct.Struct("=II64s")
"""agent, state, label"""
HOST_NODE = struct.Struct("=IHH12s12s")
"""next state, may the name that ends here be reached, may those below it, ports (HOST_PORTS u16) of either"""
BRAKES = struct.Struct("=IIIIQQ")
"""policies, isolated, programs, reserved, scope, scope level"""
