"""What the kill switch must never hit, against live cgroups and processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from respond_helpers import (
    MOUNT,
    executor,
    is_dead,
    outcome_of,
    python_in,
    spawn_in,
    state_of,
    verdict_on,
    wait_for,
)

from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.guards import Guards

pytestmark = pytest.mark.kernel

TREE = """
import os, sys, time
for _ in range(3):
    if os.fork() == 0:
        for _ in range(2):
            if os.fork() == 0: break
        time.sleep(1000)
print("grown", flush=True)
time.sleep(1000)
"""

KEEPS_FORKING = """
import os, time
for _ in range(3):
    if os.fork() == 0: break
else:
    print("go", flush=True)
for _ in range(1000):
    if os.fork() == 0:
        time.sleep(1000)
    time.sleep(0.001)
"""

RUNNING_SENSOR = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from respond_helpers import executor, outcome_of, verdict_on
cgroup, victim = Path(sys.argv[1]), int(sys.argv[2])
outcome = outcome_of(executor(), verdict_on(victim, cgroup))
print(outcome.outcome, outcome.scope, outcome.processes, outcome.reason, flush=True)
"""


def run_sensor_in(home: Path, target: Path, victim: int) -> str:
    """One verdict on `victim` in cgroup `target`, executed by a sensor whose own cgroup is `home`."""
    code = RUNNING_SENSOR.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            f'echo $$ > "{home}/cgroup.procs" && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            code,
            str(target),
            str(victim),
        ],
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 0, "the sensor killed itself"
    return done.stdout.decode().strip()


@pytest.mark.parametrize("home", [".", "below/it"])
def test_own_cgroup_and_its_ancestors_are_spared_and_the_process_dies_alone(cgroup: Path, home: str) -> None:
    (cgroup / home).mkdir(parents=True, exist_ok=True)
    victim, bystander = spawn_in(cgroup, count=2)
    said = run_sensor_in(cgroup / home, cgroup, victim.pid)
    assert said == f"done process 1 /{cgroup.name} holds the sensor itself; only the process and its descendants"
    assert is_dead(victim.pid) and not is_dead(bystander.pid)


def test_in_the_root_cgroup_only_the_process_and_its_descendants_die() -> None:
    """The test itself runs in some cgroup; a process moved to the root stands for a host's daemon."""
    process = python_in(MOUNT, TREE)
    wait_for(lambda: len(_descendants(process.pid)) == 9, "tree of ten")
    tree = [process.pid, *_descendants(process.pid)]
    outcome = outcome_of(executor(), verdict_on(process.pid, MOUNT))
    assert (outcome.outcome, outcome.scope, outcome.processes) == ("done", "process", 10)
    assert outcome.reason == "the root cgroup is never acted on; only the process and its descendants"
    assert all(is_dead(pid) for pid in tree)


def test_a_tree_whose_every_branch_keeps_forking_leaves_nobody(cgroup: Path) -> None:
    process = python_in(cgroup, KEEPS_FORKING)
    wait_for(lambda: len((cgroup / "cgroup.procs").read_text().split()) > 40, "many processes")
    outcome = outcome_of(executor(), verdict_on(process.pid, cgroup, scope="process"))
    assert outcome.outcome == "done" and outcome.processes is not None and outcome.processes > 40
    assert (cgroup / "cgroup.procs").read_text() == ""


def test_a_protected_unit_is_not_killed_as_a_whole(cgroup: Path) -> None:
    """A path glob, because units are told by their place under the root, where tests make nothing of a unit's name."""
    service, workload = cgroup / "node-service", cgroup / "agent"
    service.mkdir()
    workload.mkdir()
    worker, daemon = spawn_in(service, count=2)
    act = executor(protect=("/hostbrake-test-*/node-*",))
    outcome = outcome_of(act, verdict_on(worker.pid, service))
    assert outcome.scope == "process" and outcome.reason is not None and "is protected" in outcome.reason
    assert is_dead(worker.pid) and not is_dead(daemon.pid)
    (process,) = spawn_in(workload)
    outcome = outcome_of(act, verdict_on(process.pid, workload))
    assert (outcome.scope, outcome.outcome) == ("cgroup", "done") and is_dead(process.pid)


def test_a_cgroup_that_holds_a_protected_one_is_not_killed_as_a_whole(cgroup: Path) -> None:
    service = cgroup / "x" / "node-service"
    service.mkdir(parents=True)
    (daemon,) = spawn_in(service)
    (process,) = spawn_in(cgroup)
    outcome = outcome_of(executor(protect=("/*/node-*",)), verdict_on(process.pid, cgroup))
    assert outcome.scope == "process" and is_dead(process.pid) and not is_dead(daemon.pid)


def test_init_the_sensor_its_ancestors_and_kernel_threads_are_refused() -> None:
    act = executor()
    for pid in (1, 2, os.getpid(), os.getppid()):
        outcome = outcome_of(act, verdict_on(pid, MOUNT))
        assert outcome.outcome == "refused" and outcome.reason is not None, pid
        assert str(pid) in outcome.reason
    guards = Guards(CgroupRoot(MOUNT))
    assert "kernel thread" in str(guards.process_refusal(2))
    assert guards.refusal("/") == guards.refusal("//") == "the root cgroup is never acted on"


def test_the_sensors_own_child_may_be_killed_and_the_sensor_lives(cgroup: Path) -> None:
    (process,) = spawn_in(cgroup)
    assert outcome_of(executor(), verdict_on(process.pid, cgroup, scope="process")).outcome == "done"
    assert is_dead(process.pid)


def test_past_the_limit_a_process_is_stopped(cgroup: Path) -> None:
    act = executor(limit=1)
    first, second = spawn_in(cgroup, count=2)
    outcome_of(act, verdict_on(first.pid, cgroup, scope="process"))
    outcome = outcome_of(act, verdict_on(second.pid, cgroup, scope="process"))
    assert (outcome.action, outcome.outcome) == ("freeze", "done")
    assert state_of(second.pid) == "T"


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *_descendants(child)]
    return found
