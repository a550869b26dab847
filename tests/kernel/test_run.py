"""`hostbrake run` on the live kernel: what happens, what is said of it, and what becomes of the cgroup."""

from __future__ import annotations

import getpass
import os
import platform
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from respond_helpers import state_of
from sensor_helpers import (
    MINER_RULE,
    Launch,
    alerts_of,
    json_lines,
    logged,
    members,
    miner,
    mining,
    path_of,
    status_of,
    wait_for,
    workers_in,
)

from sensor.cli.staging import Sshd, start_in
from sensor.context.identity import parse_guid
from sensor.node import boot_id

pytestmark = pytest.mark.kernel

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
AGENT = """\
agent: rome-rl
purpose: reinforcement learning on terminal tasks
owner: {{name: Ada Example, notify: ["mailto://ada@example.org"]}}
match: [{{cgroup: "{cgroup}/**"}}]
"""


@pytest.fixture
def agents(tmp_path: Path, cgroup: Path) -> None:
    """All in the throwaway cgroup is an agent."""
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "agents.d/rome.yml").write_text(AGENT.format(cgroup=path_of(cgroup)))


def taken_apart(alert: dict[str, Any]) -> dict[str, Any]:
    """The alert without what differs from run to run, which is checked here."""
    assert TIME.fullmatch(alert.pop("@timestamp"))
    assert re.fullmatch("[0-9a-f]{32}", alert["event"].pop("id"))
    guid = alert["process"].pop("entity_id")
    assert (parse_guid(guid) or ())[0] == alert["process"]["pid"] and guid.startswith(boot_id())
    response = alert["response"]
    detect_ms = response.pop("detect_ms")
    assert 0 < detect_ms <= response.pop("respond_ms", detect_ms)
    return alert


def expected_process(pid: int, program: Path, args: list[str]) -> dict[str, Any]:
    """What an alert says of a process of ours that called exec with `args`."""
    own = Path("/proc/self/cmdline").read_bytes()[:4096].removesuffix(b"\0").decode().split("\0")
    return {
        "pid": pid,
        "executable": str(program),
        "name": program.name,
        "args": args,
        "command_line": " ".join(args),
        "working_directory": str(Path.cwd()),
        "user": {"id": "0", "name": getpass.getuser()},
        "parent": {
            "pid": os.getpid(),
            "executable": str(Path("/proc/self/exe").readlink()),
            "command_line": " ".join(own),
        },
    }


def host() -> dict[str, str]:
    machine_id = Path("/etc/machine-id")
    named = {"name": platform.node()}
    return named | ({"id": machine_id.read_text().strip()} if machine_id.exists() else {})


def test_an_exec_kills_its_cgroup_and_one_line_says_so(
    launch: Launch, agents: None, cgroup: Path, tmp_path: Path
) -> None:
    sensor = launch("--mode=enforce")
    work = cgroup / "work"
    workers = workers_in(work)
    bystander = workers_in(cgroup / "other", 1)[0]
    args = [str(miner(tmp_path)), "-c", "kill -STOP $$", "quote \" and \\ and 'é'"]
    deed = start_in(work, args)
    alert = sensor.wait_alert(work)
    assert alert is not None
    assert not members(work) and "populated 0" in (work / "cgroup.events").read_text()
    assert [process.wait(10) for process in (*workers, deed)] == [-signal.SIGKILL] * 3
    assert bystander.poll() is None
    assert taken_apart(alert) == {
        "event": {
            "kind": "alert",
            "category": ["process"],
            "action": "exec",
            "severity": 99,
            "reason": f"xmrig (pid {deed.pid}, {getpass.getuser()}) of agent rome-rl was kept from running"
            f" `{' '.join(args)}`"
            f" in {path_of(work)}: Cryptocurrency miner by its name",
        },
        "rule": {"id": MINER_RULE, "name": "Cryptocurrency miner by its name", "level": "critical"},
        "threat": {"technique": {"id": ["T1496", "T1496.001"]}},
        "host": host(),
        "process": expected_process(deed.pid, tmp_path / "xmrig", args),
        "cgroup": {"id": work.stat().st_ino, "path": path_of(work)},
        "workload": {
            "agent": "rome-rl",
            "owner": "Ada Example",
            "purpose": "reinforcement learning on terminal tasks",
        },
        "response": {
            "mode": "enforce",
            "action": "kill",
            "outcome": "done",
            "scope": "cgroup",
            "cgroup": path_of(work),
            "processes": 3,
        },
    }
    assert len(json_lines(sensor.alerts)) == 1


def test_who_was_there_before_the_sensor_is_known(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    sensor = launch(f"--events={events}")
    start_in(cgroup, ["/bin/true"]).wait(10)
    event = wait_for(lambda: events.exists() and json_lines(events), "an event")[0]
    assert sensor.stop() == 0
    above = [pid for pid in (os.getpid(), os.getppid()) if pid != 1]  # init may let nobody read its link
    assert event["Ancestors"][: len(above)] == [str(Path(f"/proc/{pid}/exe").readlink()) for pid in above]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path)
    yield server
    server.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_a_real_reverse_tunnel_dies_when_enforced_and_lives_when_monitored(
    launch: Launch, cgroup: Path, sshd: Sshd, tmp_path: Path
) -> None:
    work, port = cgroup / "work", free_port()
    command = sshd.client("-N", "-R", f"127.0.0.1:{port}:127.0.0.1:{sshd.port}")
    monitor = launch()
    workers = workers_in(work)
    tunnel = start_in(work, command)
    alert = monitor.wait_alert(work)
    assert alert is not None

    def way_in() -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                return client.recv(100)
        except OSError:
            return b""

    assert wait_for(way_in, "the tunnel carries").startswith(b"SSH-")
    assert all(process.poll() is None for process in (*workers, tunnel))
    assert alert["response"].pop("detect_ms") > 0
    would = {"mode": "monitor", "action": "kill", "outcome": "would", "scope": "cgroup", "cgroup": path_of(work)}
    assert alert["response"] == would
    assert monitor.stop() == 0
    tunnel.kill()
    tunnel.wait()

    enforce = launch("--mode=enforce", directory=tmp_path / "enforce")
    tunnel = start_in(work, command)
    alert = enforce.wait_alert(work)
    assert alert is not None and not members(work)
    assert {process.wait(10) for process in (*workers, tunnel)} == {-signal.SIGKILL}
    assert alert["rule"]["name"] == "SSH client asks for a remote forward"
    assert alert["threat"] == {"technique": {"id": ["T1572"]}}
    assert alert["process"]["args"] == list(map(str, command)) and alert["process"]["pid"] == tunnel.pid
    assert taken_apart(alert)["response"] == would | {"mode": "enforce", "outcome": "done", "processes": 3}
    wait_for(lambda: not way_in(), "the way in is shut")


def test_a_gpu_node_under_another_name(launch: Launch, agents: None, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce")
    work, node = cgroup / "work", tmp_path / "notes.txt"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(195, 7))
    workers = workers_in(work)
    # There is no driver behind it here: the open fails, so a shell goes on to live.
    deed = start_in(work, ["/bin/sh", "-c", f"read x < {shlex.quote(str(node))}; sleep 300; :"])
    alert = sensor.wait_alert(work)
    assert alert is not None and not members(work)
    assert {process.wait(10) for process in (*workers, deed)} == {-signal.SIGKILL}
    found = taken_apart(alert)
    assert found["device"] == {"class": "nvidia", "major": 195, "minor": 7}
    assert found["event"] | {"reason": ""} == {
        "kind": "alert",
        "category": ["host"],
        "action": "device-open",
        "severity": 73,
        "reason": "",
    }
    assert found["process"]["pid"] == deed.pid and "working_directory" not in found["process"]
    assert found["response"]["outcome"] == "done"
    keys = {"event", "rule", "threat", "host", "process", "device", "cgroup", "workload", "response"}
    assert set(found) == keys


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


def test_a_connection_to_the_metadata_service(launch: Launch, cgroup: Path) -> None:
    """In a network namespace without a route, so that nothing is sent."""
    sensor = launch("--mode=enforce")
    work = cgroup / "work"
    worker = workers_in(work, 1)[0]
    deed = start_in(work, ["unshare", "--net", sys.executable, "-c", CONNECT, "169.254.169.254", "80"])
    alert = wait_for(lambda: alerts_of(sensor.alerts, work), "an alert")[0]
    deed.wait(10)
    found = taken_apart(alert)
    assert found["destination"] == {"ip": "169.254.169.254", "port": 80}
    assert found["network"] == {"transport": "tcp"}
    assert found["event"].pop("reason").startswith(f"{Path(os.path.realpath(sys.executable)).name} (pid {deed.pid}")
    assert found["event"] == {"kind": "alert", "category": ["network"], "action": "connect", "severity": 73}
    assert found["response"] == {"mode": "enforce", "action": "alert", "outcome": "none"}
    assert worker.poll() is None


@pytest.mark.parametrize("name", ["cgroup.d", ".hidden", "back\\slash", "tab\tand \x01"])
def test_what_lies_outside_the_watched_cgroup_is_let_be(
    launch: Launch, cgroup: Path, tmp_path: Path, name: str
) -> None:
    inside = cgroup / name
    outside = [cgroup, cgroup / "other", cgroup / f"{name}-too"]
    for path in (inside, *outside[1:]):
        path.mkdir()
    sensor = launch("--mode=enforce", within=inside)
    command = mining(tmp_path)
    strangers = [start_in(path, command) for path in outside]
    wait_for(lambda: all(str(p.pid) in members(c) for p, c in zip(strangers, outside, strict=True)), "they run")
    for work in (inside, inside / "below"):
        work.mkdir(exist_ok=True)
        deed = start_in(work, command)
        alert = sensor.wait_alert(work)
        assert alert is not None and alert["response"]["outcome"] == "done"
        assert deed.wait(10) == -signal.SIGKILL
    assert all(process.poll() is None for process in strangers)
    assert len(json_lines(sensor.alerts)) == 2
    assert set(status_of(sensor)["events"]) == {"process_creation"}


def test_a_kill_does_not_reach_out_of_the_watched_cgroup(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    """A container would die as a whole, but only a part of it is watched."""
    container = cgroup / f"docker-{'0123456789abcdef' * 4}.scope"
    inside = container / "watched"
    inside.mkdir(parents=True)
    sensor = launch("--mode=enforce", within=inside)
    outside = workers_in(container / "outside")
    workers = workers_in(inside)
    deed = start_in(inside, mining(tmp_path))
    alert = sensor.wait_alert(inside)
    assert alert is not None and not members(inside)
    assert {process.wait(10) for process in (*workers, deed)} == {-signal.SIGKILL}
    assert all(process.poll() is None for process in outside)
    response = alert["response"]
    assert (response["outcome"], response["scope"], response["cgroup"]) == ("done", "cgroup", path_of(inside))
    assert (
        response["reason"] == f"{path_of(container)} is not within the watched {path_of(inside)}; only the part in it"
    )


def test_a_watched_cgroup_whose_name_is_no_text(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    work = Path(os.fsdecode(os.fsencode(cgroup) + b"/w\xff\xfe"))
    work.mkdir()
    sensor = launch("--mode=enforce", within=work)
    deed = start_in(work, mining(tmp_path))
    alert = wait_for(lambda: alerts_of(sensor.alerts, work), "an alert")[0]
    assert alert["response"]["outcome"] == "done" and deed.wait(10) == -signal.SIGKILL
    assert alert["cgroup"] == {"id": work.stat().st_ino, "path": f"{path_of(cgroup)}/w\\xff\\xfe"}


def test_a_kill_under_way_holds_nothing_up_and_is_told_at_the_end(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    """A process that a tracer holds at its exit stands for one in an uninterruptible sleep."""
    sensor = launch("--mode=enforce")
    stuck, other = cgroup / "stuck", cgroup / "other"
    held = workers_in(stuck, 1)[0]
    workers = workers_in(other)
    command = mining(tmp_path)
    code = f"""
import ctypes, time
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print(libc.ptrace(0x4206, {held.pid}, 0, 0x40), flush=True)  # PTRACE_SEIZE, PTRACE_O_TRACEEXIT
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as tracer:
        try:
            assert tracer.stdout is not None and tracer.stdout.readline() == b"0\n"
            start_in(stuck, command)
            wait_for(lambda: state_of(held.pid) == "t", "the kill has begun")
            deed = start_in(other, command)
            alert = sensor.wait_alert(other)
            assert alert is not None and alert["response"]["outcome"] == "done"
            assert {process.wait(10) for process in (*workers, deed)} == {-signal.SIGKILL}
            assert not alerts_of(sensor.alerts, stuck)
            assert sensor.stop() == 0
        finally:
            tracer.kill()
    (alert,) = alerts_of(sensor.alerts, stuck)
    assert alert["response"]["outcome"] == "pending" and "respond_ms" not in alert["response"]
    assert logged(sensor, "stopped")[0]["alerts"] == {"done": 1, "pending": 1}


def test_five_hundred_processes(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor = launch("--mode=enforce")
    work = cgroup / "work"
    work.mkdir()
    start_in(work, ["/bin/sh", "-c", "for i in $(seq 500); do sleep 300 & done; wait"])
    wait_for(lambda: len(members(work)) == 501, "all of them")
    start_in(work, mining(tmp_path))
    alert = sensor.wait_alert(work)
    assert alert is not None and not members(work)
    assert (alert["response"]["outcome"], alert["response"]["processes"]) == ("done", 502)
