"""decode: any bytes give an event or DecodeError, and well-formed ones what they hold."""

from __future__ import annotations

import random
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sensor import wire
from sensor.decode import (
    CgroupMade,
    CgroupMoved,
    CgroupRemoved,
    Connect,
    DecodeError,
    DeviceAccess,
    Ends,
    Exec,
    Exit,
    Relay,
    Rounding,
    decode,
)


def header(kind: int, flags: int = 0) -> tuple[int, ...]:
    return (1000, 900, 77, 4242, 1000, kind, flags, 0)


def origin(kind: int, image: bytes, flags: int = 0, ancestors: int = 2, repeats: int = 0) -> tuple[int, ...]:
    starts = [100 - i if i < ancestors else 0 for i in range(wire.ANCESTORS)]
    tgids = [10 + i if i < ancestors else 0 for i in range(wire.ANCESTORS)]
    return (*header(kind, flags), *starts, *tgids, repeats, len(image), 0)


def exec_record(args: bytes = b"ssh\0-R\0", image: bytes = b"ssh\0bin\0usr\0", flags: int = 0) -> bytes:
    parent, cwd = b"bash\0bin\0", b""
    fixed = wire.EXEC_EVENT.pack(*origin(wire.EXEC, image, flags), len(parent), len(cwd), len(args), 0)
    return fixed + image + parent + cwd + args


def connect_record(family: int, destination: bytes, source: bytes = bytes(16)) -> bytes:
    image = b"curl\0bin\0"
    return (
        wire.CONNECT_EVENT.pack(
            *origin(wire.CONNECT, image, repeats=3),
            destination.ljust(16, b"\0"),
            source.ljust(16, b"\0"),
            6,
            443,
            0,
            family,
            0,
            0,
            0,
            bytes(16),
            0,
        )
        + image
    )


def device_record(access: int) -> bytes:
    return wire.DEVICE_EVENT.pack(*origin(wire.DEVICE, b"x\0"), 195, 1, access, 0) + b"x\0"


def cgroup_record(kind: int) -> bytes:
    return wire.CGROUP_EVENT.pack(*header(kind), 88, 55, 66, 6, 9) + b"/a\nb\xff\0"


def rounding_record() -> bytes:
    return wire.ROUNDING_EVENT.pack(*origin(wire.ROUNDING, b"x\0"), 9_000_000_000, 17, 31, 16, 39) + b"x\0"


OUTER = Ends(cookie=7, remote="192.0.2.1", local="10.0.0.5", remote_port=443, local_port=40000, protocol=6)
INNER = Ends(cookie=8, remote="::1", local="::1", remote_port=22, local_port=40001, protocol=6)


def relay_record(flags: int) -> bytes:
    outer = (7, bytes([192, 0, 2, 1]), bytes([10, 0, 0, 5]), 443, 40000, socket.AF_INET, 6)
    inner = (8, bytes(15) + b"\1", bytes(15) + b"\1", 22, 40001, socket.AF_INET6, 6)
    return wire.RELAY_EVENT.pack(*header(wire.RELAY), *outer, *inner, 800, 5, 6, 4343, flags, 12, 10, 4, 3, 2, 0)


RECORDS = [
    exec_record(),
    wire.HEADER.pack(*header(wire.EXIT)),
    connect_record(socket.AF_INET, bytes([127, 0, 0, 1])),
    connect_record(socket.AF_INET6, bytes(15) + b"\1"),
    device_record(3),
    rounding_record(),
    relay_record(wire.RELAY_PROMPTED),
    *(cgroup_record(kind) for kind in (wire.CGROUP_MADE, wire.CGROUP_REMOVED, wire.CGROUP_MOVED)),
]


def test_rounding() -> None:
    event = decode(rounding_record())
    assert isinstance(event, Rounding) and event.image == "/x"
    assert (event.span, event.down, event.up, event.toward_zero, event.changes) == (9_000_000_000, 17, 31, 16, 39)


def test_relay() -> None:
    event = decode(relay_record(wire.RELAY_PROMPTED))
    assert isinstance(event, Relay) and (event.outer, event.inner) == (OUTER, INNER)
    assert (event.tgid, event.start, event.inner_tgid, event.inner_start) == (4242, 900, 4343, 800)
    assert (event.bytes_in, event.bytes_out, event.missed) == (5, 6, 2)
    assert (event.exchanges, event.turns, event.large, event.verbatim) == (12, 10, 4, 3)
    assert (event.accepted, event.shared, event.prompted) == (False, False, True)
    event = decode(relay_record(wire.RELAY_ACCEPTED | wire.RELAY_SHARED))
    assert isinstance(event, Relay) and (event.accepted, event.shared, event.prompted) == (True, True, False)


def test_exec() -> None:
    event = decode(exec_record(flags=wire.FILELESS | wire.TRUNCATED))
    assert isinstance(event, Exec)
    assert (event.image, event.parent_image, event.cwd) == ("/usr/bin/ssh", "/bin/bash", "/")
    assert event.args == ["ssh", "-R"]
    assert event.ancestors == ((10, 100), (11, 99))
    assert (event.fileless, event.truncated, event.stdio_socket) == (True, True, False)
    assert (event.time, event.tgid, event.start, event.cgroup_id, event.uid) == (1000, 4242, 900, 77, 1000)


@pytest.mark.parametrize(
    ("raw", "args"),
    [
        (b"", []),
        (b"a\0", ["a"]),
        (b"a\0\0", ["a", ""]),
        (b"a\0b", ["a", "b"]),
        (b"\xff\xfe\0new\nline\0", ["\\xff\\xfe", "new\nline"]),
        ("caf\u00e9".encode() + b"\0", ["caf\u00e9"]),
    ],
)
def test_args_stay_apart_and_are_always_text(raw: bytes, args: list[str]) -> None:
    event = decode(exec_record(raw))
    assert isinstance(event, Exec) and event.args == args
    "".join(event.args).encode()


@pytest.mark.parametrize(
    ("family", "raw", "address"),
    [
        (socket.AF_INET, bytes([10, 1, 2, 3]), "10.1.2.3"),
        (socket.AF_INET6, bytes(15) + b"\1", "::1"),
        (socket.AF_INET6, bytes(10) + b"\xff\xff\x0a\1\2\3", "10.1.2.3"),
    ],
)
def test_addresses(family: int, raw: bytes, address: str) -> None:
    event = decode(connect_record(family, raw))
    assert isinstance(event, Connect)
    assert (event.address, event.port, event.protocol, event.repeats) == (address, 443, 6, 3)
    assert event.source_address is None and event.source_port is None


def test_the_other_kinds() -> None:
    assert isinstance(decode(RECORDS[1]), Exit)
    device = decode(device_record(3))
    assert isinstance(device, DeviceAccess) and (device.major, device.minor, device.access) == (195, 1, 3)
    made, removed, moved = (decode(record) for record in RECORDS[-3:])
    assert isinstance(made, CgroupMade) and (made.made, made.path) == (88, "/a\nb\\xff")
    assert isinstance(removed, CgroupRemoved) and removed.removed == 88
    assert isinstance(moved, CgroupMoved) and (moved.moved, moved.moved_start, moved.into, moved.left) == (
        66,
        55,
        88,
        9,
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "short_buffer"),
        (RECORDS[1][:33], "short_buffer"),
        (RECORDS[1][:-1], "short_buffer"),
        (exec_record()[:-1], "short_buffer"),
        (wire.HEADER.pack(*header(0)), "unknown_kind"),
        (wire.HEADER.pack(*header(999)), "unknown_kind"),
        (connect_record(socket.AF_UNIX, b""), "bad_field"),
        (device_record(0), "bad_field"),
        (device_record(4), "bad_field"),
    ],
)
def test_faults_have_names(data: bytes, kind: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert caught.value.kind == kind


def decodes_or_says_why(data: bytes) -> None:
    try:
        decode(data)
    except DecodeError as error:
        assert error.kind in ("unknown_kind", "short_buffer", "bad_field")


@given(st.binary(max_size=600))
@example(b"\0" * 600)
@example(b"\xff" * 600)
def test_any_bytes(data: bytes) -> None:
    decodes_or_says_why(data)


@given(st.integers(0, len(RECORDS) - 1), st.randoms(use_true_random=False), st.integers(1, 12))
def test_any_damage_to_a_real_record(which: int, randomness: random.Random, damages: int) -> None:
    data = bytearray(RECORDS[which])
    for _ in range(damages):
        data[randomness.randrange(len(data))] = randomness.randrange(256)
    decodes_or_says_why(bytes(data))
    decodes_or_says_why(bytes(data[: randomness.randrange(len(data))]))
