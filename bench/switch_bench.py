"""The kill switch, from the command's start to the cgroup verified empty: `python -m bench.switch_bench [--rounds N]`.

No sensor runs. The time includes Python's start; what is killed was made by one small C program.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sensor.cli.staging import throwaway_cgroup

KILL = [sys.executable, "-c", "from sensor.cli.main import main; main()", "kill", "--cgroup"]
SLEEPERS = (20, 500, 5_000)
BOMB = 200
AIM = {500: "(aim 150)"}
_SPARE = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    with tempfile.TemporaryDirectory(prefix="hostbrake-bench") as place:
        bench_switch(Path(place), parser.parse_args().rounds)


def bench_switch(directory: Path, rounds: int) -> None:
    """Print one line for each load."""
    program = directory / "switch_bench"
    source = Path(__file__).with_name("switch_bench.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", source, "-o", program], check=True)
    for count in SLEEPERS:
        if count + _SPARE > most_processes():
            print(f"kill switch, {count:>5} processes     not tried: this machine has no room for so many")
            continue
        _say(f"{count:>5} processes", [_once(program, "sleep", count) for _ in range(rounds)], AIM.get(count, ""))
    _say(f"fork bomb at {BOMB:>3}", [_once(program, "bomb", BOMB) for _ in range(rounds)], "")


def most_processes() -> int:
    """As far as this process's limit and the node's numbers go (proc(5), kernel/pid_max and threads-max)."""
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    kernel = [int(Path("/proc/sys/kernel", name).read_text()) for name in ("pid_max", "threads-max")]
    return min([*kernel, *([soft] if soft != resource.RLIM_INFINITY else [])])


def _once(program: Path, load: str, count: int) -> float:
    """Milliseconds."""
    with throwaway_cgroup(f"hostbrake-bench-{os.getpid()}") as cgroup:
        command = [program, cgroup / "cgroup.procs", load, str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            assert os.read(victim.stdout.fileno(), 16) == b"ready\n"
            time.sleep(0.3)
            began = time.perf_counter()
            done = subprocess.run([*KILL, cgroup], capture_output=True, text=True, check=False)
            took = (time.perf_counter() - began) * 1000
            assert done.returncode == 0, done.stderr
            assert "populated 0" in (cgroup / "cgroup.events").read_text()
    return took


def _say(what: str, took: list[float], aim: str) -> None:
    print(f"kill switch, {what}     median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms   {aim}".rstrip())


if __name__ == "__main__":
    main()
