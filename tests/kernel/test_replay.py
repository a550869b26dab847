"""`hostbrake replay`: a recording gives the same alerts as the live run gave, without root."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import AS_NOBODY, HOSTBRAKE, Launch, hostbrake, json_lines, mining, wait_for

from sensor.cli.staging import start_in
from sensor.config import shipped_rules_dir

pytestmark = pytest.mark.kernel

AGENT = """\
agent: rome-rl
purpose: reinforcement learning
owner: {{name: Ada Example, notify: ["mailto://ada@example.org"]}}
match: [{{cgroup: "/{cgroup}/rome"}}]
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


def without_latency(alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for alert in alerts:
        for name in ("detect_ms", "respond_ms"):
            alert["response"].pop(name, None)
    return alerts


@pytest.fixture
def recording(launch: Launch, cgroup: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Every behaviour that the shipped rules know and a test can stage, and the alerts of the live run."""
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "agents.d/rome.yml").write_text(AGENT.format(cgroup=cgroup.name))
    events, node = tmp_path / "events.jsonl", tmp_path / "notes.txt"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(195, 0))
    sensor = launch(f"--events={events}")
    odd = Path(os.fsdecode(os.fsencode(cgroup) + b"/od\xffd"))
    for work in (cgroup / "rome", odd):
        work.mkdir()
        away = ["unshare", "--net", sys.executable, "-c", CONNECT]  # no route: nothing is sent
        commands = [
            [*away, "169.254.169.254", "80"],
            [*away, "192.0.2.1", "3333"],
            ["/bin/cat", node],
            ["ssh", "-F", "none", "-p", "1", "-R", "9000", "127.0.0.1"],
            ["/bin/true", "--pool", "stratum+tcp://pool.invalid:3333", "new\nline", b"\xff\xfe", '{"a":1}'],
        ]
        for command in commands:
            start_in(work, command).wait(30)  # type: ignore[arg-type]
        start_in(work, mining(tmp_path))
    wait_for(lambda: sum("/xmrig" in alert["process"]["executable"] for alert in json_lines(sensor.alerts)) == 2, "all")
    assert sensor.stop() == 0
    alerts = without_latency(json_lines(sensor.alerts))
    assert len(alerts) == 12 and {alert["response"]["outcome"] for alert in alerts} == {"would", "none"}
    assert {alert["event"]["action"] for alert in alerts} == {"exec", "connect", "device-open"}
    return events, alerts


def test_the_same_alerts_as_live_and_no_root(recording: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    events, live = recording
    command = [*AS_NOBODY, *HOSTBRAKE, "replay", "-", "--rules", shipped_rules_dir()]
    with events.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"{len(json_lines(events))} events, {len(live)} alerts\n"
    assert without_latency([json.loads(line) for line in done.stdout.splitlines()]) == live


def test_bad_lines_are_named_and_the_others_judged(
    recording: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    events, live = recording
    good = events.read_bytes().splitlines()
    bad = {
        2: b"{",
        3: b"\xff\xfe",
        5: b"[]",
        6: b'{"category":"gardening"}',
        8: b'{"category":"process_creation","time":"yesterday"}',
        9: b'{"category":"process_creation","ProcessId":"many"}',
        10: b'{"category":"process_creation","Colour":"red"}',
        11: b"[" * 100_000,
        12: b'{"category":"process_creation","\\n\\u001b[31mforged:1: ":1}',
        14: b'{"category":"process_creation","time":"9999-12-31T23:59:59-23:59","Image":"/xmrig"}',
    }
    lines = list(good)
    for number, line in bad.items():
        lines.insert(number - 1, line)
    lines.insert(6, b"   ")  # a blank line is no fault
    mixed, alerts = tmp_path / "mixed.jsonl", tmp_path / "replayed.jsonl"
    mixed.write_bytes(b"\n".join(lines))  # and the last line need not be ended
    done = hostbrake("replay", mixed, "--alerts", alerts)
    assert done.returncode == 2, done.stderr
    *faults, summary = done.stderr.splitlines()
    places = [number + (number > 6) for number in bad]
    assert [fault.rpartition(": ")[0].split(": ")[0] for fault in faults] == [f"{mixed}:{n}" for n in places]
    assert all(fault.split(": ", 1)[1] and fault.isprintable() for fault in faults)
    assert summary == f"{len(good)} events, {len(live)} alerts"
    assert without_latency(json_lines(alerts)) == live


def test_a_slow_reader_gets_every_alert(tmp_path: Path) -> None:
    """More than a pipe and the sink's own backlog hold, to a reader that is late."""
    recording = tmp_path / "events.jsonl"
    event = {"category": "process_creation", "Image": "/tmp/xmrig", "CommandLine": "x" * 4000}
    recording.write_text("".join(json.dumps(event | {"ProcessId": n}) + "\n" for n in range(600)))
    command = [*HOSTBRAKE, "replay", "--alert-window", "0", recording]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        alerts = [json.loads(line) for line in process.stdout]
        assert process.wait(60) == 0, process.stderr.read()
    assert [alert["process"]["pid"] for alert in alerts] == list(range(600))


def test_a_recording_by_hand(tmp_path: Path) -> None:
    """Only what a rule needs; the cgroup may be any text."""
    recording = tmp_path / "events.jsonl"
    event = {"category": "process_creation", "Image": "/tmp/xmrig"}
    recording.write_text("".join(json.dumps(event | {"CgroupPath": path}) + "\n" for path in ("/", "a/b", "", "\n")))
    done = hostbrake("replay", recording)
    assert done.returncode == 0 and done.stderr == "4 events, 4 alerts\n"
    assert [json.loads(line)["rule"]["level"] for line in done.stdout.splitlines()] == ["critical"] * 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["/nonexistent"], 2, "No such file or directory"),
        (["/etc"], 2, "Is a directory"),
        (["/dev/null", "--rules", "/nonexistent"], 2, "does not exist"),
        (["/dev/null", "--alerts", "/nonexistent/alerts"], 1, "cannot be written to /nonexistent/alerts: No such file"),
    ],
)
def test_what_cannot_be_opened(arguments: list[str], code: int, says: str) -> None:
    done = hostbrake("replay", *arguments)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr


def test_alerts_that_cannot_be_written(tmp_path: Path) -> None:
    recording = tmp_path / "events.jsonl"
    recording.write_text(json.dumps({"category": "process_creation", "Image": "/tmp/xmrig"}) + "\n")
    assert hostbrake("replay", recording, "--alerts", "/dev/full").returncode == 1
