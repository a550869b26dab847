"""The kernel side's records: the mirror of bpf/wire.h. A test compares both with the object's BTF."""

from __future__ import annotations

import struct

ANCESTORS = 8

EXEC, EXIT, CONNECT, DEVICE, CGROUP_MADE, CGROUP_REMOVED, CGROUP_MOVED, PAYLOAD, FLOW, ROUNDING = range(1, 11)
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
}

TRUNCATED, FILELESS, STDIO_SOCKET, DENIED, ARGS_UNREADABLE = 1, 2, 4, 8, 16

COUNTERS = ("sent", "lost_ring", "lost_scratch", "collapsed", "args_unreadable", "evicted")
"""enum counter, in order; the place in the counters map's entry is kind * len(COUNTERS) + counter."""

_HEADER = "QQQIIHHI"
_ORIGIN = f"{_HEADER}{ANCESTORS}Q{ANCESTORS}IIHH"

_ENDS = "Q16s16sHHHH"

HEADER = struct.Struct(f"={_HEADER}")
"""time, start, cgroup_id, tgid, uid, kind, flags, size"""
EXEC_EVENT = struct.Struct(f"={_ORIGIN}HHHH")
"""header, ancestor starts, ancestor tgids, repeats, image length, reserved,
parent image length, cwd length, args length, stdio family"""
CONNECT_EVENT = struct.Struct(f"={_ORIGIN}16s16sIHHHHHH16sQ")
"""…, destination, source, protocol, destination port, source port, family,
prompt family, prompt port, prompt shared, prompt, prompted"""
DEVICE_EVENT = struct.Struct(f"={_ORIGIN}IIII")
"""…, major, minor, access, reserved"""
CGROUP_EVENT = struct.Struct(f"={_HEADER}QQII")
"""header, subject, moved start, moved tgid, path length"""
PAYLOAD_EVENT = struct.Struct(f"={_HEADER}{_ENDS}IHH")
"""header, cookie, remote, local, remote port, local port, family, protocol, offset, length, inbound"""
FLOW_EVENT = struct.Struct(f"={_HEADER}{_ENDS}QQQIIII")
"""…, began, bytes out, bytes in, packets out, packets in, state, flows"""
SWEEP = struct.Struct("=QII")
"""silence, all, reserved"""
ROUNDING_EVENT = struct.Struct(f"={_ORIGIN}QIIII")
"""…, span, samples down, up, toward zero, changes"""

OPEN, CLOSED, CLOSED_REFUSED = range(3)
