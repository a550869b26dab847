"""The executor against live cgroups: what is to die is gone, what is to live lives."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from respond_helpers import (
    MOUNT,
    completed,
    executor,
    is_dead,
    is_empty,
    outcome_of,
    python_in,
    spawn_in,
    start_of,
    state_of,
    verdict_on,
    wait_for,
)

from sensor.respond.act import kill_cgroups
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Pending

pytestmark = pytest.mark.kernel

DEAD_LEADER = """
import ctypes, os, threading, time
def live():
    while open(f"/proc/{os.getpid()}/task/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    print("leader gone", flush=True)
    time.sleep(1000)
threading.Thread(target=live).start()
ctypes.CDLL(None).syscall(60, 0)  # SYS_exit: ends this thread only
"""

FORK_BOMB = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("go", flush=True)
for _ in range(100_000):  # bounded: each child lives for a moment, a few hundred at a time
    try:
        if os.fork() == 0:
            for _ in range(3):
                if os.fork() == 0:
                    signal.alarm(1)
                    signal.pause()
                    os._exit(0)
            os._exit(0)
    except OSError:
        pass
"""

IGNORES_SIGNALS = """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
print("deaf", flush=True)
while True: time.sleep(1000)
"""


HALF_THREADED = """
import threading, time
thread = threading.Thread(target=time.sleep, args=(1000,))
thread.start()
print("two threads", flush=True)
"""

TRACER = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print(libc.ptrace(int(sys.argv[2]), int(sys.argv[1]), 0, int(sys.argv[3])), flush=True)
time.sleep(1000)
"""
PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 16, 0x4206, 0x40  # include/uapi/linux/ptrace.h


@contextmanager
def tracing(pid: int, request: int, options: int) -> Iterator[int]:
    """Another process, whose pid this is, traces `pid`."""
    argv = [sys.executable, "-c", TRACER, *map(str, (pid, request, options))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as tracer:
        try:
            assert tracer.stdout is not None and tracer.stdout.readline() == b"0\n"
            yield tracer.pid
        finally:
            tracer.kill()


def test_twenty_processes_are_gone_before_the_outcome_says_done(cgroup: Path) -> None:
    processes = spawn_in(cgroup, count=20)
    outcome = outcome_of(executor(), verdict_on(processes[7].pid, cgroup))
    assert is_empty(cgroup)
    assert all(is_dead(process.pid) for process in processes)
    assert (outcome.mode, outcome.action, outcome.outcome) == ("enforce", "kill", "done")
    assert (outcome.scope, outcome.cgroup, outcome.processes) == ("cgroup", "/" + cgroup.name, 20)
    assert outcome.detect_ms is not None and outcome.respond_ms is not None
    assert 0 < outcome.detect_ms < outcome.respond_ms


def test_what_is_started_there_afterwards_runs(cgroup: Path) -> None:
    (process,) = spawn_in(cgroup)
    outcome_of(executor(), verdict_on(process.pid, cgroup))
    done = subprocess.run(
        ["/bin/sh", "-c", f"echo $$ > {cgroup}/cgroup.procs && echo ran"], stdout=subprocess.PIPE, timeout=20
    )
    assert done.stdout == b"ran\n"


def test_nested_children_die_too(cgroup: Path) -> None:
    deep = cgroup / "a" / "b" / "c"
    deep.mkdir(parents=True)
    processes = [*spawn_in(cgroup, count=2), *spawn_in(cgroup / "a", count=2), *spawn_in(deep, count=3)]
    outcome = outcome_of(executor(), verdict_on(processes[0].pid, cgroup))
    assert all(is_dead(process.pid) for process in processes)
    assert (outcome.outcome, outcome.processes) == ("done", 7)


def test_a_process_whose_leader_has_exited_dies(cgroup: Path) -> None:
    """cgroup.kill spares it, and the event is another process's."""
    process = python_in(cgroup, DEAD_LEADER)
    (offender,) = spawn_in(cgroup)
    assert state_of(process.pid) == "Z"
    outcome = outcome_of(executor(), verdict_on(offender.pid, cgroup))
    assert is_empty(cgroup)
    assert (outcome.outcome, outcome.processes) == ("done", 2)


def test_a_process_that_ignores_every_signal_dies(cgroup: Path) -> None:
    process = python_in(cgroup, IGNORES_SIGNALS)
    assert outcome_of(executor(), verdict_on(process.pid, cgroup)).outcome == "done"
    assert is_dead(process.pid)


def test_a_frozen_cgroup_dies(cgroup: Path) -> None:
    processes = spawn_in(cgroup, count=5)
    (cgroup / "cgroup.freeze").write_text("1")
    wait_for(lambda: "frozen 1" in (cgroup / "cgroup.events").read_text(), "frozen")
    assert outcome_of(executor(), verdict_on(processes[0].pid, cgroup)).outcome == "done"
    assert all(is_dead(process.pid) for process in processes)
    assert (cgroup / "cgroup.freeze").read_text() == "0\n"


def test_stopped_and_traced_processes_die(cgroup: Path) -> None:
    processes = spawn_in(cgroup, count=2)
    with tracing(processes[0].pid, PTRACE_ATTACH, 0):
        wait_for(lambda: state_of(processes[0].pid) == "t", "traced")
        os.kill(processes[1].pid, signal.SIGSTOP)
        wait_for(lambda: state_of(processes[1].pid) == "T", "stopped")
        assert outcome_of(executor(), verdict_on(processes[1].pid, cgroup)).outcome == "done"
        assert all(is_dead(process.pid) for process in processes)


def test_a_fork_bomb_dies(cgroup: Path) -> None:
    process = python_in(cgroup, FORK_BOMB)
    wait_for(lambda: len((cgroup / "cgroup.procs").read_text().split()) > 30, "many processes")
    outcome = outcome_of(executor(), verdict_on(process.pid, cgroup))  # its processes come and go all the while
    assert outcome.outcome == "done" and outcome.processes is not None and outcome.processes > 10
    assert is_empty(cgroup) and is_dead(process.pid)


def test_without_cgroup_kill_every_member_is_signalled(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cgroup / "below").mkdir()
    processes = [*spawn_in(cgroup, count=10), *spawn_in(cgroup / "below", count=10)]
    monkeypatch.setattr("sensor.respond.cgroupfs.Cgroup.kill", lambda self: False)  # as before Linux 5.14
    outcome = outcome_of(executor(), verdict_on(processes[0].pid, cgroup))
    assert (outcome.outcome, outcome.processes) == ("done", 20)
    assert all(is_dead(process.pid) for process in processes)


def test_a_threaded_cgroup_dies_though_it_has_no_cgroup_kill(cgroup: Path) -> None:
    threaded = cgroup / "threaded"
    threaded.mkdir()
    (threaded / "cgroup.type").write_text("threaded")
    process = python_in(cgroup, HALF_THREADED)
    tasks = [task.name for task in Path(f"/proc/{process.pid}/task").iterdir()]
    thread = next(tid for tid in tasks if tid != str(process.pid))
    (threaded / "cgroup.threads").write_text(thread)
    (bystander,) = spawn_in(cgroup)
    outcome = outcome_of(executor(), verdict_on(process.pid, threaded))
    assert (outcome.outcome, outcome.processes) == ("done", 1)
    assert is_dead(process.pid) and not is_dead(bystander.pid)


def test_a_process_that_left_the_cgroup_dies_as_well(cgroup: Path) -> None:
    here, there = cgroup / "here", cgroup / "there"
    here.mkdir()
    there.mkdir()
    left, stayed = spawn_in(here, count=2)
    verdict = verdict_on(left.pid, here)
    (there / "cgroup.procs").write_text(str(left.pid))
    assert outcome_of(executor(), verdict).outcome == "done"
    assert is_dead(left.pid) and is_dead(stayed.pid)


def test_a_cgroup_whose_name_is_no_utf8_is_found_by_its_id(cgroup: Path) -> None:
    hostile = Path(os.fsdecode(os.fsencode(cgroup) + b"/\xff\xfe"))
    hostile.mkdir()
    (cgroup / "beside").mkdir()
    (process,) = spawn_in(cgroup / "beside")
    (hostile / "cgroup.procs").write_text(str(process.pid))
    verdict = verdict_on(process.pid, cgroup / "beside")
    verdict.event.cgroup_path = f"/{cgroup.name}/\\xff\\xfe"
    verdict.event.cgroup_id = hostile.stat().st_ino
    outcome = outcome_of(executor(), verdict)
    assert (outcome.outcome, outcome.scope) == ("done", "cgroup")
    assert is_dead(process.pid)


def test_a_remade_cgroup_of_the_same_name_is_not_touched(cgroup: Path) -> None:
    path = cgroup / "again"
    path.mkdir()
    (first,) = spawn_in(path)
    verdict = verdict_on(first.pid, path)
    first.kill()
    first.wait()
    wait_for(lambda: is_empty(path), "empty")
    path.rmdir()
    path.mkdir()
    (second,) = spawn_in(path)
    outcome = outcome_of(executor(), verdict)
    assert (outcome.outcome, outcome.processes) == ("done", 0)
    assert outcome.reason == "nothing was left to kill"
    assert not is_dead(second.pid)


def test_a_container_dies_as_a_whole_when_the_event_is_in_a_cgroup_below(cgroup: Path) -> None:
    container_id = "f" * 64
    container = cgroup / f"docker-{container_id}.scope"
    below = container / "init" / "x"
    below.mkdir(parents=True)
    (outside,) = spawn_in(cgroup)
    processes = [*spawn_in(container), *spawn_in(below)]
    verdict = verdict_on(processes[1].pid, below)
    verdict.event.container_id = container_id
    outcome = outcome_of(executor(), verdict)
    assert (outcome.outcome, outcome.cgroup) == ("done", f"/{cgroup.name}/{container.name}")
    assert all(is_dead(process.pid) for process in processes) and not is_dead(outside.pid)


def test_in_slurm_the_step_dies_and_slurmstepd_lives(cgroup: Path) -> None:
    job = cgroup / "slurmstepd.scope" / "job_7"
    user, daemon = job / "step_0" / "user", job / "step_0" / "slurm"
    other_step = job / "step_1" / "user"
    for path in (user / "task_0", user / "task_1", daemon, other_step):
        path.mkdir(parents=True)
    (stepd,) = spawn_in(daemon)
    tasks = [*spawn_in(user / "task_0"), *spawn_in(user / "task_1")]
    (other,) = spawn_in(other_step)
    act = executor(protect=("/hostbrake-test-*/slurmstepd.scope",))
    assert outcome_of(act, verdict_on(tasks[0].pid, user / "task_0")).outcome == "done"
    assert all(is_dead(task.pid) for task in tasks)
    assert not is_dead(stepd.pid) and not is_dead(other.pid)
    (again,) = spawn_in(user / "task_0")
    outcome = outcome_of(act, verdict_on(again.pid, user / "task_0", scope="agent"))
    assert (outcome.outcome, outcome.scope) == ("done", "agent")
    assert is_dead(again.pid) and is_dead(other.pid) and not is_dead(stepd.pid)


def test_monitor_kills_nothing(cgroup: Path) -> None:
    processes = spawn_in(cgroup, count=3)
    outcome = outcome_of(executor("monitor"), verdict_on(processes[0].pid, cgroup))
    assert (outcome.mode, outcome.action, outcome.outcome) == ("monitor", "kill", "would")
    assert outcome.cgroup == "/" + cgroup.name and outcome.respond_ms is None
    time.sleep(0.1)
    assert not any(is_dead(process.pid) for process in processes)
    assert (cgroup / "cgroup.freeze").read_text() == "0\n"


def test_past_the_limit_it_freezes_and_says_so(cgroup: Path) -> None:
    act = executor(limit=2)
    paths = [cgroup / name for name in "abc"]
    processes = []
    outcomes = []
    for path in paths:
        path.mkdir()
        processes += spawn_in(path)
        outcomes.append(outcome_of(act, verdict_on(processes[-1].pid, path)))
    assert [outcome.action for outcome in outcomes] == ["kill", "kill", "freeze"]
    assert [outcome.outcome for outcome in outcomes] == ["done"] * 3
    assert outcomes[2].reason is not None and "2 kills within a minute" in outcomes[2].reason
    assert outcomes[2].processes == 1 and outcomes[2].respond_ms is not None
    assert "frozen 1" in (paths[2] / "cgroup.events").read_text()
    assert [is_dead(process.pid) for process in processes] == [True, True, False]


def test_verdicts_on_a_cgroup_that_is_dying_share_the_kill(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensor.respond.executor.INLINE_S", 0.0)
    processes = spawn_in(
        cgroup, sys.executable, "-S", "-c", "x = bytearray(50_000_000)\nimport time; time.sleep(1000)", count=4
    )
    wait_for(lambda: all(_resident_mb(process.pid) > 40 for process in processes), "took its memory")
    act = executor(limit=1)
    verdicts = [verdict_on(process.pid, cgroup) for process in processes]
    begun = [act.begin(verdict) for verdict in verdicts]
    assert all(isinstance(each, Pending) for each in begun)
    assert all(each.outcome.outcome == "pending" for each in begun if isinstance(each, Pending))
    done = {id(verdict): outcome for verdict, outcome in completed(act, len(begun))}
    assert [done[id(verdict)].outcome for verdict in verdicts] == ["done"] * 4
    assert {done[id(verdict)].action for verdict in verdicts} == {"kill"}, "counted as one kill"
    assert is_empty(cgroup) and act.timeout() is None


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def test_what_survives_is_named_and_the_outcome_is_failed(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a tracer holds at its exit stands for one in an uninterruptible sleep."""
    monkeypatch.setattr("sensor.respond.executor.BOUND_S", 0.3)
    (process,) = spawn_in(cgroup)
    with tracing(process.pid, PTRACE_SEIZE, PTRACE_O_TRACEEXIT) as tracer:
        outcome = outcome_of(executor(), verdict_on(process.pid, cgroup))
    assert outcome.outcome == "failed" and outcome.reason is not None
    assert f"{process.pid} (sleep, state t, traced by {tracer})" in outcome.reason


def test_waiting_for_what_does_not_die_does_not_spin(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensor.respond.executor.BOUND_S", 1.0)
    held, dies = spawn_in(cgroup, count=2)
    act = executor()
    with tracing(held.pid, PTRACE_SEIZE, PTRACE_O_TRACEEXIT), select.epoll() as epoll:
        epoll.register(act.fileno(), select.EPOLLIN)
        assert isinstance(act.begin(verdict_on(dies.pid, cgroup)), Pending)
        wakes, outcomes = 0, []
        while not outcomes:
            wakes += len(epoll.poll(act.timeout()))
            outcomes = act.completed()
    assert outcomes[0][1].outcome == "failed" and wakes < 10


def test_kill_cgroups_says_how_many_and_who_survived(cgroup: Path) -> None:
    processes = spawn_in(cgroup, count=5)
    root = CgroupRoot(MOUNT)
    held = root.open("/" + cgroup.name)
    assert held is not None
    assert kill_cgroups([held], 20) == (5, [])
    assert all(is_dead(process.pid) for process in processes)


def test_a_reused_pid_is_not_killed(cgroup: Path) -> None:
    (process,) = spawn_in(cgroup)
    wrong = verdict_on(process.pid, None, scope="process", ticks=start_of(process.pid) - 1)
    outcome = outcome_of(executor(), wrong)
    assert (outcome.outcome, outcome.processes) == ("done", 0)
    assert outcome.reason == "nothing was left to kill"
    other_boot = verdict_on(process.pid, None, scope="process")
    other_boot.event.process_guid = f"{'0' * 32}-{process.pid}-{start_of(process.pid)}"
    outcome_of(executor(), other_boot)
    time.sleep(0.1)
    assert not is_dead(process.pid)
