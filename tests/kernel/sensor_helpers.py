"""A live sensor, and deeds for it to see, for the end-to-end tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensor.cli.staging import Sensor, start_in
from sensor.control import ControlError, ask
from sensor.node import cgroup2_mount

HOSTBRAKE = (sys.executable, "-c", "from sensor.cli.main import main; main()")
Launch = Callable[..., Sensor]
"""The fixture `launch`."""
MINER_RULE = "5f4865b1-afc6-4772-967c-81ed1a8c82be"
LOSS = "loss"

AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+dac_read_search"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--no-new-privs"),
)
"""The start of a command run by a user who may do nothing but read: this checkout or Python may lie in /root."""

SPRAY = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = 0
while number != int(sys.argv[1]):
    number += 1
    try:
        sender.sendto(b"x", (f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 9))
    except OSError:  # nobody listens there
        pass
"""
"""Datagrams to that many destinations of this machine's own (-1: without end): each is an event."""


def hostbrake(*arguments: str | Path, before: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*before, *HOSTBRAKE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 30) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)
    return value


def path_of(cgroup: Path) -> str:
    """As alerts name it."""
    return "/" + os.fsencode(cgroup.relative_to(cgroup2_mount())).decode(errors="backslashreplace")


def members(cgroup: Path) -> list[str]:
    return (cgroup / "cgroup.procs").read_text().split()


def workers_in(cgroup: Path, count: int = 2) -> list[subprocess.Popen[bytes]]:
    """Innocent processes, already in their cgroup."""
    cgroup.mkdir(exist_ok=True)
    workers = [start_in(cgroup, ["/bin/sleep", "300"]) for _ in range(count)]
    wait_for(lambda: len(members(cgroup)) >= count, "workers in their cgroup")
    return workers


def miner(directory: Path) -> Path:
    """A program with a miner's name that does what `sh` does."""
    program = directory / "xmrig"
    if not program.exists():
        shutil.copy(os.path.realpath("/bin/sh"), program)
    return program


def mining(directory: Path) -> list[str | Path]:
    """A miner of one process that does not end by itself."""
    return [miner(directory), "-c", "kill -STOP $$"]


def status_of(sensor: Sensor) -> dict[str, Any]:
    return ask(sensor.socket, "status")


def answers(sensor: Sensor) -> bool:
    try:
        return bool(status_of(sensor)["ready"])
    except ControlError:
        return False


def logged(sensor: Sensor, event: str) -> list[dict[str, Any]]:
    """The lines of its log with this `event`."""
    lines = [json.loads(line) for line in sensor.log.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Every line of a file by RFC 8259: strict UTF-8, one object a line, the last one ended."""
    for _ in range(100):  # the sensor may be writing just now
        data = path.read_bytes()
        if data.endswith(b"\n") or not data:
            break
        time.sleep(0.01)
    assert data.endswith(b"\n") or not data
    return [json.loads(line.decode()) for line in data.split(b"\n")[:-1]]


def alerts_of(path: Path, cgroup: Path | None = None) -> list[dict[str, Any]]:
    """Every alert in a file, or every one of a cgroup."""
    alerts = json_lines(path) if path.exists() else []
    return [alert for alert in alerts if cgroup is None or alert.get("cgroup", {}).get("path") == path_of(cgroup)]
