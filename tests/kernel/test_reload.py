"""Agents and rules that change while the sensor runs: what people wrote is in force, all of it or none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sensor_helpers import Launch, alerts_of, hostbrake, json_lines, logged, path_of, status_of, wait_for
from test_limits import CONNECT, HOST, RESOLVE, Listener, name_server, said, start_in

from sensor.cli.staging import Sensor

__all__ = ["name_server"]
pytestmark = pytest.mark.kernel

AGENT = """
agent: {name}
purpose: tests
owner: {{name: Ada Example, notify: ["json://127.0.0.1:9/"]}}
match: [{match}]
{limits}
"""
DENIED = os.strerror(1)

Write = Callable[..., Path]


@pytest.fixture
def write(cgroup: Path, tmp_path: Path) -> Write:
    """Writes an agent's file; by default it is recognised by its cgroup."""
    agents = tmp_path / "agents.d"
    agents.mkdir()

    def write(limits: str, name: str = "rome", match: str = "") -> Path:
        match = match or f'{{cgroup: "{path_of(cgroup)}/{name}/**"}}'
        file = agents / f"{name}.yml"
        file.write_text(AGENT.format(name=name, match=match, limits=limits))
        return file

    return write


@pytest.fixture
def place(cgroup: Path) -> Path:
    place = cgroup / "rome"
    place.mkdir()
    return place


def reload(sensor: Sensor) -> subprocess.CompletedProcess[str]:
    return hostbrake("reload", "--control-socket", sensor.socket)


def test_limits_follow_the_file(launch: Launch, write: Write, place: Path) -> None:
    one, other = Listener(), Listener()
    write(f"egress: {{default: deny, allow: ['127.0.0.1:{one.port}']}}")
    sensor = launch("--mode=enforce")
    assert said(place, CONNECT, "127.0.0.1", one.port) == "connected"
    assert said(place, CONNECT, "127.0.0.1", other.port) == DENIED
    one.was_reached()

    write(f"egress: {{default: deny, allow: ['127.0.0.1:{other.port}']}}")
    done = reload(sensor)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reloaded: enforce mode") and "agents: 1" in done.stdout
    assert said(place, CONNECT, "127.0.0.1", one.port) == DENIED and not one.was_reached()
    assert said(place, CONNECT, "127.0.0.1", other.port) == "connected" and other.was_reached()


def test_a_host_that_is_taken_away_is_not_reached_where_it_was(
    launch: Launch, write: Write, place: Path, tmp_path: Path, name_server: str
) -> None:
    listener = Listener(HOST)
    (tmp_path / "sensor.yml").write_text(f"alert_window_s: 0\nresolvers: ['{name_server}']\n")
    write("egress: {default: deny, allow: [pypi.test, other.test]}")
    sensor = launch("--mode=enforce")
    assert said(place, RESOLVE, name_server, "pypi.test", listener.port) == "connected" and listener.was_reached()
    assert said(place, CONNECT, HOST, listener.port) == "connected" and listener.was_reached()
    write("egress: {default: deny, allow: [other.test]}")
    assert reload(sensor).returncode == 0
    assert said(place, CONNECT, HOST, listener.port) == DENIED and not listener.was_reached()
    assert said(place, RESOLVE, name_server, "other.test", listener.port) == "connected"


STAYS = """
import socket, sys
for port in sys.stdin:
    try:
        socket.create_connection(("127.0.0.1", int(port)), 5).close()
        print("connected", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


class Staying:
    """A process that lives on and connects when told to."""

    def __init__(self, command: list[str | Path], cgroup: Path) -> None:
        self.process = start_in(cgroup, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def connect(self, port: int) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{port}\n".encode())
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()


@pytest.fixture
def staying() -> Iterator[Callable[..., Staying]]:
    """Starts one in a cgroup, as a user."""
    started: list[Staying] = []

    def start(cgroup: Path, *before: str) -> Staying:
        process = Staying([*before, sys.executable, "-S", "-c", STAYS], cgroup)
        started.append(process)
        return process

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_an_agent_that_goes_frees_its_processes_and_a_new_one_binds_them(
    launch: Launch, write: Write, place: Path, staying: Callable[..., Staying]
) -> None:
    listener = Listener()
    file = write("egress: {default: deny}")
    process = staying(place)
    sensor = launch("--mode=enforce")
    assert process.connect(listener.port) == DENIED

    file.unlink()
    assert reload(sensor).returncode == 0
    assert process.connect(listener.port) == "connected" and listener.was_reached()

    write("egress: {default: deny}", "milan", f'{{cgroup: "{path_of(place)}/**"}}')
    assert reload(sensor).returncode == 0
    other = Listener()  # repeats to the same destination are only counted
    assert process.connect(other.port) == DENIED and not other.was_reached()
    alert = wait_for(lambda: [a for a in alerts_of(sensor.alerts) if a["workload"]["agent"] == "milan"], "its alert")
    assert alert[0]["response"]["outcome"] == "done"


def test_whoever_left_its_cgroup_is_not_freed_by_a_reload(
    launch: Launch, write: Write, place: Path, staying: Callable[..., Staying], tmp_path: Path
) -> None:
    """Nor is it where it went to belongs to another agent, which limits less, from then on."""
    listener = Listener()
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "own.yml").write_text(RULE.format(number=1))  # the shipped ones kill who leaves
    write("egress: {default: deny}")
    sensor = launch("--mode=enforce", f"--rules={rules}")
    process = staying(place)
    assert process.connect(listener.port) == DENIED
    haven = place.parent / "haven"
    haven.mkdir()
    (haven / "cgroup.procs").write_text(str(process.process.pid))
    write("gpu: {allow: false}", "haven")
    assert reload(sensor).returncode == 0
    assert process.connect(listener.port) == DENIED and not listener.was_reached()


def test_a_fault_changes_nothing_and_each_is_named(launch: Launch, write: Write, place: Path, tmp_path: Path) -> None:
    listener = Listener()
    file = write("egress: {default: deny}")
    sensor = launch("--mode=enforce", f"--state-dir={tmp_path / 'state'}")
    write("egress: {default: allow}\ngpu: {allow: maybe}")
    (tmp_path / "sensor.yml").write_text("mode: enforced\n")
    done = reload(sensor)
    assert done.returncode == 2 and "nothing was changed" in done.stderr
    assert f"{file}:7: " in done.stderr and f"{tmp_path / 'sensor.yml'}:1: " in done.stderr
    assert said(place, CONNECT, "127.0.0.1", listener.port) == DENIED and not listener.was_reached()
    places = [line["place"] for line in logged(sensor, "not reloaded: a file has a fault")]
    shown = hostbrake("audit", "show", "--trail", tmp_path / "state/audit", "--kind", "reload", "--json").stdout
    record = json.loads(shown.splitlines()[-1])
    assert record["outcome"] == "refused" and f"{file}:7: " in str(record["faults"])
    assert f"{file}:7" in places and f"{tmp_path / 'sensor.yml'}:1" in places


def test_two_agents_with_equal_right_are_refused_by_name(launch: Launch, write: Write, cgroup: Path) -> None:
    one = write("")
    sensor = launch()
    other = write("", "milan", f'{{cgroup: "{path_of(cgroup)}/rome/*"}}')
    done = reload(sensor)
    assert done.returncode == 2
    assert f"{one}:5: agent rome" in done.stderr and f"{other}:5: agent milan" in done.stderr
    assert f"{path_of(cgroup)}/rome/x" in done.stderr and status_of(sensor)["agents"] == 1


def test_sighup_reloads(launch: Launch, write: Write, place: Path, tmp_path: Path) -> None:
    listener = Listener()
    sensor = launch()
    write("egress: {default: deny}")
    (tmp_path / "sensor.yml").write_text("mode: enforce\nstate_dir: /nowhere\nalerts: '-'\n")
    sensor.process.send_signal(signal.SIGHUP)
    wait_for(lambda: logged(sensor, "reloaded"), "it reloads")
    assert said(place, CONNECT, "127.0.0.1", listener.port) == DENIED and not listener.was_reached()
    assert status_of(sensor)["mode"] == "enforce" and status_of(sensor)["agents"] == 1


def test_what_needs_a_restart_is_named(launch: Launch, tmp_path: Path) -> None:
    sensor = launch()
    (tmp_path / "sensor.yml").write_text("alert_window_s: 0\ngpu_majors: [77]\n")
    done = reload(sensor)
    assert done.returncode == 0 and done.stderr == "needs a restart: gpu_majors\n"
    assert logged(sensor, "needs a restart")[0]["settings"] == ["gpu_majors"]


def test_no_sensor_to_reload(tmp_path: Path) -> None:
    done = hostbrake("reload", "--control-socket", tmp_path / "none.sock")
    assert done.returncode == 1 and "no sensor runs" in done.stderr


def test_a_storm_of_reloads_among_events_loses_none(
    launch: Launch, write: Write, cgroup: Path, place: Path, tmp_path: Path
) -> None:
    """New rules each time, so that they are compiled while events come; the agent keeps its limits throughout."""
    listener = Listener()
    rules = tmp_path / "rules"
    rules.mkdir()
    write("egress: {default: deny}\nexec: {deny: ['/nowhere/*']}")
    events = tmp_path / "events.jsonl"
    sensor = launch("--mode=enforce", f"--events={events}", f"--rules={rules}")
    count = "i=0; while [ $i -lt 1500 ]; do i=$((i + 1)); /bin/true $i; done"
    storm = start_in(cgroup, ["/bin/sh", "-c", count])
    turns = 0
    while storm.poll() is None:
        turns += 1
        (rules / "own.yml").write_text(RULE.format(number=turns))
        write(f"egress: {{default: deny, allow: ['192.0.2.{turns % 255}']}}\nexec: {{deny: ['/nowhere/{turns}/*']}}")
        done = reload(sensor)
        assert done.returncode == 0, done.stderr
        assert said(place, CONNECT, "127.0.0.1", listener.port) == DENIED
    last = start_in(cgroup, ["/bin/true", "last"])
    last.wait(30)
    wait_for(lambda: any("last" in e.get("Args", ()) for e in json_lines(events)), "the last one")
    seen = [e["Args"][1] for e in json_lines(events) if e.get("Image", "").endswith("/true")]
    assert sorted(map(int, seen[:-1])) == list(range(1, 1501)) and turns > 1
    assert status_of(sensor)["lost"] == {} and not listener.was_reached()


RULE = """
title: A program of its own
id: 3f0c2f7e-5a51-4a52-9f3d-0a5f5b0c{number:04}
logsource: {{category: process_creation, product: linux}}
detection:
  selection: {{Image|endswith: /never-{number}}}
  condition: selection
level: low
"""


def test_processes_of_an_agents_user_are_bound_from_before_and_freed_after(
    launch: Launch, write: Write, cgroup: Path, staying: Callable[..., Staying]
) -> None:
    listener = Listener()
    as_user = ("setpriv", "--reuid=61234", "--clear-groups")
    older = staying(cgroup, *as_user)
    file = write("egress: {default: deny}", match="{user: '61234'}")
    sensor = launch("--mode=enforce")
    younger, root = staying(cgroup, *as_user), staying(cgroup)
    for process in (older, younger):
        assert process.connect(listener.port) == DENIED
    assert root.connect(listener.port) == "connected" and listener.was_reached()
    file.unlink()
    assert reload(sensor).returncode == 0
    for process in (older, younger):
        assert process.connect(listener.port) == "connected" and listener.was_reached()
    write("egress: {default: deny}", match="{user: '61234'}")
    assert reload(sensor).returncode == 0
    for process in (older, younger):
        assert process.connect(listener.port) == DENIED and not listener.was_reached()
