"""The executor's freeze and thaw on live cgroups, beside its kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from respond_helpers import MOUNT, executor, is_dead, is_empty, outcome_of, spawn_in, verdict_on

from sensor.respond.executor import Pending
from sensor.respond.plan import Plan, Target
from sensor.verdict import Outcome

pytestmark = pytest.mark.kernel


def frozen(cgroup: Path) -> bool:
    return "frozen 1" in (cgroup / "cgroup.events").read_text()


def thaw(cgroup: Path) -> Plan:
    return Plan(action="freeze", scope="cgroup", cgroups=(Target(f"/{cgroup.name}"),), decided=True, thaw=True)


def test_freeze_is_verified_and_leaves_all_alive(cgroup: Path) -> None:
    processes = spawn_in(cgroup, count=3)
    begun = outcome_of(executor(), verdict_on(processes[0].pid, cgroup, "freeze"))
    assert (begun.action, begun.outcome, begun.scope, begun.processes) == ("freeze", "done", "cgroup", 3)
    assert begun.respond_ms is not None and frozen(cgroup) and not any(is_dead(process.pid) for process in processes)


def test_monitor_mode_freezes_nothing_by_itself_and_does_what_a_person_decides(cgroup: Path) -> None:
    (process,) = spawn_in(cgroup)
    ours = executor("monitor")
    verdict = verdict_on(process.pid, cgroup, "freeze")
    assert outcome_of(ours, verdict).outcome == "would" and not frozen(cgroup)
    (cgroup / "cgroup.freeze").write_text("1")
    begun = ours.carry_out(verdict, thaw(cgroup))
    assert isinstance(begun, Outcome | Pending)
    assert not frozen(cgroup)


def test_freezes_do_not_count_as_kills(cgroup: Path) -> None:
    ours = executor(limit=1)
    for number in range(3):
        (cgroup / str(number)).mkdir()
        (process,) = spawn_in(cgroup / str(number))
        assert outcome_of(ours, verdict_on(process.pid, cgroup / str(number), "freeze")).outcome == "done"
    assert outcome_of(ours, verdict_on(process.pid, cgroup / "2")).action == "kill" and is_empty(cgroup / "2")
    decided = Plan(action="kill", scope="cgroup", cgroups=(Target(f"/{cgroup.name}/1"),), decided=True)
    denied = ours.carry_out(verdict_on(process.pid, cgroup / "1", ticks=0), decided)
    assert isinstance(denied, Outcome) and (denied.action, denied.outcome) == ("kill", "done"), "nor do decisions"


def test_what_is_frozen_is_killed_all_the_same(cgroup: Path) -> None:
    processes = spawn_in(cgroup, count=2)
    ours = executor()
    assert outcome_of(ours, verdict_on(processes[0].pid, cgroup, "freeze")).outcome == "done"
    assert outcome_of(ours, verdict_on(processes[1].pid, cgroup)).outcome == "done"
    assert is_empty(cgroup) and not frozen(cgroup)


def test_a_cgroup_that_is_gone_is_no_success(cgroup: Path) -> None:
    (cgroup / "gone").mkdir()
    (process,) = spawn_in(cgroup)
    verdict = verdict_on(process.pid, cgroup / "gone", "freeze")
    (cgroup / "gone").rmdir()
    outcome = outcome_of(executor(), verdict)
    assert outcome.outcome == "failed" and str(outcome.reason).endswith("it is gone")
    assert not is_dead(process.pid) and MOUNT.is_dir()
