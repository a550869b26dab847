"""Scans and departures from a learned profile, live: real connections in a network namespace with private addresses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import Launch, alerts_of, hostbrake, status_of, wait_for

from sensor.agents_file import load_agents
from sensor.cli.staging import Sensor, start_in
from sensor.events import NetworkConnection, NetworkFlow, ProcessCreation
from sensor.match.fanout import ADDRESSES, ADDRESSES_RULE, PORTS, PORTS_RULE
from sensor.match.profiles import DESTINATION_RULE, PROGRAM_RULE, VOLUME_RULE, Profiles

pytestmark = pytest.mark.kernel

AGENT = """\
agent: rome-rl
purpose: reinforcement learning
owner: {{name: Ada Example, notify: ["mailto:ada@example.org"]}}
match: [{{cgroup: "/{cgroup}/**"}}]
"""
NAMESPACE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && ip addr add 10.99.0.1/24 dev lo && exec "$@"', "sh")
"""The start of a command with a network of its own, all of whose 10.99.0.0/24 is itself."""

TRY = """
import socket, sys, threading, time
listening, first, last, port_step, size = sys.argv[1] == "listening", *map(int, sys.argv[2:6])
if listening:
    server = socket.create_server(("0.0.0.0", 22), backlog=500)
    def serve():
        while True:
            peer = server.accept()[0]
            while peer.recv(1 << 20):
                pass
            peer.close()
    threading.Thread(target=serve, daemon=True).start()
for n in range(first, last):
    with socket.socket() as sock:
        if port_step:
            sock.connect_ex(("10.99.0.1", 1000 + n * port_step))
        elif sock.connect_ex((f"10.99.0.{n}", 22)) == 0:
            sock.sendall(b"x" * size)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)
"""

RAW = """
import socket, struct
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for n in range(1, 60):
    ends = socket.inet_aton("10.99.0.200"), socket.inet_aton(f"10.99.0.{n}")
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, n, 0, 64, 6, 0, *ends)
    tcp = struct.pack("!HHIIBBHHH", 44444, 22, 1, 0, 5 << 4, 2, 1024, 0, 0)
    sender.sendto(ip + tcp, (f"10.99.0.{n}", 0))
"""
"""SYNs from a raw socket, as port scanners send them: no connect, and no flow that ends."""


def attempt(cgroup: Path, *arguments: object) -> None:
    command = [*NAMESPACE, sys.executable, "-c", TRY, *map(str, arguments)]
    assert start_in(cgroup, command).wait(60) == 0


def told(sensor: Sensor, cgroup: Path, rule: str) -> list[dict[str, Any]]:
    return [alert for alert in alerts_of(sensor.alerts, cgroup) if alert["rule"]["id"] == rule]


def seen_flows(sensor: Sensor) -> int:
    return int(status_of(sensor)["events"].get("network_flow", 0))


def test_a_scan_of_addresses_and_one_of_ports(launch: Launch, cgroup: Path) -> None:
    sensor = launch()
    for name, rule, arguments in (
        ("addresses", ADDRESSES_RULE, ("closed", 1, ADDRESSES + 5, 0, 0)),
        ("ports", PORTS_RULE, ("closed", 1, PORTS + 5, 3, 0)),
    ):
        work = cgroup / name
        work.mkdir()
        attempt(work, *arguments)
        (alert,) = wait_for(lambda work=work, rule=rule: told(sensor, work, rule.id), f"{name} are told")
        assert alert["rule"]["level"] == "high" and alert["response"]["outcome"] == "none"
        assert alert["process"]["executable"].startswith("/") and alert["destination"]["ip"].startswith("10.99.0.")
        assert "refused or unanswered: 40 of 40 new destinations" in alert["event"]["reason"]


def test_by_a_process_for_each_address(launch: Launch, cgroup: Path) -> None:
    sensor = launch()
    loop = 'i=0; while [ $i -lt 50 ]; do i=$((i + 1)); python3 -c "$0" closed $i $((i + 1)) 0 0; done'
    assert start_in(cgroup, [*NAMESPACE, "sh", "-c", loop, TRY]).wait(120) == 0
    wait_for(lambda: told(sensor, cgroup, ADDRESSES_RULE.id), "the scan is told")


def test_by_raw_packets(launch: Launch, cgroup: Path) -> None:
    sensor = launch()
    assert start_in(cgroup, [*NAMESPACE, sys.executable, "-c", RAW]).wait(60) == 0
    (alert,) = wait_for(lambda: told(sensor, cgroup, ADDRESSES_RULE.id), "the scan is told")
    assert alert["destination"]["port"] == 22 and alert["event"]["action"] == "connect"


def test_many_peers_that_accept_are_no_scan(launch: Launch, cgroup: Path) -> None:
    sensor = launch()
    attempt(cgroup, "listening", 1, 200, 0, 10)
    wait_for(lambda: seen_flows(sensor) >= 199, "all flows are seen")
    assert alerts_of(sensor.alerts, cgroup) == []


def remember(state: Path) -> None:
    """A profile as a sensor keeps it that has run for ten days: a few programs and one destination."""
    profiles = Profiles(state / "profiles")
    hour = 3600 * 10**9
    start = time.time_ns() - 241 * hour
    common = {"agent": "rome-rl", "protocol": "tcp", "destination_scope": "private", "destination_ip": "10.99.0.1"}
    programs = [Path(sys.executable).resolve(), *(Path(f"/bin/{name}").resolve() for name in ("sh", "ip"))]
    programs += [
        Path("/usr/bin/unshare"),
        Path("/sbin/ip").resolve(),
        Path("/usr/bin/env"),
        Path("/bin/true").resolve(),
    ]
    for n in range(240):
        at = start + n * hour
        for program in programs:
            assert not profiles.match(ProcessCreation(time=at, agent="rome-rl", image=str(program)))
        assert not profiles.match(NetworkConnection(time=at, destination_port=22, **common))
        assert not profiles.match(
            NetworkFlow(time=at, destination_port=22, bytes_out=1 << 20, bytes_in=1 << 20, flows=1, **common)
        )
    assert profiles.summary()["learned"] == 1
    profiles.save(at_once=True)


def test_departures_and_what_is_learned_of_them(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    work = cgroup / "job"
    work.mkdir()
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "agents.d/rome.yml").write_text(AGENT.format(cgroup=cgroup.name))
    state = tmp_path / "own-state"
    remember(state)
    shutil.copytree(state / "profiles", tmp_path / "profiles")
    sensor = launch(f"--state-dir={state}", f"--events={tmp_path}/events.jsonl")
    attempt(work, "listening", 1, 2, 0, 1000)
    wait_for(lambda: seen_flows(sensor) >= 1, "the flow")
    assert status_of(sensor)["profiles"] == {"agents": 1, "learned": 1, "unjudged": 0, "refused": 0}
    assert alerts_of(sensor.alerts, work) == [], "all of this is known"

    attempt(work, "listening", 7, 8, 0, 48 << 20)
    assert start_in(work, ["/usr/bin/id"]).wait(30) == 0
    for rule in (DESTINATION_RULE, VOLUME_RULE, PROGRAM_RULE):
        (alert,) = wait_for(lambda rule=rule: told(sensor, work, rule.id), rule.title)
        assert alert["workload"] == {"agent": "rome-rl", "owner": "Ada Example", "purpose": "reinforcement learning"}
    assert sensor.stop() == 0
    assert {alert["rule"]["level"] for alert in alerts_of(sensor.alerts, work)} == {"low", "medium"}
    learns(tmp_path, state)
    replays(tmp_path, sensor)

    again = launch(f"--state-dir={state}", f"--agents={tmp_path}/agents.d", directory=tmp_path / "again")
    attempt(work, "listening", 7, 8, 0, 1000)
    wait_for(lambda: seen_flows(again) >= 1, "the flow")
    assert told(again, work, DESTINATION_RULE.id) == [], "it was told before the restart"


def replays(tmp_path: Path, sensor: Sensor) -> None:
    """From where the live run began, the recording gives the same alerts."""
    before = (tmp_path / "profiles" / "rome-rl.json").read_bytes()
    done = hostbrake("replay", tmp_path / "events.jsonl", f"--profiles={tmp_path}/profiles")
    assert done.returncode == 0, done.stderr
    replayed = [json.loads(line) for line in done.stdout.splitlines()]
    live = [(alert["event"]["id"], alert["event"]["reason"]) for alert in alerts_of(sensor.alerts)]
    assert [(alert["event"]["id"], alert["event"]["reason"]) for alert in replayed] == live != []
    assert (tmp_path / "profiles" / "rome-rl.json").read_bytes() == before


def learns(tmp_path: Path, state: Path) -> None:
    done: subprocess.CompletedProcess[str] = hostbrake(
        "learn", "rome-rl", f"--config={tmp_path}/sensor.yml", f"--agents={tmp_path}/agents.d", f"--state-dir={state}"
    )
    assert done.returncode == 0, done.stderr
    assert '\n    # - "10.99.0.7:22"  # once, last ' in done.stdout and "48." in done.stdout
    assert '\n#     - "/usr/bin/id"  # once' in done.stdout
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned/rome.yml").write_text(done.stdout)
    (agent,) = load_agents(tmp_path / "learned")
    assert agent.egress is not None and agent.egress.allow == ["10.99.0.1:22"]


def test_a_damaged_profile_is_told_and_learned_anew(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    work = cgroup / "job"
    work.mkdir()
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "agents.d/rome.yml").write_text(AGENT.format(cgroup=cgroup.name))
    profiles = tmp_path / "own-state" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "rome-rl.json").write_text('{"agent": "rome-rl"')
    sensor = launch(f"--state-dir={profiles.parent}")
    assert start_in(work, ["/bin/true"]).wait(30) == 0
    wait_for((profiles / "rome-rl.json.damaged").exists, "it is set aside")
    assert sensor.stop() == 0
    losses = [a["event"]["reason"] for a in alerts_of(sensor.alerts) if a["event"]["action"] == "loss"]
    assert len(losses) == 1 and "1 by profiles.damaged" in losses[0]
    assert (profiles / "rome-rl.json").stat().st_mode & 0o777 == 0o600
