"""The drill's canary: what it does and must not, on loopback and in cgroups of its own, and what became of it."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from sensor.cli.staging import PATIENCE_S, Sshd, StageError, pause, start_in

DENIED, WENT_THROUGH = 77, 78
"""Exit codes of a canary that was refused by the kernel, and of one that was not."""
GRACE_S = 5.0
"""How long past its limit a behaviour is waited for, so that too late is told from never."""
NVIDIA_MAJOR, NO_SUCH_GPU = 195, 253
"""A device number that counts as a GPU's and that no driver answers (254 and 255 are not GPUs)."""
SLEEPERS = 20

_ENTER = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
_PYTHON = [sys.executable, "-I", "-S", "-c"]
_TRY = """
import errno, os, socket, sys
print("ready", flush=True)
sys.stdin.readline()
try:
    {deed}
except OSError as error:
    sys.exit({denied} if error.errno in (errno.EPERM, errno.EACCES) else {through})
sys.exit({through})
"""
_CONNECT = "socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"
_OPEN = "os.open(sys.argv[1], os.O_RDONLY)"


class Behaviour(msgspec.Struct, frozen=True):
    """One thing that the canary does."""

    name: str
    stage: Callable[[], contextlib.AbstractContextManager[list[str | Path]]]
    """Prepares the deed and gives the command that does it."""


class Seen(msgspec.Struct):
    """What the drill itself saw of a deed: milliseconds after it, None for never."""

    known_ms: float | None = None
    stopped_ms: float | None = None
    response: dict[str, Any] = {}


def behaviours(directory: Path, forbidden: dict[str, Any]) -> list[Behaviour]:
    """What this agent must not do; `forbidden` is what the sensor says of it. What an agent may do is not tried."""
    found = [
        Behaviour("reverse tunnel", lambda: _tunnel(directory)),
        Behaviour("miner", lambda: _miner(directory)),
    ]
    if forbidden["gpu"]:
        found.append(Behaviour("GPU open", lambda: _gpu(directory)))
    if forbidden["connect"]:
        found.append(Behaviour("denied connect", _connect))
    return found


def _on_word(directory: Path, command: list[str | Path]) -> list[str | Path]:
    """What becomes `command` once it is told to. A deed is timed from that word, so until then nothing names it."""
    script = directory / "deed"
    script.write_text(f"echo ready\nread -r go\nexec {shlex.join(map(str, command))}\n")
    return ["/bin/sh", script]


@contextlib.contextmanager
def _tunnel(directory: Path) -> Iterator[list[str | Path]]:
    place = directory / "ssh"
    place.mkdir(exist_ok=True)
    sshd = Sshd(place)
    try:
        yield _on_word(directory, sshd.client("-N", "-R", f"0:127.0.0.1:{sshd.port}"))
    finally:
        sshd.stop()
        shutil.rmtree(place)


@contextlib.contextmanager
def _miner(directory: Path) -> Iterator[list[str | Path]]:
    program = directory / "xmrig"
    shutil.copy(os.path.realpath("/bin/sh"), program)
    arguments = ["xmrig", "-o", "stratum+tcp://127.0.0.1:3333", "-u", "wallet", "-k"]
    yield _on_word(directory, [program, "-c", "sleep 300; :", *arguments])


@contextlib.contextmanager
def _gpu(directory: Path) -> Iterator[list[str | Path]]:
    node = Path("/dev") / f"{directory.name}.txt"
    os.mknod(node, 0o20600, os.makedev(NVIDIA_MAJOR, NO_SUCH_GPU))
    try:
        yield [*_PYTHON, _TRY.format(deed=_OPEN, denied=DENIED, through=WENT_THROUGH), node]
    finally:
        node.unlink(missing_ok=True)


@contextlib.contextmanager
def _connect() -> Iterator[list[str | Path]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        yield [*_PYTHON, _TRY.format(deed=_CONNECT, denied=DENIED, through=WENT_THROUGH), port]


def act(cgroup: Path, command: list[str | Path], limit_s: float, alerts: Callable[[], list[dict[str, Any]]]) -> Seen:
    """Do the deed in `cgroup`, which is made for it, beside an innocent process; see what becomes of it."""
    cgroup.mkdir()
    with contextlib.ExitStack() as undo:
        bystander = start_in(cgroup, ["/bin/sleep", "300"])
        canary = subprocess.Popen(
            ["/bin/sh", "-c", _ENTER, cgroup, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        undo.callback(_reap, cgroup, [bystander, canary])
        _wait_members(cgroup, 2)
        assert canary.stdin is not None and canary.stdout is not None
        if (
            not select.select([canary.stdout], [], [], PATIENCE_S)[0]
            or os.read(canary.stdout.fileno(), 16) != b"ready\n"
        ):
            raise StageError("the canary did not get ready")
        began = time.time_ns()
        canary.stdin.write(b"go\n")
        canary.stdin.close()
        return _watch(cgroup, canary, began, limit_s, alerts)


def _watch(
    cgroup: Path,
    canary: subprocess.Popen[bytes],
    began: int,
    limit_s: float,
    alerts: Callable[[], list[dict[str, Any]]],
) -> Seen:
    seen = Seen()
    stopped: int | None = None
    asked = 0.0
    until = time.monotonic() + limit_s + GRACE_S
    while time.monotonic() < until and not (seen.response.get("outcome") == "done" and stopped):
        if stopped is None and _is_stopped(cgroup, canary):
            stopped = time.time_ns()
        if time.monotonic() >= asked:  # the sensor has better to do than to answer us
            asked = time.monotonic() + 0.05
            _learn(seen, alerts(), began)
        if seen.response.get("outcome") == "would":  # monitor mode: nothing more comes
            break
        pause()
    if seen.response.get("outcome") == "done" and stopped:
        seen.stopped_ms = round((stopped - began) / 1e6, 1)
    return seen


def _learn(seen: Seen, alerts: list[dict[str, Any]], began: int) -> None:
    """Of several alerts the first one tells when it was known, and the first one that was acted on what was done."""
    if alerts and seen.known_ms is None:
        seen.known_ms = round(max(0, min(alert["known"] for alert in alerts) - began) / 1e6, 1)
    acted = [alert["response"] for alert in alerts if alert["response"]["action"] != "alert"]
    done = [response for response in acted if response["outcome"] == "done"]
    if acted:
        seen.response = (done or acted)[0]


def _is_stopped(cgroup: Path, canary: subprocess.Popen[bytes]) -> bool:
    """Dead, frozen with its cgroup, or refused: by what the kernel says, not by what the sensor says."""
    code = canary.poll()
    if code is not None:
        return code != WENT_THROUGH
    return "frozen 1" in (cgroup / "cgroup.events").read_text()


def switch_off(cgroup: Path, limit_s: float) -> Seen:
    """The kill switch, as a person uses it, on `SLEEPERS` processes; the command's start is the deed."""
    cgroup.mkdir()
    sleepers = [start_in(cgroup, ["/bin/sleep", "300"]) for _ in range(SLEEPERS)]
    with contextlib.ExitStack() as undo:
        undo.callback(_reap, cgroup, sleepers)
        _wait_members(cgroup, SLEEPERS)
        began = time.time_ns()
        program = "from sensor.cli.main import main; main()"
        command = subprocess.Popen(
            [sys.executable, "-c", program, "kill", "--cgroup", str(cgroup)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + limit_s + GRACE_S
        empty = None
        while empty is None and time.monotonic() < until:
            pause()
            if "populated 0" in (cgroup / "cgroup.events").read_text():
                empty = time.time_ns()
        undo.callback(_end, command)
        seen = Seen()
        if empty is not None and command.wait(PATIENCE_S) == 0:
            seen.stopped_ms = round((empty - began) / 1e6, 1)
        return seen


def _end(command: subprocess.Popen[bytes]) -> None:
    if command.poll() is None:
        command.kill()
        command.wait()


def _wait_members(cgroup: Path, count: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while len((cgroup / "cgroup.procs").read_text().split()) < count:
        if time.monotonic() > until:
            raise StageError(f"the canary did not get into {cgroup}")
        pause()


def _reap(cgroup: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    (cgroup / "cgroup.freeze").write_text("0")
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()
