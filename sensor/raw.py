"""What the kernel side tells, decoded: see `sensor.decode`. Types alone."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Kernel(msgspec.Struct, gc=False):
    """What every kernel event says of the task that caused it."""

    time: int
    """CLOCK_BOOTTIME, nanoseconds."""
    tgid: int
    start: int
    """task_struct.start_boottime of the thread group leader, nanoseconds; with tgid, the process."""
    cgroup_id: int
    """Inode number of the task's cgroup v2 directory."""
    uid: int


class Origin(Kernel):
    """An event of which rules judge: carries the image, so that it can be told when the process is gone."""

    image: str
    ancestors: tuple[tuple[int, int], ...]
    """(tgid, start) of the ancestors, the parent first; as many as the kernel side walked."""
    truncated: bool
    agent: int
    """The number of the agent whose limit this was against; 0 where it was against none."""
    denied: bool
    """It was not let happen."""
    unwanted: bool
    """It was against a limit that is not enforced."""


class Exec(Origin):
    args: list[str]
    cwd: str
    parent_image: str
    fileless: bool
    stdio_socket: bool
    stdio_family: int
    """AF_* of the first standard stream that is a socket; 0 where none is."""
    fed: bool = False
    """Standard input and output each have another end on this host: pipe, pty or unix socket."""
    piped: bool = False
    """They have, and neither is a pty."""


class Exit(Kernel):
    """The last thread of a process ended."""


class Connect(Origin):
    address: str
    """Destination, as inet_ntop writes it; IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2) is given as IPv4."""
    port: int
    protocol: int
    """IPPROTO_*."""
    source_address: str | None
    source_port: int | None
    repeats: int
    prompt: Prompt | None = None


class Prompt(msgspec.Struct, gc=False, frozen=True):
    """Words that came unasked, on a connection that a process holds, shortly before it connected elsewhere."""

    time: int
    """CLOCK_BOOTTIME, nanoseconds."""
    address: str
    port: int
    shared: bool
    """They came to another process of the cgroup."""


class DeviceAccess(Origin):
    major: int
    minor: int
    access: int
    """Bits: 1 read, 2 write."""
    repeats: int


class Rounding(Origin):
    """A program keeps changing among the three rounding modes other than to nearest (MXCSR bits 13 and 14)."""

    span: int
    """From the first sample to the last, nanoseconds."""
    down: int
    """Samples, taken when one of its threads left the CPU, in which arithmetic rounded down; so for the others."""
    up: int
    toward_zero: int
    changes: int
    """How many samples differ from the one before."""


class Ends(msgspec.Struct, gc=False, frozen=True):
    """Between what and what a flow runs, and which it is."""

    cookie: int
    """The socket's, unique since boot."""
    remote: str
    local: str
    remote_port: int
    local_port: int
    protocol: int
    """IPPROTO_*."""


class Payload(Kernel):
    """A part of the first bytes of a flow. The task is the one that sent its first packet; tgid 0: unknown."""

    ends: Ends
    offset: int
    """Of this part in its direction's stream; 0 for a datagram."""
    inbound: bool
    data: bytes
    accepted: bool = False
    """Somebody else opened the flow."""


class FlowTotals(Kernel):
    """What a flow has carried since its last report: at its end, and every minute while packets come.

    Of flows that one process opens to one end one after the other, a report a second says it of all together.
    """

    ends: Ends
    began: int
    """CLOCK_BOOTTIME, nanoseconds; 0: not known."""
    bytes_out: int
    """Headers from IP on included."""
    bytes_in: int
    packets_out: int
    packets_in: int
    flows: int
    """How many ended."""
    closed: bool
    refused: bool
    """It ended before it was established."""
    accepted: bool = False
    """Somebody else opened it."""


class Relay(Kernel):
    """What comes in on an outer connection, which this host opened, goes out on an inner one, and the answer back.

    The task holds the outer connection; tgid 0: unknown.
    """

    outer: Ends
    inner: Ends
    inner_tgid: int
    inner_start: int
    bytes_in: int
    """Relayed from the outer connection to the inner one, framing left out."""
    bytes_out: int
    exchanges: int
    """Bursts after which something went out on the other side, of the way that has fewer."""
    turns: int
    """So, of those that went out as they came but for framing."""
    large: int
    """As `turns`, of those of 256 bytes or more."""
    verbatim: int
    """As `turns`, of those that ended in the very same bytes."""
    missed: int
    """Bursts on either connection that were not relayed."""
    accepted: bool
    """Somebody else opened the inner connection."""
    shared: bool
    """The inner connection is another process's, in the same cgroup."""
    prompted: bool
    """The inner connection was opened when the outer one had just spoken."""


class CgroupMade(Kernel):
    """`cgroup_id` is the acting task's; `made` and `path` say which cgroup came to be."""

    made: int
    path: str


class CgroupRemoved(Kernel):
    removed: int
    path: str


class CgroupMoved(Kernel):
    """Process `moved` (all of it or one thread) is now in cgroup `into`."""

    moved: int
    moved_start: int
    into: int
    path: str
    left: int
    """The number of the agent whose policy it took with it out of that agent's cgroups; 0: of none."""


KernelEvent: TypeAlias = (
    Exec
    | Exit
    | Connect
    | DeviceAccess
    | CgroupMade
    | CgroupRemoved
    | CgroupMoved
    | Payload
    | FlowTotals
    | Rounding
    | Relay
)
