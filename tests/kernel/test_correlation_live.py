"""Correlations and merged alerts against the live kernel: what several events come to, and every one acted upon."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import Launch, alerts_of, hostbrake, json_lines, path_of, status_of, wait_for

from sensor.cli.staging import Sensor, start_in

pytestmark = pytest.mark.kernel

RULES = """\
title: Local connection
name: local_connection
logsource: {product: linux, category: network_connection}
detection: {to: {DestinationIp|startswith: 127.0.0.}, condition: to}
---
title: Fan-out
id: 0c4f2c0e-9d54-4a39-8f0f-6b6f2b4d1a01
level: high
response: {action: kill, scope: process}
correlation:
  type: value_count
  rules: [local_connection]
  group-by: [ProcessGuid]
  timespan: 10s
  condition: {gte: 5, field: DestinationIp}
---
title: Shell
name: shell
logsource: {product: linux, category: process_creation}
detection: {program: {Image|endswith: /marked-shell}, condition: program}
---
title: Connections once a shell was there
id: 0c4f2c0e-9d54-4a39-8f0f-6b6f2b4d1a02
level: medium
correlation:
  type: temporal_ordered
  rules: [shell, local_connection]
  group-by: [CgroupPath]
  timespan: 1m
"""
CONNECT = """
import socket, sys, time
for number in sys.argv[1:]:
    with socket.socket() as end:
        end.connect_ex((f"127.0.0.{number}", 9))
time.sleep(300)
"""
"""Connects to these addresses, where nobody listens, and stays."""


@pytest.fixture
def sensor(launch: Launch, tmp_path: Path) -> Sensor:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/correlation.yml").write_text(RULES)
    events = f"--events={tmp_path / 'events.jsonl'}"
    return launch(f"--rules={tmp_path / 'rules'}", "--mode=enforce", events)


def connecting(cgroup: Path, *numbers: int) -> Any:
    return start_in(cgroup, [sys.executable, "-c", CONNECT, *map(str, numbers)])


def destinations(path: Path) -> int:
    return sum(event["category"] == "network_connection" for event in json_lines(path))


def test_five_destinations_of_one_process_within_ten_seconds(sensor: Sensor, cgroup: Path, tmp_path: Path) -> None:
    innocent = [connecting(cgroup, 1, 2, 3, 4, 1, 2, 3, 4), connecting(cgroup, 5, 6, 7, 8)]
    guilty = connecting(cgroup, 11, 12, 13, 14, 15)
    assert guilty.wait(30) == -signal.SIGKILL
    wait_for(lambda: destinations(tmp_path / "events.jsonl") >= 13, "all connections seen")
    assert [process.poll() for process in innocent] == [None, None]
    (alert,) = wait_for(lambda: alerts_of(sensor.alerts, cgroup), "an alert")
    assert alert["rule"]["name"] == "Fan-out" and alert["rule"]["level"] == "high"
    assert (alert["process"]["pid"], alert["destination"]["ip"]) == (guilty.pid, "127.0.0.15")
    assert (alert["response"]["outcome"], alert["response"]["scope"]) == ("done", "process")
    assert status_of(sensor)["lost"] == {}


def test_a_replay_of_it_says_the_same(sensor: Sensor, cgroup: Path, tmp_path: Path) -> None:
    assert connecting(cgroup, *range(1, 9)).wait(30) == -signal.SIGKILL
    wait_for(lambda: alerts_of(sensor.alerts, cgroup), "an alert")
    sensor.stop()
    done = hostbrake("replay", tmp_path / "events.jsonl", "--rules", tmp_path / "rules", "--alerts", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    live, again = alerts_of(sensor.alerts), alerts_of(tmp_path / "again")
    assert [alert["event"]["id"] for alert in again] == [alert["event"]["id"] for alert in live] != []


def test_one_after_the_other_but_not_the_other_way_round(sensor: Sensor, cgroup: Path, tmp_path: Path) -> None:
    before, after = cgroup / "before", cgroup / "after"
    for place in (before, after):
        place.mkdir()
    shell = tmp_path / "marked-shell"
    shell.symlink_to("/bin/sleep")  # the kernel resolves links: this is no marked shell
    start_in(after, [shell, "0"]).wait(30)
    shell.unlink()
    shell.write_bytes(Path("/bin/sleep").read_bytes())
    shell.chmod(0o755)
    connecting(before, 1)
    connecting(after, 1)
    wait_for(lambda: destinations(tmp_path / "events.jsonl") == 2, "the first connections seen")
    for place in (before, after):
        start_in(place, [shell, "0"]).wait(30)
    connecting(after, 2)
    alerts = wait_for(lambda: alerts_of(sensor.alerts), "an alert")
    assert [(a["rule"]["name"], a["cgroup"]["path"]) for a in alerts] == [
        ("Connections once a shell was there", path_of(after))
    ]


MARKED = """\
title: Marked program
id: 0c4f2c0e-9d54-4a39-8f0f-6b6f2b4d1a03
level: high
logsource: {product: linux, category: process_creation}
detection: {program: {Image|endswith: /marked}, condition: program}
response: {action: kill, scope: process}
"""


def test_equal_alerts_are_merged_and_every_process_is_killed(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/marked.yml").write_text(MARKED)
    (tmp_path / "sensor.yml").write_text("alert_window_s: 3600\n")
    program = tmp_path / "marked"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    sensor = launch(f"--rules={tmp_path / 'rules'}", "--mode=enforce")
    for _ in range(4):
        assert start_in(cgroup, [program, "300"]).wait(30) == -signal.SIGKILL
    wait_for(lambda: status_of(sensor)["alerts"] == {"done": 4}, "four kills")
    assert status_of(sensor)["merged"] == 3
    assert [alert["event"].get("count") for alert in alerts_of(sensor.alerts, cgroup)] == [None]
    assert sensor.stop() == 0
    first, summary = alerts_of(sensor.alerts, cgroup)
    assert summary["event"]["count"] == 3 and summary["event"]["severity"] == first["event"]["severity"]
    assert summary["event"]["start"] < summary["event"]["end"]


def test_a_summary_comes_when_the_window_is_over(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/marked.yml").write_text(MARKED)
    (tmp_path / "sensor.yml").write_text("alert_window_s: 2\n")
    program = tmp_path / "marked"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    sensor = launch(f"--rules={tmp_path / 'rules'}")
    script = f"for n in 1 2 3 4 5; do {program}; done"
    start_in(cgroup, ["/bin/sh", "-c", script]).wait(30)
    alerts = wait_for(lambda: len(found := alerts_of(sensor.alerts, cgroup)) > 1 and found, "a summary")
    total = sum(alert["event"].get("count", 1) for alert in alerts)
    assert (len(alerts), total) == (2, 5), "the sensor still runs"
