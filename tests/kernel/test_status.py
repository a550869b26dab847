"""`hostbrake status`: exits 0 only once a sensor is ready, and its numbers are true."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import stat
import time
from pathlib import Path

import pytest
from sensor_helpers import AS_NOBODY, Launch, hostbrake, json_lines, mining, status_of, wait_for

from sensor import __version__
from sensor.cli.staging import Sensor, start_in
from sensor.config import shipped_rules_dir

pytestmark = pytest.mark.kernel


def test_without_a_sensor(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    for options in (("--json",), ()):
        done = hostbrake("status", *options, "--control-socket", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"hostbrake: no sensor runs: nobody listens at {path}\n"


def test_after_a_sensor(launch: Launch, tmp_path: Path) -> None:
    sensor = launch()
    assert hostbrake("status", "--json", "--control-socket", sensor.socket).returncode == 0
    sensor.process.kill()  # leaves its socket behind
    sensor.process.wait()
    done = hostbrake("status", "--json", "--control-socket", sensor.socket)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"hostbrake: no sensor runs: nobody listens at {sensor.socket}\n"
    again = launch()
    assert hostbrake("status", "--json", "--control-socket", again.socket).returncode == 0


def test_before_it_is_ready(cgroup: Path, tmp_path: Path, state_dir: Path) -> None:
    """Asked without a pause from before its start: what answers first is ready, and nothing claimed it earlier."""
    sensor = Sensor(tmp_path, cgroup, f"--state-dir={state_dir}")
    try:
        first = hostbrake("status", "--json", "--control-socket", sensor.socket)
        assert first.returncode == 1 or json.loads(first.stdout)["ready"]
        answers = wait_for(
            lambda: (done := hostbrake("status", "--json", "--control-socket", sensor.socket)).returncode == 0 and done,
            "ready",
        )
        assert json.loads(answers.stdout)["ready"] is True and '"event":"ready"' in sensor.log.read_text()
    finally:
        sensor.stop()


def test_a_sensor_that_hangs(launch: Launch) -> None:
    sensor = launch()
    sensor.process.send_signal(signal.SIGSTOP)
    done = hostbrake("status", "--control-socket", sensor.socket)
    assert done.returncode == 1
    assert done.stderr == f"hostbrake: the sensor at {sensor.socket} does not answer: timed out\n"


def test_nobody_else_may_ask(launch: Launch, tmp_path: Path) -> None:
    sensor = launch()
    assert stat.S_IMODE(sensor.socket.stat().st_mode) == 0o600
    done = hostbrake("status", "--json", "--control-socket", sensor.socket, before=AS_NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"hostbrake: not allowed to ask the sensor at {sensor.socket}; run as root or one of its operators\n"
    )


def test_the_numbers_are_true(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    began = time.time_ns()
    sensor = launch(f"--events={events}")
    deeds = [start_in(cgroup, ["/bin/sh", "-c", "for i in $(seq 20); do /bin/true $i; done"])]
    deeds += [start_in(cgroup, mining(tmp_path)) for _ in range(3)]
    deeds[0].wait(30)
    wait_for(lambda: len(json_lines(sensor.alerts)) == 3, "three alerts")
    wait_for(lambda: sum(e["Image"].endswith("/true") for e in json_lines(events)) == 20, "twenty events")
    done = hostbrake("status", "--json", "--control-socket", sensor.socket)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    status = json.loads(done.stdout)
    recorded = [event["category"] for event in json_lines(events)]
    assert status["events"] == {category: recorded.count(category) for category in set(recorded)}
    assert status["events"]["process_creation"] == 20 + 2 + 3  # seq too
    assert (status["alerts"], status["lost"], status["control_refused"]) == ({"would": 3}, {}, 0)
    rules = [path for path in Path(shipped_rules_dir()).rglob("*.yml") if path.parent.name not in ("samples", "data")]
    assert sum(status["rules"].values()) == len(rules)
    assert (status["ready"], status["pid"], status["version"]) == (True, sensor.process.pid, __version__)
    assert (status["mode"], status["backend"], status["pinned"], status["agents"]) == ("monitor", "core", False, 0)
    assert began < status["since"] < time.time_ns()
    assert status["kernel"]["exec"]["sent"] >= 25 and status["kernel"]["exec"]["lost_ring"] == 0


def test_the_table_says_the_same(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce")
    (cgroup / "work").mkdir()
    start_in(cgroup / "work", mining(tmp_path))
    wait_for(lambda: sensor.alerts.exists() and json_lines(sensor.alerts), "an alert")
    done = hostbrake("status", "--control-socket", sensor.socket, env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    assert rows["sensor"].startswith(f"ready, pid {sensor.process.pid}, up ")
    assert rows["mode"].startswith("enforce")
    assert (rows["alerts"], rows["lost"]) == ("1: 1 done", "nothing")


def test_a_second_sensor_on_the_same_socket_is_refused(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch()
    other = tmp_path / "other"
    other.mkdir()
    second = Sensor(other, cgroup, f"--control-socket={sensor.socket}")
    assert second.process.wait(30) == 1
    said = f"hostbrake: another sensor already runs: it listens at {sensor.socket}\n"
    assert second.log.read_text() == said
    assert not second.alerts.exists()
    assert hostbrake("status", "--json", "--control-socket", sensor.socket).returncode == 0


def test_a_file_with_the_sockets_name_is_kept(cgroup: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    sensor = Sensor(tmp_path, cgroup, f"--control-socket={precious}")
    assert sensor.process.wait(30) == 1
    assert sensor.log.read_text().startswith(f"hostbrake: the control socket {precious} cannot be made: ")
    assert precious.read_text() == "keep me"


def test_many_and_malformed_and_slow_clients(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce")

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(str(sensor.socket))
        return client

    def asks() -> dict[str, object]:
        done = hostbrake("status", "--json", "--control-socket", sensor.socket)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    garbage = [b"\n", b"{\n", b"null\n", b"[]\n", b'{"command": {}}\n', b'{"command": "exec"}\n', b"\xff\xfe\0\n"]
    for request in [*garbage, b"[" * 60_000 + b"\n"]:
        with connect() as client:
            client.sendall(request)
            reply = json.loads(client.makefile("rb").read())
            assert reply["error"].startswith("unknown request; known commands: status, ")
    assert asks()["control_refused"] == len(garbage) + 1
    with connect() as client, pytest.raises(OSError):
        for _ in range(160):  # 10 MB without a line end
            client.sendall(b"x" * 65536)
    idle = [connect() for _ in range(100)]
    slow = connect()
    for byte in b'{"comm':
        with contextlib.suppress(BrokenPipeError):  # its time was up
            slow.send(bytes([byte]))
        assert status_of(sensor)["ready"]
    work = cgroup / "work"
    work.mkdir()
    deed = start_in(work, mining(tmp_path))
    alert = sensor.wait_alert(work)
    assert alert is not None and alert["response"]["outcome"] == "done"
    assert deed.wait(10) == -signal.SIGKILL
    for client in (*idle, slow):
        assert client.recv(100) == b""  # let go of in the end, all of them
        client.close()
    refused = asks()["control_refused"]
    assert refused == len(garbage) + 1 + 1 + 100 + 1
