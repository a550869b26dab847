"""`hostbrake run` from start to end: what `ready` promises, who hears of it, and what a signal leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import SPRAY, Launch, alerts_of, answers, json_lines, logged, miner, status_of, wait_for

from sensor.cli.staging import Sensor, start_in

pytestmark = pytest.mark.kernel


def test_an_exec_right_after_ready_is_seen(launch: Launch, cgroup: Path, tmp_path: Path, state_dir: Path) -> None:
    """Numbered execs without end, across the sensor's start: none is missing from the first after `ready` on."""
    counter = tmp_path / "n"
    counter.write_text("0\n")
    count = 'i=0; while :; do i=$((i + 1)); echo $i > "$0"; /bin/true $i; done'
    loop = start_in(cgroup, ["/bin/sh", "-c", count, counter])

    def number() -> int:
        return int(wait_for(counter.read_text, "a whole number"))

    for turn in range(3):
        events = tmp_path / f"events-{turn}.jsonl"
        sensor = Sensor(tmp_path, cgroup, f"--state-dir={state_dir}", f"--events={events}")
        wait_for(lambda: '"event":"ready"' in sensor.log.read_text(), "ready")  # noqa: B023
        after = number() + 1
        wait_for(lambda: number() > after + 20, "twenty more")  # noqa: B023
        assert sensor.stop() == 0
        seen = {int(event["Args"][1]) for event in json_lines(events) if event["Image"].endswith("/true")}
        assert max(seen) >= after + 20 and seen >= set(range(after, max(seen)))
    loop.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(launch: Launch, cgroup: Path, number: signal.Signals) -> None:
    sensor = launch()
    ours = held_programs(sensor.process.pid)
    assert {program["id"] for program in bpftool("cgroup", "show", cgroup)} < ours
    sensor.process.send_signal(number)
    assert sensor.process.wait(30) == 0
    assert not sensor.socket.exists() and not bpftool("cgroup", "show", cgroup)
    wait_for(lambda: not ours & {program["id"] for program in bpftool("prog", "show")}, "the programs are freed")
    assert [line["event"] for line in json_lines(sensor.log)][-1] == "stopped"


def bpftool(*arguments: str | Path) -> list[dict[str, Any]]:
    shown = subprocess.run(["bpftool", "-j", *arguments], stdout=subprocess.PIPE, check=True)
    return list(json.loads(shown.stdout.strip() or b"[]"))


def held_programs(pid: int) -> set[int]:
    """Ids of the BPF programs that a process holds, by descriptor or by link (proc(5), /proc/PID/fdinfo)."""
    said = []
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            said.append(path.read_text())
    return {int(number) for number in re.findall(r"^prog_id:\s*(\d+)$", "".join(said), re.MULTILINE)}


def test_a_storm_without_end_keeps_nobody_from_asking_or_stopping(launch: Launch, cgroup: Path) -> None:
    """More than the sensor can judge, so that the ring is never empty."""
    sensor = launch()
    storm = [start_in(cgroup, [sys.executable, "-S", "-c", SPRAY, "-1"]) for _ in range(4)]
    wait_for(lambda: "kernel.connect.lost_ring" in status_of(sensor)["lost"], "more than fits")
    before = status_of(sensor)["events"]["network_connection"]
    wait_for(lambda: status_of(sensor)["events"]["network_connection"] > before, "it goes on")
    assert sensor.stop() == 0
    assert all(process.poll() is None for process in storm) and logged(sensor, "stopped")


def test_a_signal_before_it_is_ready(cgroup: Path, tmp_path: Path, state_dir: Path) -> None:
    sensor = Sensor(tmp_path, cgroup, f"--state-dir={state_dir}")
    wait_for(sensor.socket.exists, "the control socket")
    assert sensor.stop() == 0
    assert not sensor.socket.exists() and logged(sensor, "stopped")


def test_a_rotated_alert_file_is_opened_anew(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch()
    old = tmp_path / "alerts.1"
    for number in range(2):
        start_in(cgroup, [miner(tmp_path), "-c", f": {number}"]).wait(10)
        alerts = wait_for(lambda: alerts_of(sensor.alerts), "an alert")
        assert [alert["process"]["args"][-1] for alert in alerts] == [f": {number}"]
        sensor.alerts.rename(old)
    assert answers(sensor)


@pytest.mark.parametrize("abstract", [False, True])
def test_what_the_service_manager_hears(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    address = f"@hostbrake-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        sensor = launch()
        assert manager.recv(1000).decode().split("\n")[0] == "READY=1"
        assert logged(sensor, "ready")
        assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        sensor.process.terminate()
        while (word := manager.recv(1000)) == b"WATCHDOG=1":
            pass
        assert word == b"STOPPING=1"
        assert sensor.process.wait(30) == 0
