"""How busy a cgroup keeps CPUs and GPUs, asked when a report of one of its flows comes: nothing is polled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec

_SECOND = 1_000_000_000
_LIMIT = 4096

GpuReader = Callable[[], "dict[str, float] | None"]
"""Cgroup path -> percent of one GPU's time that its own processes used of late; None where it cannot be told."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What a cgroup and those below it used since the look before; None where it cannot be told."""

    cpu_cores: float | None = None
    """CPU seconds per second."""
    gpu_utilisation: float | None = None
    """Percent of one GPU's time, summed over GPUs; may exceed 100."""


class _Look(msgspec.Struct, gc=False):
    time: int
    cpu: int | None
    usage: Usage


class Usages:
    """Looks at most every `apart_s` seconds at one cgroup; in between gives what the last look gave.

    `root` is where the cgroup v2 hierarchy is mounted. `gpus` is None where no GPU can be asked.
    """

    def __init__(self, root: Path, gpus: GpuReader | None = None, apart_s: float = 20.0) -> None:
        self._root = root
        self._gpus = gpus
        self._apart = int(apart_s * _SECOND)
        self._looks: OrderedDict[int, _Look] = OrderedDict()
        self._gpu_due = 0
        self._gpu_seen: dict[str, float] | None = None

    def of(self, cgroup_id: int, path: str | None, now: int) -> Usage | None:
        """`now` is CLOCK_BOOTTIME, nanoseconds. None for the root, which is no workload, and at the first look."""
        if path is None or path == "/":
            return None
        last = self._looks.get(cgroup_id)
        if last is not None and now - last.time < self._apart:
            return last.usage
        cpu = self._cpu(path)
        cores = None
        if last is not None and last.cpu is not None and cpu is not None:
            cores = round((cpu - last.cpu) * 1000 / (now - last.time), 3)
        usage = Usage(cores, self._gpu(path, now))
        self._looks[cgroup_id] = _Look(now, cpu, usage)
        self._looks.move_to_end(cgroup_id)
        if len(self._looks) > _LIMIT:
            self._looks.popitem(last=False)
        return usage

    def _cpu(self, path: str) -> int | None:
        """Microseconds, children included (cgroup-v2.rst, cpu.stat: there without the cpu controller too)."""
        try:
            text = (self._root / path[1:] / "cpu.stat").read_text()
        except OSError:  # the cgroup is gone, or its path is no text that a file system knows
            return None
        name, _, rest = text.partition(" ")
        return int(rest.partition("\n")[0]) if name == "usage_usec" else None

    def _gpu(self, path: str, now: int) -> float | None:
        if self._gpus is None:
            return None
        if now >= self._gpu_due:
            self._gpu_due = now + self._apart
            self._gpu_seen = self._gpus()
        if self._gpu_seen is None:
            return None
        below = path + "/"
        return round(sum(used for at, used in self._gpu_seen.items() if at == path or at.startswith(below)), 1)
