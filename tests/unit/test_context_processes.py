from __future__ import annotations

import subprocess
import sys

from sensor.context.identity import TICK, start_ticks
from sensor.context.processes import Process, Processes

GONE = 2**22 + 1  # past PID_MAX_LIMIT: no process has this pid


def program(image: str, *args: str) -> Process:
    return Process(image, " ".join((image, *args)), [image, *args])


def test_pid_used_again_is_another_process() -> None:
    table = Processes()
    table.executed(GONE, 5 * TICK, program("/old"))
    table.executed(GONE, 9 * TICK, program("/new"))
    table.exited(GONE, 5 * TICK)
    assert table.get(GONE, 5 * TICK) is None
    found = table.get(GONE, 9 * TICK)
    assert found is not None
    assert found.image == "/new"


def test_nanoseconds_below_a_tick_make_no_difference() -> None:
    table = Processes()
    table.executed(GONE, 5 * TICK + 1, program("/a"))
    assert table.get(GONE, 5 * TICK + TICK - 1) is not None


def test_exec_replaces_and_does_not_add() -> None:
    table = Processes()
    table.executed(GONE, TICK, program("/bin/sh"))
    table.executed(GONE, TICK, program("/usr/bin/ssh", "-R"))
    assert len(table) == 1
    found = table.get(GONE, TICK)
    assert found is not None
    assert found.command_line == "/usr/bin/ssh -R"


def test_full_table_lets_the_oldest_go_and_counts_them() -> None:
    table = Processes(limit=100)
    for number in range(1, 151):
        table.executed(number, TICK, program("/x"))
    assert len(table) <= 100
    assert len(table) + table.evicted == 150
    assert table.get(1, TICK) is None
    assert table.get(150, TICK) is not None


def test_long_command_lines_are_bounded_together() -> None:
    table = Processes(text_limit=10_000)
    for number in range(1, 101):
        table.executed(number, TICK, program("/x", "y" * 1000))
    assert len(table) < 10
    assert table.evicted == 100 - len(table)
    for number in range(1, 101):
        table.exited(number, TICK)
    for number in range(1, 9):
        table.executed(number, TICK, program("/x", "y" * 1000))
    assert len(table) == 8, "what left must not count any more"


def test_fork_runs_what_its_parent_runs() -> None:
    table = Processes()
    table.executed(10, TICK, program("/sbin/init"))
    table.executed(20, TICK, program("/bin/bash", "job.sh"))
    found = table.find(GONE, TICK, "/bin/bash", ((30, TICK), (20, TICK), (10, TICK)))
    assert found is not None
    assert found.command_line == "/bin/bash job.sh"


def test_orphan_does_not_get_the_command_line_of_init() -> None:
    table = Processes()
    table.executed(10, TICK, program("/sbin/init"))
    assert table.find(GONE, TICK, "/tmp/miner", ((10, TICK),)) is None


def test_ancestors_that_only_forked_run_what_the_next_known_one_runs() -> None:
    table = Processes()
    table.executed(20, TICK, program("/bin/bash"))
    table.executed(10, TICK, program("/sbin/init"))
    chain = ((40, TICK), (30, TICK), (20, TICK), (10, TICK), (5, TICK))
    assert table.images(chain) == ["/bin/bash", "/bin/bash", "/bin/bash", "/sbin/init"]
    assert table.images(()) == []


def test_process_that_no_event_told_of_is_read_from_proc() -> None:
    argv = [sys.executable, "-c", "print(flush=True); input()", "new\r\nline", "", b"\xff\xfe"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n", "past its exec"
        ticks = start_ticks(child.pid)
        assert ticks is not None
        table = Processes()
        found = table.find(child.pid, ticks * TICK, "", ())
        assert found is not None
        assert found.args[1:] == [*argv[1:-1], "\\xff\\xfe"]
        assert found.command_line.encode(), "valid UTF-8"
        assert table.find(child.pid, (ticks + 1) * TICK, "", ()) is None, "the pid was another process's then"
        child.communicate(b"\n")
    table.exited(child.pid, ticks * TICK)
    assert table.find(child.pid, ticks * TICK, "", ()) is None
