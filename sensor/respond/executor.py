"""The one place that acts: carries plans out, verifies their effect, and owns `monitor`.

It never blocks the caller for longer than `INLINE_S`: what takes longer is pending, and the caller asks for it
when `Executor.fileno()` polls readable and every `Executor.timeout()` seconds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections import Counter, deque
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from sensor.events import AnyEvent, DeviceOpen, FlowEvent, ProcessCreation
from sensor.respond import process
from sensor.respond.act import BOUND_S, POLL_S, Act, FreezeCgroups, KillCgroups, KillProcess, ThawCgroups, survived
from sensor.respond.cgroupfs import Cgroup, CgroupRoot
from sensor.respond.guards import Guards
from sensor.respond.isolation import IsolateCgroups, Isolation
from sensor.respond.plan import Plan, Planner, Target
from sensor.verdict import Action, Mode, Outcome, OutcomeName, Scope, Verdict

Intend = Callable[[Verdict, Outcome], None]
"""Told what is about to be done, before any of it is; must neither raise nor wait."""
INLINE_S = 0.02
"""How long `begin` waits for the effect itself; most cgroups are dead after 2 to 6 ms."""
_RETRY_S = 0.01
_MINUTE_S = 60.0


class _Result(msgspec.Struct, frozen=True):
    name: OutcomeName
    at: int
    """CLOCK_BOOTTIME, nanoseconds: when it was verified."""
    processes: int
    reason: str | None = None


class _Job:
    """One act under way, for one or more verdicts."""

    def __init__(self, act: Act, action: Action, scope: Scope, reason: str | None) -> None:
        self.act = act
        self.action = action
        self.scope = scope
        self.reason = reason
        self.deadline = time.monotonic() + BOUND_S
        self.result: _Result | None = None

    def advance(self) -> bool:
        """True once there is a result."""
        if self.result is None:
            try:
                self._step()
            except OSError as error:
                self._end("failed", f"the kernel refused: {error.strerror}")
        return self.result is not None

    def begin(self) -> None:
        try:
            self.act.begin()
        except OSError as error:
            self._end("failed", f"the kernel refused: {error.strerror}")

    def _step(self) -> None:
        if self.act.is_settled():
            at = _now()
            self.act.finish()
            self._end("done", self.reason, at)
        elif time.monotonic() > self.deadline:
            self._end("failed", survived(self.act.survivors(), BOUND_S))

    def _end(self, name: OutcomeName, reason: str | None, at: int | None = None) -> None:
        self.result = _Result(name, at or _now(), self.act.processes, reason)
        self.act.close()


class Pending(msgspec.Struct, frozen=True):
    """An act that takes longer; `Executor.completed` gives its outcome."""

    verdict: Verdict
    outcome: Outcome
    """As far as is known: outcome `pending`."""


class Executor:
    """Carries out what verdicts ask for."""

    def __init__(
        self,
        root: CgroupRoot,
        planner: Planner,
        guards: Guards,
        mode: Mode,
        kills_per_minute: int = 30,
        *,
        intend: Intend | None = None,
    ) -> None:
        self.mode = mode
        self.counts: Counter[str] = Counter()
        """Responses by action and outcome: "kill done", "freeze failed"."""
        self._root = root
        self._planner = planner
        self._guards = guards
        self._intend = intend
        self._isolation: Isolation | None = None
        self._kills: deque[float] = deque(maxlen=kills_per_minute)
        self._jobs: dict[object, _Job] = {}
        self._waiting: list[tuple[Pending, _Job]] = []
        self._epoll = select.epoll()

    def use(self, planner: Planner, guards: Guards, mode: Mode, kills_per_minute: int) -> None:
        """From the next verdict on."""
        self.mode = mode
        self._planner = planner
        self._guards = guards
        self._kills = deque(self._kills, maxlen=kills_per_minute)

    def isolate_with(self, isolation: Isolation) -> None:
        """What carries out `isolate`."""
        self._isolation = isolation

    def begin(self, verdict: Verdict) -> Outcome | Pending:
        """Do what `verdict` asks for, or say why not. Raises nothing for what the kernel or a process does."""
        detect_ms = _since(verdict.event, _now())
        if verdict.rule.action == "deny" and _was_denied(verdict.event):
            return self._counted(_denied(self.mode, detect_ms))
        if verdict.rule.action == "deny" and _would_be_denied(verdict.event):
            return self._counted(replace(_denied(self.mode, detect_ms), outcome="would", respond_ms=None))
        plan = self._planner.plan(verdict)
        outcome = Outcome(
            mode=self.mode,
            action=plan.action,
            outcome="none",
            reason=plan.reason,
            scope=None if plan.action == "alert" else plan.scope,
            cgroup=_in_words(plan.cgroups),
            detect_ms=detect_ms,
        )
        if plan.refused:
            return self._counted(replace(outcome, outcome="refused"))
        if plan.action == "alert":
            return self._counted(outcome)
        if self.mode == "monitor":
            return self._counted(replace(outcome, outcome="would"))
        return self._act(verdict, plan, outcome)

    def carry_out(self, verdict: Verdict, plan: Plan) -> Outcome | Pending:
        """As `begin`, but by this plan, and in monitor mode too: a person decided it."""
        outcome = Outcome(
            mode=self.mode,
            action=plan.action,
            outcome="none",
            reason=plan.reason,
            scope=plan.scope,
            cgroup=_in_words(plan.cgroups),
        )
        return self._act(verdict, plan, outcome)

    def _act(self, verdict: Verdict, plan: Plan, outcome: Outcome) -> Outcome | Pending:
        if self._intend is not None:
            self._intend(verdict, outcome)
        key = plan.action, plan.thaw, plan.cgroups or plan.process
        job = self._jobs.get(key)
        if job is None:
            try:
                job = self._job(plan, _ended(verdict.event))
            except OSError as error:
                reason = f"the target cannot be opened: {error.strerror}"
                return self._counted(replace(outcome, outcome="failed", reason=reason))
            job.begin()
            self._wait_inline(job)
        if job.result is not None:
            return self._counted(_completed(verdict, outcome, job))
        if key not in self._jobs:
            self._jobs[key] = job
            for fd, events in job.act.wakers():
                self._epoll.register(fd, events | select.EPOLLET)  # a dead process's pidfd stays readable
        pending = Pending(verdict, replace(outcome, action=job.action, outcome="pending", reason=job.reason))
        self._waiting.append((pending, job))
        return pending

    def fileno(self) -> int:
        """Polls readable when `completed` may have something to give."""
        return self._epoll.fileno()

    def timeout(self) -> float | None:
        """Seconds after which to call `completed` though `fileno` was not readable; None: nothing is pending."""
        return _RETRY_S if self._waiting else None

    def completed(self) -> list[tuple[Verdict, Outcome]]:
        """The outcomes that became known since the last call; drives what is pending."""
        self._epoll.poll(0)  # takes back what made `fileno` readable
        for key, job in list(self._jobs.items()):
            if job.advance():
                del self._jobs[key]
        done = [(pending, job) for pending, job in self._waiting if job.result is not None]
        self._waiting = [(pending, job) for pending, job in self._waiting if job.result is None]
        return [
            (pending.verdict, self._counted(_completed(pending.verdict, pending.outcome, job))) for pending, job in done
        ]

    def close(self) -> list[tuple[Verdict, Outcome]]:
        """Give up waiting: the outcomes of all that was still pending, as far as they are known."""
        done = self.completed()
        for pending, job in self._waiting:
            done.append((pending.verdict, self._counted(pending.outcome)))
            if job in self._jobs.values():
                job.act.close()
                self._jobs = {key: other for key, other in self._jobs.items() if other is not job}
        self._waiting = []
        self._epoll.close()
        return done

    def _job(self, plan: Plan, ended: int | None) -> _Job:
        """`ended`: the process that the kernel side has ended already."""
        with contextlib.ExitStack() as held:
            cgroups = self._open(plan.cgroups, held)
            offender = process.open_process(plan.process) if plan.process else None
            if offender:
                held.callback(os.close, offender[1])
            alive = offender is not None or any(cgroup.is_populated() for cgroup in cgroups)
            held.pop_all()  # the act owns them from here
        if offender and plan.cgroups and self._guards.process_refusal(offender[0]):
            os.close(offender[1])
            offender = None
        kills = plan.action in ("kill", "deny") and not plan.decided
        freeze = kills and alive and self._is_over_limit()
        reasons = [plan.reason]
        if freeze:
            limit = self._kills.maxlen
            reasons.append(f"{limit} kills within a minute reached: frozen instead, until thawed or killed")
        elif not alive:
            verb = "thaw" if plan.thaw else "kill" if plan.action == "deny" else plan.action
            reasons.append("the kernel ended it before it began" if ended else f"nothing was left to {verb}")
        elif not cgroups and plan.cgroups:
            reasons.append("the cgroup is gone; only the process and its descendants")
        return _Job(
            self._whole(cgroups, offender, plan)
            if plan.action in ("freeze", "isolate")
            else self._target(cgroups, offender, freeze, ended),
            action="freeze" if freeze else plan.action,
            scope=plan.scope if cgroups else "process",
            reason="; ".join(filter(None, reasons)) or None,
        )

    def _target(self, cgroups: list[Cgroup], offender: tuple[int, int] | None, freeze: bool, ended: int | None) -> Act:
        if not cgroups and offender is not None:
            return KillProcess(*offender, self._guards.spared(), freeze)
        if not freeze:
            return KillCgroups(cgroups, offender[1] if offender else None, ended)
        if offender is not None:
            os.close(offender[1])
        return FreezeCgroups(cgroups)

    def _whole(self, cgroups: list[Cgroup], offender: tuple[int, int] | None, plan: Plan) -> Act:
        """What is done to whole cgroups alone."""
        if offender is not None:
            os.close(offender[1])
        if not cgroups and not plan.thaw:
            raise FileNotFoundError(errno.ENOENT, "it is gone")
        if plan.action == "isolate":
            if self._isolation is None:
                raise OSError(errno.EOPNOTSUPP, "there are no kernel programs to do it")
            return IsolateCgroups(cgroups, self._isolation)
        return ThawCgroups(cgroups) if plan.thaw else FreezeCgroups(cgroups)

    def _open(self, targets: tuple[Target, ...], held: contextlib.ExitStack) -> list[Cgroup]:
        """Those of the cgroups that are still there, and still the ones that were meant."""
        opened: list[Cgroup] = []
        for target in targets:
            cgroup = self._root.open(target.path, target.id)
            if cgroup is None:
                continue
            if self._is_meant(cgroup, target):
                held.callback(cgroup.close)
                opened.append(cgroup)
            else:
                cgroup.close()
        return opened

    def _is_meant(self, cgroup: Cgroup, target: Target) -> bool:
        if target.witness is not None and not self._is_same(target.witness):
            return False
        # found by its id under another path than the guards were asked about
        return cgroup.path == target.path or self._guards.refusal(cgroup.path) is None

    def _is_same(self, witness: tuple[str, int]) -> bool:
        path, cgroup_id = witness
        below = self._root.open(path)
        if below is None:
            return True  # only the cgroup below has gone
        try:
            return below.id == cgroup_id
        finally:
            below.close()

    def _is_over_limit(self) -> bool:
        """Counts one more kill, unless there were as many as may be in the last minute."""
        now = time.monotonic()
        if len(self._kills) == self._kills.maxlen and now - self._kills[0] < _MINUTE_S:
            return True
        self._kills.append(now)
        return False

    @staticmethod
    def _wait_inline(job: _Job) -> None:
        until = time.monotonic() + INLINE_S
        while not job.advance() and time.monotonic() < until:
            time.sleep(POLL_S)

    def _counted(self, outcome: Outcome) -> Outcome:
        self.counts[f"{outcome.action} {outcome.outcome}"] += 1
        return outcome


def _completed(verdict: Verdict, outcome: Outcome, job: _Job) -> Outcome:
    result = job.result
    if result is None:
        return outcome
    return replace(
        outcome,
        action=job.action,
        scope=job.scope,
        outcome=result.name,
        reason=result.reason,
        processes=result.processes,
        respond_ms=_since(verdict.event, result.at) if result.name == "done" else None,
    )


def _was_denied(event: AnyEvent) -> bool:
    """The kernel refused it. A denied program is no such thing: that its process is gone has to be verified."""
    return isinstance(event, FlowEvent | DeviceOpen) and bool(event.denied)


def _ended(event: AnyEvent) -> int | None:
    """The process that the kernel side ended before its first instruction."""
    return event.process_id if isinstance(event, ProcessCreation) and event.denied else None


def _would_be_denied(event: AnyEvent) -> bool:
    return isinstance(event, FlowEvent | DeviceOpen) and bool(event.would_deny)


def _denied(mode: Mode, detect_ms: float | None) -> Outcome:
    """Nothing had left when the kernel told of it."""
    return Outcome(
        mode=mode, action="deny", outcome="done", scope="process", processes=0, detect_ms=detect_ms, respond_ms=0.0
    )


def _in_words(targets: tuple[Target, ...]) -> str | None:
    if not targets:
        return None
    return targets[0].path + (f" and {len(targets) - 1} more" if len(targets) > 1 else "")


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _since(event: AnyEvent, now: int) -> float | None:
    return round((now - event.boottime) / 1e6, 3) if event.boottime else None
