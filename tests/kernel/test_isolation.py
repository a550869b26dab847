"""Cut off, on the live kernel: nothing leaves, no GPU opens, connections end; and all is as before once released."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensor_helpers import Launch, alerts_of, hostbrake, path_of, status_of, wait_for

from sensor.cli.staging import Sensor
from sensor.control import ControlError, ask

pytestmark = pytest.mark.kernel

TALK = """
import socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    try:
        if line == "old\\n":
            peer.sendall(b"x")
        elif line == "new\\n":
            socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2).close()
        elif line == "udp\\n":
            sender.sendto(b"x", ("127.0.0.1", int(sys.argv[2])))
        else:
            open(line.strip(), "rb").close()
        print("done", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


class Talker:
    """A program in a cgroup that does what it is told, and says what came of it."""

    def __init__(self, cgroup: Path) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        ports = [str(end.getsockname()[1]) for end in (self.server, self.datagrams)]
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", enter, cgroup, sys.executable, "-S", "-u", "-c", TALK, *ports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.server.settimeout(30)
        self.peer, _ = self.server.accept()
        self.server.settimeout(0.5)
        self.datagrams.settimeout(0.5)

    def does(self, what: str | Path) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{what}\n".encode())
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def hears_datagram(self) -> bool:
        try:
            return bool(self.datagrams.recv(10))
        except TimeoutError:
            return False

    def is_called(self) -> bool:
        try:
            self.server.accept()[0].close()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for end in (self.server, self.datagrams, self.peer):
            end.close()


@pytest.fixture
def work(cgroup: Path) -> Path:
    (cgroup / "work" / "below").mkdir(parents=True)
    return cgroup / "work"


@pytest.fixture
def talker(work: Path) -> Iterator[Talker]:
    found = Talker(work / "below")
    yield found
    found.close()


def isolate(sensor: Sensor, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return hostbrake("isolate", f"--control-socket={sensor.socket}", *arguments)


def test_nothing_leaves_until_released(launch: Launch, work: Path, talker: Talker, tmp_path: Path) -> None:
    node = tmp_path / "gpu"
    os.mknod(node, 0o020666, Path("/dev/null").stat().st_rdev)
    sensor = launch("--gpu-majors=1")
    assert talker.does("udp") == "done" and talker.hears_datagram()
    assert talker.does("new") == "done" and talker.is_called() and talker.does(node) == "done"
    done = isolate(sensor, f"--cgroup={work}")
    assert done.returncode == 0 and "verified" in done.stdout and path_of(work) in done.stdout, done.stderr
    assert status_of(sensor)["isolated"] == [path_of(work)]
    assert talker.does("old") in ("ConnectionAbortedError", "BrokenPipeError"), "the live connection has ended"
    assert talker.does("new") == "PermissionError" and not talker.is_called()
    assert talker.does("udp") == "PermissionError" and not talker.hears_datagram()
    assert talker.does(node) == "PermissionError"
    (work / "later").mkdir()
    assert not reaches(work / "later", talker), "what is made below meanwhile is cut off, too"
    options = (f"--control-socket={sensor.socket}", f"--state-dir={tmp_path}", "--config=/dev/null")
    released = hostbrake("release", f"--cgroup={work}", *options)
    assert released.returncode == 0 and "no longer cut off" in released.stdout, released.stderr
    assert hostbrake("release", f"--cgroup={work}", *options).returncode == 1
    assert talker.does("new") == "done" and talker.is_called()
    assert talker.does("udp") == "done" and talker.hears_datagram() and talker.does(node) == "done"
    assert reaches(work / "later", talker)
    assert status_of(sensor)["isolated"] == []
    assert ask(sensor.socket, "release", cgroup=path_of(work))["released"] is False


def reaches(cgroup: Path, talker: Talker) -> bool:
    script = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)"
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    port = str(talker.server.getsockname()[1])
    command = ["/bin/sh", "-c", enter, cgroup, sys.executable, "-S", "-c", script, port]
    failed = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0
    assert talker.is_called() is not failed
    return not failed


def test_a_live_connection_is_silent_even_if_it_could_not_be_ended(
    launch: Launch, work: Path, talker: Talker, cgroup: Path
) -> None:
    """It was made before, and elsewhere: a socket keeps the cgroup of who made it; a neighbour is let be."""
    sensor = launch()
    (cgroup / "other").mkdir()
    other = Talker(cgroup / "other")
    assert isolate(sensor, f"--cgroup={work}").returncode == 0
    talker.peer.settimeout(1)
    assert talker.does("old") != "done"
    assert other.does("old") == "done" and other.peer.recv(1) == b"x" and other.does("new") == "done"
    other.close()


def test_the_allow_list_stays_open(launch: Launch, work: Path, talker: Talker, tmp_path: Path) -> None:
    port = talker.server.getsockname()[1]
    (tmp_path / "sensor.yml").write_text(f"alert_window_s: 0\nisolation_allow: ['127.0.0.1:{port}']\n")
    sensor = launch()
    assert isolate(sensor, f"--cgroup={work}").returncode == 0
    assert talker.does("new") == "done" and talker.is_called()
    assert talker.does("udp") == "PermissionError"


def test_a_restart_keeps_it_cut_off(launch: Launch, work: Path, talker: Talker) -> None:
    first = launch()
    assert isolate(first, f"--cgroup={work}").returncode == 0
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(10)
    second = launch()
    assert status_of(second)["isolated"] == [path_of(work)]
    assert talker.does("new") == "PermissionError" and not talker.is_called()
    assert ask(second.socket, "release", cgroup=path_of(work))["released"] is True


RULE = """
title: Cut it off
id: 6f1d3c1e-29b1-4a1e-9d55-0d3f3b9d6a12
logsource: {product: linux, category: network_connection}
detection: {selection: {DestinationPort: %d}, condition: selection}
level: high
response: {action: isolate, scope: cgroup}
"""


def test_a_rule_cuts_off(launch: Launch, work: Path, talker: Talker, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "rule.yml").write_text(RULE % talker.datagrams.getsockname()[1])
    sensor = launch(f"--rules={tmp_path / 'rules'}", "--mode=enforce")
    assert talker.does("udp") == "done"
    alert = wait_for(lambda: alerts_of(sensor.alerts), "an alert")[0]
    assert (alert["response"]["action"], alert["response"]["outcome"]) == ("isolate", "done")
    assert alert["response"]["cgroup"] == path_of(work / "below") and "respond_ms" in alert["response"]
    assert talker.does("new") == "PermissionError" and not talker.is_called()
    assert ask(sensor.socket, "release", cgroup=path_of(work / "below"))["released"] is True


def test_what_cannot_be_cut_off_is_said(launch: Launch, work: Path, tmp_path: Path) -> None:
    sensor = launch()
    assert isolate(sensor, "--cgroup=/").returncode == 2
    with pytest.raises(ControlError, match="no cgroup"):
        ask(sensor.socket, "isolate", cgroup=path_of(work) + "/nothing")
    with pytest.raises(ControlError, match="must be a path"):
        ask(sensor.socket, "isolate", cgroup=7)
    sensor.stop()
    without = isolate(sensor, f"--cgroup={work}")
    assert without.returncode == 1 and "no sensor runs" in without.stderr
