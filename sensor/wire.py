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

TRUNCATED, FILELESS, STDIO_SOCKET, DENIED, ARGS_UNREADABLE, ACCEPTED = 1, 2, 4, 8, 16, 32

COUNTERS = ("sent", "lost_ring", "lost_scratch", "collapsed", "args_unreadable")
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
ROUNDING_EVENT = struct.Struct(f"={_ORIGIN}QIIII")
"""…, span, samples down, up, toward zero, changes"""
RELAY_EVENT = struct.Struct(f"={_HEADER}{_ENDS}{_ENDS}QQQIIIIIIII")
"""header, outer and inner ends, inner start, bytes in, bytes out, inner tgid, flags,
exchanges, turns, large, verbatim, missed, reserved"""

RELAY_ACCEPTED, RELAY_SHARED, RELAY_PROMPTED = 1, 2, 4

OPEN, CLOSED, CLOSED_REFUSED = range(3)
