"""Ring bytes to typed kernel events. Pure: no I/O, and no exception but DecodeError."""

from __future__ import annotations

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


class Exec(Origin):
    args: list[str]
    cwd: str
    parent_image: str
    fileless: bool
    stdio_socket: bool


class Exit(Kernel):
    """The last thread of a process ended."""


class Connect(Origin):
    address: str
    """Destination, as inet_ntop writes it; IPv4-mapped IPv6 is given as IPv4."""
    port: int
    protocol: int
    """IPPROTO_*."""
    source_address: str | None
    source_port: int | None
    repeats: int
    denied: bool


class DeviceAccess(Origin):
    major: int
    minor: int
    access: int
    """Bits: 1 read, 2 write."""
    repeats: int
    denied: bool


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
