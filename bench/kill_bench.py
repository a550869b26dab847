"""Time from a verdict to a cgroup verified dead: `python bench/kill_bench.py [--kills N] [--processes N] [--python]`.

What is killed are `sleep`s, or idle Python interpreters with --python, whose memory takes longer to give back.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

from sensor.context.identity import TICK, guid, start_ticks
from sensor.events import ProcessCreation
from sensor.node import cgroup2_mount
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Executor, Pending
from sensor.respond.guards import Guards
from sensor.respond.plan import Planner
from sensor.verdict import RuleInfo, Verdict

SLEEP = ["/bin/sleep", "1000"]
PYTHON = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
RULE = RuleInfo(id="00000000-0000-0000-0000-000000000000", title="Bench", action="kill")


def kill_once(executor: Executor, cgroup: Path, argv: list[str], count: int) -> float:
    """Milliseconds from the verdict to the verified death of `count` processes."""
    pids = [os.posix_spawn(argv[0], argv, os.environ) for _ in range(count)]
    for pid in pids:
        (cgroup / "cgroup.procs").write_text(str(pid))
    time.sleep(0.05)
    event = ProcessCreation(
        time=time.time_ns(),
        process_id=pids[0],
        process_guid=guid(pids[0], (start_ticks(pids[0]) or 0) * TICK),
        cgroup_path="/" + cgroup.name,
        cgroup_id=cgroup.stat().st_ino,
        boottime=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    )
    begun = executor.begin(Verdict(rule=RULE, event=event))
    outcomes = [begun] if not isinstance(begun, Pending) else []
    while not outcomes:
        outcomes = [outcome for _, outcome in executor.completed()]
    (outcome,) = outcomes
    assert (outcome.outcome, outcome.processes) == ("done", count), outcome
    for pid in pids:
        os.waitpid(pid, 0)
    assert outcome.respond_ms is not None
    return outcome.respond_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--python", action="store_true")
    options = parser.parse_args()
    root = CgroupRoot(cgroup2_mount())
    guards = Guards(root)
    executor = Executor(root, Planner(root, guards), guards, "enforce", kills_per_minute=options.kills)
    cgroup = Path(root.mount) / f"hostbrake-bench-{os.getpid()}"
    cgroup.mkdir()
    argv = PYTHON if options.python else SLEEP
    try:
        times = sorted(kill_once(executor, cgroup, argv, options.processes) for _ in range(options.kills))
    finally:
        (cgroup / "cgroup.kill").write_text("1")
        while "populated 1" in (cgroup / "cgroup.events").read_text():
            time.sleep(0.001)
        cgroup.rmdir()
    print(
        f"{options.kills} kills of {options.processes} {Path(argv[0]).name}: median {statistics.median(times):.2f} ms, "
        f"p99 {times[int(len(times) * 0.99) - 1]:.2f} ms, worst {times[-1]:.2f} ms"
    )


if __name__ == "__main__":
    main()
