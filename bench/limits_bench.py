"""What a limit costs whoever meets it: connects and GPU opens without limits, allowed and denied, in one run in turns.

Then from the kernel's event to verified: freeze and isolate by a rule. `python -m bench.limits_bench`.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import orjson

from sensor.cli.staging import Sensor, throwaway_cgroup
from sensor.control import ask
from sensor.node import cgroup2_mount

T = TypeVar("T")

ROUNDS = 5
CALLS = 20_000
ACTS = 40
NETWORKS = [f"10.{number}.0.0/16" for number in range(100)]
AGENT = """
agent: {name}
purpose: benchmark
owner: {{name: Nobody, notify: ["json://127.0.0.1:9/"]}}
match: [{{cgroup: "{path}/{name}/**"}}]
gpu: {{allow: {gpu}}}
egress: {{default: deny, allow: [{allow}]}}
response: {{action: alert}}
"""
CONNECTS = """
import socket, sys, time
count, port = int(sys.argv[1]), int(sys.argv[2])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
began = time.perf_counter_ns()
for _ in range(count):
    try:
        sender.connect(("127.0.0.1", port))
    except PermissionError:
        pass
print((time.perf_counter_ns() - began) / count)
"""
OPENS = """
import os, sys, time
count, node = int(sys.argv[1]), sys.argv[2]
began = time.perf_counter_ns()
for _ in range(count):
    try:
        os.close(os.open(node, os.O_RDONLY))
    except PermissionError:
        pass
print((time.perf_counter_ns() - began) / count)
"""
RULE = """
title: {action} it
id: 6f1d3c1e-29b1-4a1e-9d55-0d3f3b9d6a1{number}
logsource: {{product: linux, category: network_connection}}
detection: {{selection: {{DestinationPort: {port}}}, condition: selection}}
level: high
response: {{action: {action}, scope: cgroup}}
"""
BESIDE = {"no limits": "beside", "allowed": "allowed", "denied": "denied"}


def path_of(cgroup: Path) -> str:
    return "/" + str(cgroup.relative_to(cgroup2_mount()))


def nanoseconds(cgroup: Path, script: str, *arguments: object) -> float:
    """Of one call, as a process in `cgroup` measured it."""
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    command = ["/bin/sh", "-c", enter, cgroup, sys.executable, "-S", "-c", script, *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def costs(cgroup: Path, directory: Path) -> None:
    agents = directory / "agents.d"
    agents.mkdir()
    loopback = ["127.0.0.0/8", *NETWORKS]
    for name, allow, gpu in (("allowed", loopback, "true"), ("denied", NETWORKS, "false")):
        text = AGENT.format(name=name, path=path_of(cgroup), allow=", ".join(allow), gpu=gpu)
        (agents / f"{name}.yml").write_text(text)
    for name in BESIDE.values():
        (cgroup / name).mkdir()
    node = directory / "node"
    os.mknod(node, 0o020666, Path("/dev/null").stat().st_rdev)
    measured: dict[tuple[str, str], list[float]] = {}

    def measure(kind: str) -> None:
        for name, place in BESIDE.items():
            for what, script, target in (("connect", CONNECTS, 9), ("GPU open", OPENS, node)):
                if kind == "bare" and name != "no limits":
                    continue
                taken = nanoseconds(cgroup / place, script, CALLS, target)
                measured.setdefault((what, "no sensor" if kind == "bare" else name), []).append(taken)

    for _ in range(ROUNDS):
        measure("bare")
        options = (f"--agents={agents}", "--mode=enforce", "--gpu-majors=1", "--rules", str(directory / "none"))
        sensor = Sensor(directory, cgroup, *options)
        try:
            sensor.wait_ready()
            measure("sensor")
        finally:
            sensor.stop()
    print(f"{'one call, ns':14}{'no sensor':>12}{'no limits':>12}{'allowed':>12}{'denied':>12}")
    for what in ("connect", "GPU open"):
        row = [statistics.median(measured[what, name]) for name in ("no sensor", *BESIDE)]
        print(f"{what:14}" + "".join(f"{value:>12.0f}" for value in row))


def acts(cgroup: Path, directory: Path) -> None:
    rules = directory / "rules"
    rules.mkdir()
    for number, action in enumerate(("freeze", "isolate")):
        (rules / f"{action}.yml").write_text(RULE.format(action=action, number=number, port=7000 + number))
    (directory / "sensor.yml").write_text("alert_window_s: 0\nkills_per_minute: 1000\n")
    sensor = Sensor(directory, cgroup, "--rules", str(rules), "--mode=enforce")
    try:
        sensor.wait_ready()
        for number, action in enumerate(("freeze", "isolate")):
            taken = [act(sensor, cgroup / f"{action}-{turn}", 7000 + number, action) for turn in range(ACTS)]
            taken.sort()
            print(
                f"kernel event to verified {action} of 20: median {statistics.median(taken):.2f} ms, "
                f"p99 {taken[int(len(taken) * 0.99) - 1]:.2f} ms (aims 5 and 20)"
            )
    finally:
        sensor.stop()


def act(sensor: Sensor, work: Path, port: int, action: str) -> float:
    """Milliseconds, as the alert says."""
    work.mkdir()
    enter = 'echo $$ > "$0/cgroup.procs"; for i in $(seq 19); do sleep 300 & done; wait'
    crowd = subprocess.Popen(["/bin/sh", "-c", enter, work], start_new_session=True)
    wait_for(lambda: len((work / "cgroup.procs").read_text().split()) == 20)
    deed = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', {port}))"
    command = ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', work, sys.executable, "-S", "-c", deed]
    doer = subprocess.Popen(command, start_new_session=True)
    alert = wait_for(lambda: told(sensor, work))
    if action == "isolate":
        ask(sensor.socket, "release", cgroup=path_of(work))
    (work / "cgroup.kill").write_text("1")
    (work / "cgroup.freeze").write_text("0")
    for process in (crowd, doer):
        process.wait()
    response = alert["response"]
    return float(response["respond_ms"] if "respond_ms" in response else response["detect_ms"])


def told(sensor: Sensor, work: Path) -> dict[str, dict[str, object]] | None:
    lines = sensor.alerts.read_bytes().splitlines() if sensor.alerts.exists() else []
    alerts = (orjson.loads(line) for line in lines)
    return next((alert for alert in alerts if alert.get("cgroup", {}).get("path") == path_of(work)), None)


def wait_for(condition: Callable[[], T]) -> T:
    until = time.monotonic() + 30
    while not (value := condition()):
        if time.monotonic() > until:
            sys.exit("bench: what was waited for never came")
        time.sleep(0.001)
    return value


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, tempfile.TemporaryDirectory() as place:
        taken.bind(("127.0.0.1", 0))
        with throwaway_cgroup(f"hostbrake-bench-{os.getpid()}") as cgroup:
            first, second = Path(place, "costs"), Path(place, "acts")
            for directory in (first, first / "none", second):
                directory.mkdir()
            costs(cgroup, first)
            acts(cgroup, second)


if __name__ == "__main__":
    main()
