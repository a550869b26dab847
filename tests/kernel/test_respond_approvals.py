"""Approvals on live cgroups without a sensor around them: what is slow, what is too much, what joins."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from respond_helpers import MOUNT, executor, is_empty, spawn_in, verdict_on, wait_for

from sensor.agents_file import AgentFile, Match, Owner
from sensor.record.alerts import reason, sentence
from sensor.respond import approvals as module
from sensor.respond import executor as acting
from sensor.respond.approvals import ApprovalError, Approvals, Words
from sensor.respond.casebook import Casebook
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Pending
from sensor.respond.guards import Guards
from sensor.respond.plan import Planner
from sensor.verdict import Mode, Outcome, Verdict

pytestmark = pytest.mark.kernel

BUSY = (sys.executable, "-S", "-c", "while True: pass")


def frozen(cgroup: Path) -> bool:
    return "frozen 1" in (cgroup / "cgroup.events").read_text()


def approvals(directory: Path, mode: Mode = "enforce") -> Approvals:
    root = CgroupRoot(MOUNT)
    planner = Planner(root, Guards(root))
    made = Approvals(executor(mode), planner, root, Casebook(directory / "s"), Words(reason, sentence))
    owner = Owner(name="Ada", notify=["mailto:a@example.org"])
    rome = AgentFile(agent="rome", purpose="x", owner=owner, match=[Match(cgroup="/x")], approve_within="1h")
    made.use([rome], "10m")
    return made


def settled(ours: Approvals, begun: Outcome | Pending) -> Outcome:
    assert isinstance(begun, Pending)
    done: list[Outcome] = []

    def look() -> bool:
        done.extend(outcome for verdict, outcome in ours.completed() if verdict is begun.verdict)
        return bool(done)

    wait_for(look, "settled")
    return done[0]


def only_case(ours: Approvals, outcome: Outcome) -> str:
    assert outcome.outcome == "pending"
    name = str(outcome.reason).partition("case ")[2].partition(":")[0]
    assert ours.case(name).held
    return name


def test_what_takes_longer_has_the_same_end(cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for inline: whichever is not settled at once is pending, and settles later."""
    monkeypatch.setattr(acting, "INLINE_S", 0.0)
    for number, answer in enumerate(("approve", "deny")):
        work = cgroup / answer
        work.mkdir()
        ours = approvals(tmp_path / answer)
        processes = spawn_in(work, *BUSY, count=2)
        name = only_case(ours, settled(ours, ours.begin(verdict_on(processes[0].pid, work, "freeze"))))
        assert frozen(work)
        if answer == "approve":
            ours.approve(name, "Ada", None)
        else:
            ours.deny(name, "Ada")
        done: list[tuple[Verdict, Outcome]] = []
        wait_for(lambda got=done, who=ours: bool(got.extend(who.completed()) or got), "carried out")  # type: ignore[misc]
        ((_, outcome),) = done
        assert (outcome.outcome, outcome.action) == ("done", ("freeze", "kill")[number])
        assert not frozen(work) and is_empty(work) == (answer == "deny")
        closed = ours.closed(name)
        assert closed is not None and closed.outcome == outcome
        with pytest.raises(ApprovalError, match="is closed: "):
            ours.case(name)


def test_further_matches_join_the_case(cgroup: Path, tmp_path: Path) -> None:
    (process,) = spawn_in(cgroup)
    ours = approvals(tmp_path)
    verdict = verdict_on(process.pid, cgroup, "freeze")
    names = {only_case(ours, settled(ours, ours.begin(verdict))) for _ in range(3)}
    assert len(names) == 1 and ours.case(names.pop()).repeats == 2
    other = verdict_on(process.pid, cgroup, "freeze")  # of a rule with another id
    assert only_case(ours, settled(ours, ours.begin(other))) not in names


def test_past_the_limit_it_is_frozen_without_a_case(
    cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CASES_LIMIT", 1)
    ours = approvals(tmp_path)
    outcomes = []
    for name in "ab":
        (cgroup / name).mkdir()
        (process,) = spawn_in(cgroup / name)
        outcomes.append(settled(ours, ours.begin(verdict_on(process.pid, cgroup / name, "freeze"))).outcome)
    assert outcomes == ["pending", "done"] and frozen(cgroup / "a") and frozen(cgroup / "b")
    assert Casebook(tmp_path / "s").cases.keys() == {only.id for only in Casebook(tmp_path / "s").pending}


def test_approvals_that_hold_are_bounded(cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRANTS_LIMIT", 1)
    (process,) = spawn_in(cgroup)
    ours = approvals(tmp_path)
    for turn in range(2):
        name = only_case(ours, settled(ours, ours.begin(verdict_on(process.pid, cgroup, "freeze"))))
        for wrong in (0, -1, 31 * 86_400, 10**30):
            with pytest.raises(ApprovalError, match="at most 30 days"):
                ours.approve(name, "Ada", wrong)
        if turn == 0:
            ours.approve(name, "Ada", 60)
    with pytest.raises(ApprovalError, match="1 approvals hold already"):
        ours.approve(name, "Ada", 60)
    assert frozen(cgroup)
    ours.approve(name, "Ada", None)
    assert not frozen(cgroup)


def test_how_long_an_answer_may_take(cgroup: Path, tmp_path: Path) -> None:
    (process,) = spawn_in(cgroup)
    ours = approvals(tmp_path)
    for agent, seconds in (("rome", 3600), ("oslo", 600), (None, 600)):
        verdict = verdict_on(process.pid, cgroup, "freeze")
        verdict.event.agent = agent
        case = ours.case(only_case(ours, settled(ours, ours.begin(verdict))))
        left = (case.deadline - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
        assert case.within_s == seconds and seconds - 60 < left <= seconds


def test_the_clock_denies_nobody_in_monitor_mode(cgroup: Path, tmp_path: Path) -> None:
    """A sensor that was set to monitor while a workload waits: a person can still answer."""
    (process,) = spawn_in(cgroup)
    before = approvals(tmp_path)
    name = only_case(before, settled(before, before.begin(verdict_on(process.pid, cgroup, "freeze"))))
    ours = approvals(tmp_path, "monitor")
    ours.resume()
    ours.case(name).deadline = 0
    ours.tick()
    assert frozen(cgroup) and not is_empty(cgroup) and ours.case(name)
    ours.approve(name, "Ada", None)
    assert not frozen(cgroup) and not is_empty(cgroup)
