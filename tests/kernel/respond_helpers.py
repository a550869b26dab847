"""Processes and cgroups for the respond stage's tests; nothing here is taken from the code under test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from sensor.context.identity import guid
from sensor.events import ProcessCreation
from sensor.node import cgroup2_mount
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Executor, Pending
from sensor.respond.guards import Guards
from sensor.respond.plan import Planner
from sensor.verdict import Action, Mode, Outcome, RuleInfo, Scope, Verdict

MOUNT = cgroup2_mount()
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def spawn_in(cgroup: Path, *argv: str, count: int = 1) -> list[subprocess.Popen[bytes]]:
    """Processes that were in `cgroup` before they ran their program."""
    procs = cgroup / "cgroup.procs"
    enter = ("/bin/sh", "-c", f'echo $$ > "{procs}" && exec "$@"', "sh", *(argv or ("/bin/sleep", "1000")))
    started = [subprocess.Popen(enter, stdout=subprocess.PIPE) for _ in range(count)]
    wait_for(lambda: all(str(p.pid) in procs.read_text().split() for p in started), "entered the cgroup")
    wait_for(lambda: all(_comm(p.pid) != "sh" for p in started), "runs its program")
    return started


def python_in(cgroup: Path, code: str) -> subprocess.Popen[bytes]:
    """A Python program in `cgroup` that has printed one line, which is thrown away."""
    (process,) = spawn_in(cgroup, sys.executable, "-S", "-c", code)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def start_of(pid: int) -> int:
    """When the process began, in ticks since boot, from /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def state_of(pid: int) -> str:
    """ "-" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "-"


def is_dead(pid: int) -> bool:
    return state_of(pid) in "-ZX"


def is_empty(cgroup: Path) -> bool:
    return "populated 0" in (cgroup / "cgroup.events").read_text()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def verdict_on(
    pid: int, cgroup: Path | None, action: Action = "kill", scope: Scope = "cgroup", ticks: int | None = None
) -> Verdict:
    """As if the process had just done something that a rule forbids."""
    event = ProcessCreation(
        time=time.time_ns(),
        process_id=pid,
        process_guid=guid(pid, (start_of(pid) if ticks is None else ticks) * TICK_NS),
        image="/bin/sleep",
        cgroup_path=None if cgroup is None else "/" + str(cgroup.relative_to(MOUNT)).strip("."),
        cgroup_id=None if cgroup is None else cgroup.stat().st_ino,
        boottime=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    )
    rule = RuleInfo(id=str(uuid.uuid4()), title="Test", level="high", action=action, scope=scope)
    return Verdict(rule=rule, event=event)


def executor(mode: Mode = "enforce", limit: int = 30, protect: tuple[str, ...] = ()) -> Executor:
    root = CgroupRoot(MOUNT)
    guards = Guards(root, protect)
    return Executor(root, Planner(root, guards), guards, mode, limit)


def outcome_of(executor: Executor, verdict: Verdict) -> Outcome:
    """The final outcome, waiting for one that is pending."""
    begun = executor.begin(verdict)
    if not isinstance(begun, Pending):
        return begun
    found = [outcome for _, outcome in completed(executor, 1)]
    return found[0]


def completed(executor: Executor, count: int, timeout_s: float = 30) -> Iterator[tuple[Verdict, Outcome]]:
    done: list[tuple[Verdict, Outcome]] = []
    deadline = time.monotonic() + timeout_s
    while len(done) < count:
        done += executor.completed()
        assert time.monotonic() < deadline, "still pending"
        time.sleep(executor.timeout() or 0)
    return iter(done)
