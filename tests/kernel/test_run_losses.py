"""What is lost on the way is counted, logged and alerted, and stops neither detection nor a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import (
    SPRAY,
    Launch,
    alerts_of,
    json_lines,
    logged,
    members,
    mining,
    path_of,
    status_of,
    wait_for,
    workers_in,
)

from sensor.cli.staging import Sensor, start_in
from sensor.kernel.core import ring_bytes

pytestmark = pytest.mark.kernel

CONNECT_RECORD_BYTES = 200  # at the least


def loss_alerts(sensor: Sensor) -> list[dict[str, Any]]:
    return [alert for alert in alerts_of(sensor.alerts) if alert["event"]["action"] == "loss"]


def losses_logged(sensor: Sensor, name: str) -> int:
    """How many the log tells of, in all."""
    return sum(line.get(name, 0) for line in logged(sensor, "events were lost"))


def test_a_full_ring(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce")
    count = ring_bytes(os.sysconf("SC_NPROCESSORS_CONF")) // CONNECT_RECORD_BYTES
    sensor.process.send_signal(signal.SIGSTOP)
    start_in(cgroup, [sys.executable, "-S", "-c", SPRAY, str(count)]).wait(60)
    for name in "abcdefgh":  # what little room may be left
        (cgroup / name).mkdir()
    unseen = cgroup / "unseen"  # made while nothing can be told of it
    workers = workers_in(unseen)
    sensor.process.send_signal(signal.SIGCONT)

    def found() -> dict[str, Any] | None:
        status = status_of(sensor)
        return status if status["events"].get("network_connection") == status["kernel"]["connect"]["sent"] else None

    status = wait_for(found, "all that was sent is judged")
    lost = status["lost"]["kernel.connect.lost_ring"]
    assert status["kernel"]["connect"]["sent"] + lost == count
    assert {"kernel.exec.lost_ring", "kernel.cgroup_made.lost_ring"} <= set(status["lost"])
    assert losses_logged(sensor, "kernel.connect.lost_ring") == lost
    alert = loss_alerts(sensor)[0]
    assert (alert["event"]["action"], alert["event"]["kind"], alert["event"]["severity"]) == ("loss", "alert", 73)
    assert "by kernel.connect.lost_ring" in alert["event"]["reason"]
    assert alert["response"] == {"mode": "enforce", "action": "alert", "outcome": "none"}

    deed = start_in(unseen, mining(tmp_path))
    kill = sensor.wait_alert(unseen)
    assert kill is not None and kill["response"]["outcome"] == "done" and not members(unseen)
    assert {process.wait(10) for process in (*workers, deed)} == {-signal.SIGKILL}
    told = len(loss_alerts(sensor))
    assert status_of(sensor)["alerts"] == {"none": told, "done": 1}
    assert told == len(json_lines(sensor.alerts)) - 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "hostbrake-test", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def test_a_full_disk_does_not_stop_a_kill(launch: Launch, cgroup: Path, tmp_path: Path, small_disk: Path) -> None:
    path, filler = small_disk / "alerts.jsonl", small_disk / "filler"
    sensor = launch("--mode=enforce", f"--alerts={path}")
    command = mining(tmp_path)
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(b"x" * 4096):
            pass
    for name in ("first", "second"):
        work = cgroup / name
        workers = workers_in(work)
        deed = start_in(work, command)
        assert {process.wait(30) for process in (*workers, deed)} == {-signal.SIGKILL}
        wait_for(lambda: not members(work), "nobody is left")  # noqa: B023
    wait_for(lambda: status_of(sensor)["lost"] == {"alerts.ENOSPC": 2}, "both are counted")
    assert not json_lines(path)
    wait_for(lambda: losses_logged(sensor, "alerts.ENOSPC") == 2, "both are logged")
    assert logged(sensor, "records were lost")[0]["why"] == "No space left on device"

    filler.unlink()
    work = cgroup / "third"
    workers_in(work)
    start_in(work, command)
    wait_for(lambda: alerts_of(path, work), "an alert")
    loss = wait_for(lambda: [alert for alert in alerts_of(path) if alert["event"]["action"] == "loss"], "the loss")
    assert len(loss) == 1 and loss[0]["event"]["reason"].endswith(": 2 by alerts.ENOSPC")
    status = status_of(sensor)
    assert status["lost"] == {"alerts.ENOSPC": 2} and status["alerts"] == {"done": 3, "none": 1}
    assert sensor.stop() == 0


def test_full_from_the_first_alert_on(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce", "--alerts=/dev/full", "--events=/dev/full")
    workers = workers_in(cgroup / "work")
    deed = start_in(cgroup / "work", mining(tmp_path))
    assert {process.wait(30) for process in (*workers, deed)} == {-signal.SIGKILL}
    wait_for(lambda: status_of(sensor)["lost"].get("events.ENOSPC", 0) >= 3, "counted")
    assert status_of(sensor)["lost"]["alerts.ENOSPC"] == 1
    assert sensor.stop() == 0


def test_a_closed_pipe_does_not_stop_a_kill(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce", "--alerts=-", stdout=subprocess.PIPE)
    assert sensor.process.stdout is not None
    workers_in(cgroup / "first")
    start_in(cgroup / "first", mining(tmp_path))
    assert path_of(cgroup / "first").encode() in sensor.process.stdout.readline()
    sensor.process.stdout.close()
    workers = workers_in(cgroup / "second")
    deed = start_in(cgroup / "second", mining(tmp_path))
    assert {process.wait(30) for process in (*workers, deed)} == {-signal.SIGKILL}
    wait_for(lambda: status_of(sensor)["lost"] == {"alerts.EPIPE": 1}, "counted")
    wait_for(lambda: losses_logged(sensor, "alerts.EPIPE") == 1, "logged")
    assert sensor.stop() == 0


def test_a_pipe_that_nobody_reads_holds_nothing_up(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce", "--alerts=-", stdout=subprocess.PIPE)
    program = tmp_path / "train"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    # Alerts only: this rule asks for no kill.
    storm = 'n=$(head -c 3900 /dev/zero | tr "\\0" n); for i in $(seq 300); do "$0" --algo=randomx --url=p:1 $n; done'
    start_in(cgroup, ["/bin/sh", "-c", storm, program]).wait(60)
    assert wait_for(lambda: status_of(sensor)["lost"].get("alerts.unread"), "the pipe is full") > 0
    workers = workers_in(cgroup / "work")
    deed = start_in(cgroup / "work", mining(tmp_path))
    assert {process.wait(30) for process in (*workers, deed)} == {-signal.SIGKILL}
    assert status_of(sensor)["alerts"]["done"] == 1
    assert sensor.stop() == 0


@pytest.mark.parametrize(("count", "stopped"), [(60, True), (12, False)])
def test_a_late_reader_gets_all_that_was_recorded(launch: Launch, cgroup: Path, count: int, stopped: bool) -> None:
    """More than a pipe holds; nobody reads before the sensor stops, or before nothing new comes any more."""
    sensor = launch("--events=-", stdout=subprocess.PIPE)
    storm = 'n=$(head -c 3900 /dev/zero | tr "\\0" n); for i in $(seq $0); do /bin/true $i $n; done'
    start_in(cgroup, ["/bin/sh", "-c", storm, str(count)]).wait(60)
    wait_for(lambda: status_of(sensor)["events"].get("process_creation", 0) >= count, "all are judged")
    if stopped:
        sensor.process.terminate()
    assert sensor.process.stdout is not None
    events = (json.loads(line) for line in sensor.process.stdout)
    runs = (event["Args"][1] for event in events if event["Image"].endswith("/true"))
    assert [next(runs) for _ in range(count)] == [str(number) for number in range(1, count + 1)]
    assert (sensor.process.wait(30) if stopped else sensor.stop()) == 0
