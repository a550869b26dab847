"""What a look at the descriptors of some processes gives."""

from __future__ import annotations

import struct

from sensor import wire
from sensor.decode import DecodeError, Kernel


class HeldEnd(Kernel):
    """A descriptor of a process that is one end of something; `time` is when the look was."""

    parent: tuple[int, int]
    """(tgid, start) of the parent."""
    fd: int
    kind: int
    """wire.PIPE, PTY, UNIX or INTERNET."""
    role: int
    """Of a pipe wire.READ, WRITE or both; of a pty wire.MASTER or 0."""
    object: int
    """Which pipe, pty or unix socket it is; of an internet socket its cookie."""
    peer: int
    """Of a unix socket: the object that the other end is."""


def held_ends(data: bytes, time: int) -> list[HeldEnd]:
    """The ends in `data`; raises DecodeError where that is no whole number of records."""
    try:
        return [
            HeldEnd(time, tgid, start, cgroup_id, uid, (parent, parent_start), fd, kind, role, object_, peer)
            for object_, peer, start, parent_start, cgroup_id, tgid, parent, uid, fd, kind, role in (
                wire.HELD_END.iter_unpack(data)
            )
        ]
    except struct.error:
        raise DecodeError("short_buffer", f"{len(data)} bytes are no whole number of descriptors") from None
