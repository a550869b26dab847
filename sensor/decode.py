"""Ring bytes to typed kernel events. Pure: no I/O, and no exception but DecodeError."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from sensor import wire
from sensor.raw import (
    CgroupMade,
    CgroupMoved,
    CgroupRemoved,
    Connect,
    DeviceAccess,
    Ends,
    Exec,
    Exit,
    FlowTotals,
    Kernel,
    KernelEvent,
    Origin,
    Payload,
    Prompt,
    Relay,
    Rounding,
)

__all__ = [
    "CgroupMade",
    "CgroupMoved",
    "CgroupRemoved",
    "Connect",
    "DecodeError",
    "DeviceAccess",
    "Ends",
    "Exec",
    "Exit",
    "FlowTotals",
    "Kernel",
    "KernelEvent",
    "Origin",
    "Payload",
    "Prompt",
    "Relay",
    "Rounding",
    "decode",
]


class DecodeError(ValueError):
    """These bytes are no event. `kind` names the fault and is what is counted."""

    def __init__(self, kind: Literal["unknown_kind", "short_buffer", "bad_field"], what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


def decode(data: bytes) -> KernelEvent:
    """The event that `data`, one ring record, holds; raises DecodeError for anything else."""
    try:
        kind = _KIND.unpack_from(data, _KIND_OFFSET)[0]
    except struct.error:
        raise DecodeError("short_buffer", f"{len(data)} bytes are no header") from None
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise DecodeError("unknown_kind", f"event kind {kind}")
    try:
        return decoder(data)
    except struct.error:
        raise DecodeError("short_buffer", f"{len(data)} bytes for {wire.KINDS[kind]}") from None


_KIND = struct.Struct("=H")
_KIND_OFFSET = 32


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


class _Paths:
    """Path components, leaf first and each ended by NUL, as a path. The same few come again and again."""

    LIMIT: ClassVar[int] = 4096

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def __call__(self, raw: bytes) -> str:
        path = self._known.get(raw)
        if path is None:
            if len(self._known) >= self.LIMIT:
                self._known.clear()
            path = self._known[raw] = "/" + _text(b"/".join(raw.split(b"\0")[-2::-1]))
        return path


_path = _Paths()


def _tail(data: bytes, begin: int, length: int) -> bytes:
    """The variable part behind the fixed one."""
    if begin + length > len(data):
        raise DecodeError("short_buffer", f"{len(data)} bytes for {begin + length}")
    return data[begin : begin + length]


def _ancestors(fields: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(tgid, start) pairs of a record's fields, up to the first tgid of 0."""
    tgids = fields[16:24]
    if not tgids[-1]:
        tgids = tgids[: tgids.index(0)]
    return tuple(zip(tgids, fields[8:16]))  # noqa: B905 (as many as there are tgids)


def _exec(data: bytes) -> Exec:
    fields = wire.EXEC_EVENT.unpack_from(data)
    flags = fields[6]
    image = wire.EXEC_EVENT.size
    parent = image + fields[25]
    cwd = parent + fields[27]
    args = cwd + fields[28]
    end = args + fields[29]
    if end > len(data):
        raise DecodeError("short_buffer", f"{len(data)} bytes for {end}")
    return Exec(
        fields[0],
        fields[3],
        fields[1],
        fields[2],
        fields[4],
        _path(data[image:parent]),
        _ancestors(fields),
        flags & wire.TRUNCATED != 0,
        fields[26],
        flags & wire.DENIED != 0,
        flags & wire.UNWANTED != 0,
        _text(data[args:end]).removesuffix("\0").split("\0") if end > args else [],
        _path(data[cwd:args]),
        _path(data[parent:cwd]) if cwd > parent else "",
        flags & wire.FILELESS != 0,
        flags & wire.STDIO_SOCKET != 0,
        fields[30],
        flags & wire.STDIO_FED != 0,
        flags & wire.STDIO_PIPED != 0,
    )


def _exit(data: bytes) -> Exit:
    time, start, cgroup_id, tgid, uid, _, _, _ = wire.HEADER.unpack_from(data)
    return Exit(time, tgid, start, cgroup_id, uid)


_MAPPED = b"\0" * 10 + b"\xff\xff"
_UNSPECIFIED = b"\0" * 16


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    if family == socket.AF_INET6:
        if raw.startswith(_MAPPED):
            return socket.inet_ntop(socket.AF_INET, raw[12:])
        return socket.inet_ntop(socket.AF_INET6, raw)
    raise DecodeError("bad_field", f"address family {family}")


def _connect(data: bytes) -> Connect:
    fields = wire.CONNECT_EVENT.unpack_from(data)
    time, start, cgroup_id, tgid, uid, _, flags, _ = fields[:8]
    repeats, image_length, agent, destination, source, protocol, port, source_port, family = fields[24:33]
    prompt_family, prompt_port, prompt_shared, prompt, prompted = fields[33:]
    image = _tail(data, wire.CONNECT_EVENT.size, image_length)
    return Connect(
        time,
        tgid,
        start,
        cgroup_id,
        uid,
        _path(image),
        _ancestors(fields),
        flags & wire.TRUNCATED != 0,
        agent,
        flags & wire.DENIED != 0,
        flags & wire.UNWANTED != 0,
        _address(family, destination),
        port,
        protocol,
        None if source == _UNSPECIFIED else _address(family, source),
        source_port or None,
        repeats,
        Prompt(prompted, _address(prompt_family, prompt), prompt_port, prompt_shared != 0) if prompt_family else None,
    )


def _device(data: bytes) -> DeviceAccess:
    fields = wire.DEVICE_EVENT.unpack_from(data)
    time, start, cgroup_id, tgid, uid, _, flags, _ = fields[:8]
    repeats, image_length, agent, major, minor, access, _ = fields[24:]
    if not 0 < access < 4:
        raise DecodeError("bad_field", f"device access {access}")
    image = _tail(data, wire.DEVICE_EVENT.size, image_length)
    return DeviceAccess(
        time,
        tgid,
        start,
        cgroup_id,
        uid,
        _path(image),
        _ancestors(fields),
        flags & wire.TRUNCATED != 0,
        agent,
        flags & wire.DENIED != 0,
        flags & wire.UNWANTED != 0,
        major,
        minor,
        access,
        repeats,
    )


def _cgroup(data: bytes) -> CgroupMade | CgroupRemoved | CgroupMoved:
    fields = wire.CGROUP_EVENT.unpack_from(data)
    time, start, cgroup_id, tgid, uid, kind, _, _, subject, moved_start, moved, path_length, left = fields
    path = _text(_tail(data, wire.CGROUP_EVENT.size, path_length).removesuffix(b"\0"))
    if kind == wire.CGROUP_MADE:
        return CgroupMade(time, tgid, start, cgroup_id, uid, subject, path)
    if kind == wire.CGROUP_REMOVED:
        return CgroupRemoved(time, tgid, start, cgroup_id, uid, subject, path)
    return CgroupMoved(time, tgid, start, cgroup_id, uid, moved, moved_start, subject, path, left)


def _ends(fields: tuple[Any, ...], first: int = 8) -> Ends:
    cookie, remote, local, remote_port, local_port, family, protocol = fields[first : first + 7]
    return Ends(cookie, _address(family, remote), _address(family, local), remote_port, local_port, protocol)


def _payload(data: bytes) -> Payload:
    fields = wire.PAYLOAD_EVENT.unpack_from(data)
    time, start, cgroup_id, tgid, uid = fields[:5]
    offset, length, inbound = fields[15:]
    part = _tail(data, wire.PAYLOAD_EVENT.size, length)
    accepted = fields[6] & wire.ACCEPTED != 0
    return Payload(time, tgid, start, cgroup_id, uid, _ends(fields), offset, inbound != 0, part, accepted)


def _flow(data: bytes) -> FlowTotals:
    fields = wire.FLOW_EVENT.unpack_from(data)
    time, start, cgroup_id, tgid, uid = fields[:5]
    began, bytes_out, bytes_in, packets_out, packets_in, state, flows = fields[15:]
    if state > wire.CLOSED_REFUSED:
        raise DecodeError("bad_field", f"flow state {state}")
    return FlowTotals(
        time,
        tgid,
        start,
        cgroup_id,
        uid,
        _ends(fields),
        began,
        bytes_out,
        bytes_in,
        packets_out,
        packets_in,
        flows,
        state != wire.OPEN,
        state == wire.CLOSED_REFUSED,
        fields[6] & wire.ACCEPTED != 0,
    )


def _relay(data: bytes) -> Relay:
    fields = wire.RELAY_EVENT.unpack_from(data)
    time, start, cgroup_id, tgid, uid = fields[:5]
    inner_start, bytes_in, bytes_out, inner_tgid, flags, exchanges, turns, large, verbatim, missed, _ = fields[22:]
    return Relay(
        time,
        tgid,
        start,
        cgroup_id,
        uid,
        _ends(fields),
        _ends(fields, 15),
        inner_tgid,
        inner_start,
        bytes_in,
        bytes_out,
        exchanges,
        turns,
        large,
        verbatim,
        missed,
        flags & wire.RELAY_ACCEPTED != 0,
        flags & wire.RELAY_SHARED != 0,
        flags & wire.RELAY_PROMPTED != 0,
    )


def _rounding(data: bytes) -> Rounding:
    fields = wire.ROUNDING_EVENT.unpack_from(data)
    time, start, cgroup_id, tgid, uid, _, flags, _ = fields[:8]
    image = _tail(data, wire.ROUNDING_EVENT.size, fields[25])
    return Rounding(
        time,
        tgid,
        start,
        cgroup_id,
        uid,
        _path(image),
        _ancestors(fields),
        flags & wire.TRUNCATED != 0,
        0,
        False,
        False,
        *fields[27:],
    )


_DECODERS: dict[int, Callable[[bytes], KernelEvent]] = {
    wire.EXEC: _exec,
    wire.EXIT: _exit,
    wire.CONNECT: _connect,
    wire.DEVICE: _device,
    wire.CGROUP_MADE: _cgroup,
    wire.CGROUP_REMOVED: _cgroup,
    wire.CGROUP_MOVED: _cgroup,
    wire.PAYLOAD: _payload,
    wire.FLOW: _flow,
    wire.ROUNDING: _rounding,
    wire.RELAY: _relay,
}
