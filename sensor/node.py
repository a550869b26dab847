"""Facts about this node that more than one stage needs."""

from __future__ import annotations

import platform
import time
from functools import lru_cache
from pathlib import Path


class NodeError(Exception):
    """This node lacks something; the message is one sentence that says what, and what to do."""


def cgroup2_mount(mountinfo: str = "/proc/self/mountinfo") -> Path:
    """Where the cgroup v2 hierarchy is mounted (proc(5), mountinfo fields 4, 5 and the type after " - ").

    Raises NodeError where there is none. A mount of the whole hierarchy wins over one of a part of it.
    """
    partial: Path | None = None
    for line in Path(mountinfo).read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] != "cgroup2":
            continue
        root, mount_point = before.split(" ")[3:5]
        path = Path(mount_point.encode().decode("unicode_escape"))  # mountinfo escapes blanks as \040
        if root == "/":
            return path
        partial = partial or path
    if partial is None:
        raise NodeError("no cgroup v2 is mounted; try: mount -t cgroup2 none /sys/fs/cgroup/unified")
    return partial


@lru_cache(maxsize=1)
def boot_id() -> str:
    """This boot's random id, 32 hexadecimal digits (proc(5), sys/kernel/random/boot_id)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def resolvers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """The addresses of the node's DNS servers (resolv.conf(5)); none where the file cannot be read."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    return [found[1].partition("%")[0] for found in words if len(found) > 1 and found[0] == "nameserver"]


@lru_cache(maxsize=1)
def host() -> tuple[str, str | None]:
    """(host name, machine id or None), for the alert's `host`."""
    try:
        machine_id = Path("/etc/machine-id").read_text().strip() or None
    except OSError:
        machine_id = None
    return platform.node(), machine_id


def boottime_offset() -> int:
    """Nanoseconds to add to CLOCK_BOOTTIME to get time since the epoch, now: the wall clock may step."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
