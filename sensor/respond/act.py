"""What can be done to a target, in steps that never block: begin, then ask `is_settled` until it is.

Where the kernel refuses a step, `begin` and `is_settled` raise OSError; the target may then be half done.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from sensor.respond import process
from sensor.respond.cgroupfs import Cgroup

BOUND_S = 10.0
"""When what has not died yet is reported as having survived."""
POLL_S = 0.0001
_NAMED = 5
_FIRST_PASS_S = 0.001
_LAST_PASS_S = 0.05
_STOP_BOUND_S = 0.05
_BATCH = 256
"""Pidfds held at a time: a fork bomb has more processes than the sensor may have descriptors."""


class Act(Protocol):
    """One action on one target."""

    processes: int
    """How many processes it reached."""

    def begin(self) -> None: ...
    def is_settled(self) -> bool:
        """The effect is verified. Repeats what has to be repeated; cheap enough to be asked every 0.1 ms."""

    def finish(self) -> None:
        """Leave the target as it should be left; once, after it settled."""

    def wakers(self) -> list[tuple[int, int]]:
        """(descriptor, poll events) that tell when to ask again; they stay open until `close`."""

    def survivors(self) -> list[str]:
        """What is not in the wanted state, in words."""

    def close(self) -> None: ...


class KillCgroups:
    """Freeze, cgroup.kill, then SIGKILL to whatever it spared, until nothing in these cgroups is alive.

    cgroup.kill signals the leader of each process, and so spares one whose leader has exited (seen on 6.18);
    threaded cgroups and kernels before 5.14 have none. A signal through a pidfd reaches those.
    """

    def __init__(
        self, cgroups: Sequence[Cgroup], offender: int | None = None, ended: int | None = None, hold: bool = False
    ) -> None:
        """`offender`: a pidfd of a process that has to die too if it has left these cgroups. Owned from now.
        `ended`: a process that counts, though it is dead already. With `hold` the cgroups stay frozen.
        """
        self.processes = 0 if ended is None else 1
        self._hold = hold
        self._cgroups = cgroups
        self._offender = offender
        self._seen: set[int] = set() if ended is None else {ended}
        self._pass_after = 0.0
        self._pass_wait = _FIRST_PASS_S

    def begin(self) -> None:
        for cgroup in self._cgroups:
            if self._hold or cgroup.is_populated():
                cgroup.freeze()
            if cgroup.is_populated():
                self._count(cgroup.processes())
                if not cgroup.kill():
                    _kill_members(cgroup)
        if self._offender is not None and not _has_exited(self._offender):
            process.send(self._offender, signal.SIGKILL)
        self._pass_after = time.monotonic() + self._pass_wait

    def is_settled(self) -> bool:
        populated = [cgroup for cgroup in self._cgroups if cgroup.is_populated()]
        if not populated:
            return self._offender is None or _has_exited(self._offender)
        if time.monotonic() >= self._pass_after:
            for cgroup in populated:
                cgroup.freeze()  # it may have been thawed by one that died since
                self._count(_kill_members(cgroup))
            self._pass_wait = min(self._pass_wait * 2, _LAST_PASS_S)
            self._pass_after = time.monotonic() + self._pass_wait
        return False

    def finish(self) -> None:
        for cgroup in self._cgroups if not self._hold else ():
            cgroup.freeze(False)  # else whatever is started here next would hang

    def wakers(self) -> list[tuple[int, int]]:
        events = [(fd, select.POLLPRI) for cgroup in self._cgroups if (fd := cgroup.events_fd()) is not None]
        return events if self._offender is None else [*events, (self._offender, select.POLLIN)]

    def survivors(self) -> list[str]:
        return _in_words(pid for cgroup in self._cgroups for pid in cgroup.processes())

    def close(self) -> None:
        for cgroup in self._cgroups:
            cgroup.close()
        if self._offender is not None:
            os.close(self._offender)

    def _count(self, pids: set[int]) -> None:
        self._seen |= pids
        self.processes = len(self._seen)


class FreezeCgroups:
    """Freeze, and leave it so."""

    def __init__(self, cgroups: Sequence[Cgroup]) -> None:
        self.processes = 0
        self._cgroups = cgroups

    def begin(self) -> None:
        for cgroup in self._cgroups:
            cgroup.freeze()
        self.processes = len({pid for cgroup in self._cgroups for pid in cgroup.processes()})

    def is_settled(self) -> bool:
        return all(cgroup.is_frozen() or not cgroup.is_populated() for cgroup in self._cgroups)

    def finish(self) -> None:
        return

    def wakers(self) -> list[tuple[int, int]]:
        return [(fd, select.POLLPRI) for cgroup in self._cgroups if (fd := cgroup.events_fd()) is not None]

    def survivors(self) -> list[str]:
        return _in_words(pid for cgroup in self._cgroups if not cgroup.is_frozen() for pid in cgroup.processes())

    def close(self) -> None:
        for cgroup in self._cgroups:
            cgroup.close()


class ThawCgroups:
    """Let go on what `FreezeCgroups` stopped; what is frozen from above stays so, and that is no failure."""

    def __init__(self, cgroups: Sequence[Cgroup]) -> None:
        self.processes = 0
        self._cgroups = cgroups

    def begin(self) -> None:
        self.processes = len({pid for cgroup in self._cgroups for pid in cgroup.processes()})
        for cgroup in self._cgroups:
            cgroup.freeze(False)

    def is_settled(self) -> bool:
        return not self._stopped()

    def finish(self) -> None:
        return

    def wakers(self) -> list[tuple[int, int]]:
        return [(fd, select.POLLPRI) for cgroup in self._cgroups if (fd := cgroup.events_fd()) is not None]

    def survivors(self) -> list[str]:
        return _in_words(pid for cgroup in self._stopped() for pid in cgroup.processes())

    def close(self) -> None:
        for cgroup in self._cgroups:
            cgroup.close()

    def _stopped(self) -> list[Cgroup]:
        return [
            cgroup
            for cgroup in self._cgroups
            if cgroup.is_populated() and cgroup.is_frozen() and not cgroup.is_held_above()
        ]


class KillProcess:
    """A process and its descendants: stop each, collect its children once it forks no more, then kill all.

    Without the stop, a child forked between the look and the kill would lose its parent and be out of reach.
    Descendants that had lost their parent before (daemons) are not found. With `freeze`, they stay stopped.
    """

    def __init__(self, pid: int, pidfd: int, spared: frozenset[int] | set[int], freeze: bool = False) -> None:
        """`pidfd` is owned from now; processes in `spared` are left alone, and so are their children."""
        self.processes = 0
        self._root = pid
        self._members = {pid: pidfd}
        self._unscanned = {pid}
        self._spared = spared
        self._freeze = freeze
        self._killed = False
        self._kill_after = 0.0

    def begin(self) -> None:
        if _has_exited(self._members[self._root]):
            self._unscanned.clear()
            return
        process.send(self._members[self._root], signal.SIGSTOP)
        self.processes = 1
        self._kill_after = time.monotonic() + _STOP_BOUND_S

    def is_settled(self) -> bool:
        if self._killed:
            return all(map(_has_exited, self._members.values()))
        try:
            self._collect()
        except OSError:
            self._kill()  # out of descriptors, most likely: what is held must not stay stopped
            raise
        if self._freeze:
            return not self._unscanned and all(map(process.has_stopped, self._members))
        if not self._unscanned or time.monotonic() >= self._kill_after:
            self._kill()
        return False

    def finish(self) -> None:
        return

    def wakers(self) -> list[tuple[int, int]]:
        return [(pidfd, select.POLLIN) for pidfd in self._members.values()]

    def survivors(self) -> list[str]:
        return _in_words(pid for pid, pidfd in self._members.items() if not _has_exited(pidfd))

    def close(self) -> None:
        for pidfd in self._members.values():
            os.close(pidfd)

    def _kill(self) -> None:
        for pidfd in self._members.values():
            process.send(pidfd, signal.SIGKILL)
        self._killed = True

    def _collect(self) -> None:
        found = True
        while found:
            found = False
            for pid in list(self._unscanned):
                if not process.has_stopped(pid) and time.monotonic() < self._kill_after:
                    continue
                self._unscanned.discard(pid)
                for child in process.children(pid):
                    found |= self._add(child, pid)

    def _add(self, pid: int, parent: int) -> bool:
        if pid in self._members or pid in self._spared:
            return False
        pidfd = process.open_pid(pid)
        if pidfd is None:
            return False
        stat = process.read_stat(pid)
        if stat is None or stat.parent != parent:
            os.close(pidfd)
            return False
        process.send(pidfd, signal.SIGSTOP)
        self._members[pid] = pidfd
        self._unscanned.add(pid)
        self.processes += 1
        return True


def kill_cgroups(cgroups: Iterable[Cgroup], timeout_s: float = BOUND_S, *, hold: bool = False) -> tuple[int, list[str]]:
    """Kill all that is in `cgroups` and wait for it: (how many processes, who survived `timeout_s`, in words).

    Where the kernel refuses one cgroup, that is said of it, and the others die nevertheless. Closes them all. With
    `hold` they stay frozen: what is put into them later does not run.
    """
    return _settled({cgroup.path: KillCgroups([cgroup], hold=hold) for cgroup in cgroups}, timeout_s)


def freeze_cgroups(cgroups: Iterable[Cgroup], thaw: bool, timeout_s: float = BOUND_S) -> tuple[int, list[str]]:
    """Freeze or thaw `cgroups`, as `kill_cgroups` kills them: (how many processes, which did not follow, in words)."""
    kind = ThawCgroups if thaw else FreezeCgroups
    return _settled({cgroup.path: kind([cgroup]) for cgroup in cgroups}, timeout_s)


def _settled(acts: Mapping[str, Act], timeout_s: float) -> tuple[int, list[str]]:
    failed: list[str] = []
    with contextlib.ExitStack() as held:
        for act in acts.values():
            held.callback(act.close)
        until = time.monotonic() + timeout_s
        waiting = _settle(acts, True, failed)
        while waiting and time.monotonic() < until:
            time.sleep(POLL_S)
            waiting = _settle(waiting, False, failed)
        failed += [name for act in waiting.values() for name in act.survivors()]
    return sum(act.processes for act in acts.values()), failed


def _settle(acts: Mapping[str, Act], first: bool, failed: list[str]) -> dict[str, Act]:
    """Those of `acts` that have not settled; what the kernel refuses goes to `failed`."""
    waiting = {}
    for path, act in acts.items():
        try:
            if first:
                act.begin()
            if act.is_settled():
                act.finish()
            else:
                waiting[path] = act
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
    return waiting


def survived(names: list[str], seconds: float) -> str:
    """One sentence that names the first few of those that could not be killed."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"not done after {seconds:g} s: {', '.join(names[:_NAMED])}{more}"


def _kill_members(cgroup: Cgroup) -> set[int]:
    """SIGKILL to every member, each held by pidfd and seen to be a member while held: pids are reused."""
    listed = sorted(cgroup.processes())
    killed: set[int] = set()
    for start in range(0, len(listed), _BATCH):
        held = {}
        try:
            for pid in listed[start : start + _BATCH]:
                pidfd = process.open_pid(pid)
                if pidfd is not None:
                    held[pid] = pidfd
            for pid in held.keys() & cgroup.processes():
                process.send(held[pid], signal.SIGKILL)
                killed.add(pid)
        finally:
            for pidfd in held.values():
                os.close(pidfd)
    return killed


def _has_exited(pidfd: int) -> bool:
    """True for zombies too (pidfd_open(2): a pidfd polls readable when its process terminates)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _in_words(pids: Iterable[int]) -> list[str]:
    return [words for pid in sorted(set(pids)) if (words := process.describe(pid))]
