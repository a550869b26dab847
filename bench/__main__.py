"""`make bench`: the machine bare and with the sensor under the shipped rules, in turns, in one run.

Each figure is a median over rounds; the aim stands beside it. Nothing here fails: it reports.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import limits_bench, match_bench, protocols_bench
from bench.switch_bench import bench_switch
from sensor.cli.staging import Sensor, StageError, start_in, throwaway_cgroup
from sensor.config import shipped_rules_dir
from sensor.readiness import obstacle

STORMS = {"exec": 5_000, "connect": 20_000, "open": 200_000, "http": 20_000, "bulk": 8_192}
AIM_RATIO = {"exec": 1.03, "connect": 1.03, "open": 1.00, "http": 1 / 0.93, "bulk": 1 / 0.97}
AIM_CPU_MS = {"exec": 35.0, "connect": 2.0}
PROCESSES = 20
PARTS = ("rules", "recogniser", "storms", "rest", "kills", "limits", "switch")
KERNEL_PARTS = {"storms", "rest", "kills", "limits", "switch"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of storms (default 7)")
    parser.add_argument("--kills", type=int, default=200, help="automatic kills (default 200)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of idleness (default 10)")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; repeatable (default all)")
    options = parser.parse_args()
    parts = set(options.only or PARTS)
    if "rules" in parts:
        match_bench.main()
    if "recogniser" in parts:
        protocols_bench.main()
    missing = obstacle() if parts & KERNEL_PARTS else None
    if missing:
        sys.exit(f"bench: {missing}")
    with tempfile.TemporaryDirectory(prefix="hostbrake-bench") as place:
        directory = Path(place)
        program = directory / "storms"
        source = Path(__file__).with_name("storms.c")
        subprocess.run(["gcc", "-O2", "-Wall", "-Werror", source, "-o", program], check=True)
        if "storms" in parts:
            bench_storms(directory, program, options.rounds)
        if "rest" in parts:
            bench_rest(directory, options.idle)
        if "kills" in parts:
            bench_kills(directory, options.kills)
        if "limits" in parts:
            limits_bench.main()
        if "switch" in parts:
            bench_switch(directory, options.rounds)


@contextlib.contextmanager
def sensing(directory: Path, *options: str) -> Iterator[tuple[Sensor, Path, float]]:
    """A ready sensor, the cgroup it watches, and how many seconds it took to become ready."""
    with throwaway_cgroup(f"hostbrake-bench-{os.getpid()}") as cgroup:
        began = time.monotonic()
        sensor = Sensor(directory, cgroup, "--rules", shipped_rules_dir(), *options)
        try:
            sensor.wait_ready()
            yield sensor, cgroup, time.monotonic() - began
        finally:
            sensor.stop()


def storm(program: Path, name: str, cgroup: Path) -> float:
    """Seconds of wall time of one storm in `cgroup`."""
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    command = ["/bin/sh", "-c", enter, cgroup, program, name, str(STORMS[name])]
    return int(subprocess.run(command, check=True, capture_output=True).stdout) / 1e9


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of `pid`, in nanosecond resolution (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def bench_storms(directory: Path, program: Path, rounds: int) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in STORMS}
    cpu: dict[str, list[float]] = {name: [] for name in STORMS}
    walls: dict[str, list[tuple[float, float]]] = {name: [] for name in STORMS}
    lost: dict[str, int] = {}
    for turn in range(rounds):
        for name, count in STORMS.items():
            # bare before and after, so that a drift of the machine falls on both sides
            first, watched, used, losses = storm_pair(directory, program, name)
            with throwaway_cgroup(f"hostbrake-bare-{os.getpid()}") as cgroup:
                bare = (first + storm(program, name, cgroup)) / 2
            ratios[name].append(watched / bare)
            walls[name].append((bare, watched))
            cpu[name].append(used * 1000 / (count / 1000))
            for place, missing in losses.items():
                lost[place] = lost.get(place, 0) + missing
        print(f"\rround {turn + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(
        f"{'storm':9}{'count':>8}{'bare s':>9}{'sensor s':>10}{'ratio':>8}{'aim':>6}{'CPU ms per 1,000':>19}{'aim':>6}"
    )
    for name, count in STORMS.items():
        bare_s, watched_s = (statistics.median(column) for column in zip(*walls[name], strict=True))
        aim_cpu = f"{AIM_CPU_MS[name]:g}" if name in AIM_CPU_MS else ""
        print(
            f"{name:9}{count:>8}{bare_s:>9.3f}{watched_s:>10.3f}{statistics.median(ratios[name]):>8.3f}"
            f"{AIM_RATIO[name]:>6.2f}{statistics.median(cpu[name]):>19.2f}{aim_cpu:>6}"
        )
    print(f"lost: {lost or 'nothing'}")


def storm_pair(directory: Path, program: Path, name: str) -> tuple[float, float, float, dict[str, int]]:
    """(bare s, watched s, the sensor's CPU s, losses) of one storm."""
    with throwaway_cgroup(f"hostbrake-bare-{os.getpid()}") as cgroup:
        bare = storm(program, name, cgroup)
    with sensing(directory) as (sensor, cgroup, _):
        before = cpu_seconds(sensor.process.pid)
        watched = storm(program, name, cgroup)
        used = cpu_seconds(sensor.process.pid) - before
        lost: dict[str, Any] = sensor.wait_ready()["lost"]
    return bare, watched, used, lost


def bench_rest(directory: Path, idle_s: float) -> None:
    ready = []
    for _ in range(5):
        with sensing(directory) as (_, _, seconds):
            ready.append(seconds)
    with sensing(directory) as (sensor, _, _):
        time.sleep(1)
        before = cpu_seconds(sensor.process.pid)
        time.sleep(idle_s)
        idle = (cpu_seconds(sensor.process.pid) - before) / idle_s * 100
        status = Path(f"/proc/{sensor.process.pid}/status").read_text()
        memory = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024
    print(f"ready after start    {statistics.median(ready):.3f} s   (aim 0.3)")
    print(f"idle CPU             {idle:.3f} %   (aim 0.2)")
    print(f"resident memory      {memory:.1f} MB   (aim 60)")


def bench_kills(directory: Path, kills: int) -> None:
    """Kernel event to verified-dead cgroup of 20 processes, as the sensor's own alerts say it."""
    config = directory / "sensor.yml"
    config.write_text(f"mode: enforce\nkills_per_minute: {kills * 2}\n")
    miner = directory / "xmrig"
    shutil.copy(os.path.realpath("/bin/sh"), miner)
    detect, respond, failed = [], [], 0
    with sensing(directory, "--config", str(config)) as (sensor, parent, _):
        for number in range(kills):
            cgroup = parent / f"kill-{number}"
            cgroup.mkdir()
            workers = [start_in(cgroup, ["/bin/sleep", "300"]) for _ in range(PROCESSES - 1)]
            while len((cgroup / "cgroup.procs").read_text().split()) < len(workers):
                time.sleep(0.001)
            workers.append(start_in(cgroup, [miner, "-c", "sleep 300; :"]))
            alert = sensor.wait_alert(cgroup, 5)
            if alert is None or alert["response"]["outcome"] != "done":
                failed += 1
            else:
                detect.append(alert["response"]["detect_ms"])
                respond.append(alert["response"]["respond_ms"])
            for worker in workers:
                worker.kill()
                worker.wait()
            cgroup.rmdir()
    for name, values, aim in (("event to verdict", detect, ""), ("event to verified dead", respond, "(aim 2 and 10)")):
        p99 = statistics.quantiles(values, n=100)[98]
        print(f"{name:23}median {statistics.median(values):.2f} ms, p99 {p99:.2f} ms over {len(values)} kills {aim}")
    if failed:
        print(f"{failed} kills FAILED")


try:
    main()
except StageError as error:
    sys.exit(f"bench: {error}")
