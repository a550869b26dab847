"""An executor for recordings: says what the response would be, by paths alone, and knows no node."""

from __future__ import annotations

from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Executor
from sensor.respond.guards import Guards
from sensor.respond.plan import Planner


class _NoCgroups(CgroupRoot):
    def __init__(self) -> None:
        """Opens nothing: the recording may be another node's."""

    def below(self, path: str) -> list[str]:
        return []


class _PathGuards(Guards):
    """The guards that hold by name: which process is the sensor, no recording tells."""

    def process_refusal(self, pid: int) -> str | None:
        return "process 1 is init" if pid == 1 else None

    @staticmethod
    def _cgroup_of(pid: int) -> str | None:
        return None


def rehearsal() -> Executor:
    """An executor in monitor mode: it never acts."""
    root = _NoCgroups()
    guards = _PathGuards(root)
    return Executor(root, Planner(root, guards), guards, mode="monitor")
