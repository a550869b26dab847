"""What the service manager hears (sd_notify(3)), and that one that does not listen holds nothing up."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.record.log import configure
from sensor.supervisor import Supervisor


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(manager: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(manager.recv(1000))
        except BlockingIOError:
            return found


def test_ready_and_stopping(manager: socket.socket) -> None:
    supervisor = Supervisor()
    supervisor.ready()
    supervisor.alive()
    supervisor.stopping()
    ready, stopping = heard(manager)
    assert ready.split(b"\n")[0] == b"READY=1" and stopping == b"STOPPING=1"


@pytest.mark.parametrize(
    ("period_us", "pid", "count"),
    [("1", None, 3), ("1", os.getpid(), 3), ("1", 1, 0), ("60000000", None, 1), ("", None, 0), ("-1", None, 0)],
)
def test_the_watchdog(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, period_us: str, pid: int | None, count: int
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", period_us)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(pid))
    supervisor = Supervisor()
    for _ in range(3):
        supervisor.alive()
    assert heard(manager) == [b"WATCHDOG=1"] * count


def test_a_manager_that_does_not_read_is_not_waited_for(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    configure()
    supervisor = Supervisor()
    for _ in range(20_000):  # far more than its queue holds; each would wait without end
        supervisor.alive()
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["what"]) == ("the service manager was not told", "WATCHDOG=1")
    supervisor.stopping()  # waits a moment, and gives up
    assert b"STOPPING=1" not in heard(manager)


def test_without_a_manager(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Supervisor().ready()
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    configure()
    Supervisor().ready()
    assert len(capsys.readouterr().err.splitlines()) == 1
