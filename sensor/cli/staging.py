"""What `demo` (and the benchmarks) stage with: throwaway cgroups, a sensor of their own, a real sshd on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from sensor.control import ControlError, ask
from sensor.node import cgroup2_mount
from sensor.respond.act import kill_cgroups
from sensor.respond.cgroupfs import CgroupRoot

PATIENCE_S = 10.0
_POLL_S = 0.002


class StageError(Exception):
    """The stage cannot be set; the message is one sentence."""


_interrupts: list[int] = []


@contextlib.contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP raise StageError where the stage waits, and only there.

    So nothing is left half made, and nothing disturbs the clearing up.
    """

    def note(number: int, _frame: object) -> None:
        _interrupts.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _interrupts.clear()


def pause() -> None:
    """Wait a little for what is to come; raises StageError once interrupted, see `orderly_interrupts`."""
    if _interrupts:
        raise StageError("interrupted; what was staged is gone again")
    time.sleep(_POLL_S)


@contextlib.contextmanager
def throwaway_cgroup(name: str) -> Iterator[Path]:
    """A cgroup v2 directory of our own; all in it is killed and removed at the end."""
    path = cgroup2_mount() / name
    path.mkdir()
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    root = CgroupRoot(path.parent)
    try:
        cgroup = root.open("/" + path.name)
        survivors = kill_cgroups([cgroup], PATIENCE_S)[1] if cgroup else []
    finally:
        root.close()
    if survivors:
        raise StageError(f"{path} cannot be cleaned up: {', '.join(survivors)}")
    for below in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        below.rmdir()
    path.rmdir()


def start_in(cgroup: Path, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
    """Start `command` inside `cgroup`: it is there before it becomes the program."""
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    return subprocess.Popen(
        ["/bin/sh", "-c", enter, cgroup, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class Sensor:
    """A sensor of its own, in a process of its own, that watches one cgroup."""

    def __init__(
        self, directory: Path, cgroup: Path, *options: str, stdout: int = subprocess.DEVNULL, notify: bool = False
    ) -> None:
        """`options` of `hostbrake run` win over what is set here; this node's own configuration does not count.

        Nobody is told anything, unless `notify` is given.
        """
        config, agents = directory / "sensor.yml", directory / "agents.d"
        config.touch()
        agents.mkdir(exist_ok=True)
        self.alerts = directory / "alerts.jsonl"
        self.log = directory / "sensor.log"
        self.socket = directory / "control.sock"
        self._read = 0
        program = "from sensor.cli.main import main; main()"
        own = {"config": config, "cgroup-root": cgroup, "agents": agents, "alerts": self.alerts}
        own |= {"state-dir": directory / "state", "control-socket": self.socket}
        arguments = [f"--{name}={value}" for name, value in own.items()]
        quiet = [] if notify else ["--no-notify"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "run", "--no-pin", *quiet, *arguments, *options],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )

    def wait_ready(self) -> dict[str, Any]:
        """Its status once it is ready; raises StageError with its own words where it does not become so."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(ControlError):
                status = ask(self.socket, "status")
                if status["ready"]:
                    return status
            pause()
        raise StageError(f"the sensor did not become ready: {self.log.read_text(errors='replace').strip()[-500:]}")

    def new_alerts(self) -> list[dict[str, Any]]:
        """Alerts written since the last call."""
        if not self.alerts.exists():
            return []
        with self.alerts.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")
        self._read += len(whole[0]) + len(whole[1])
        return [orjson.loads(line) for line in whole[0].splitlines()]

    def wait_alert(self, cgroup: Path, timeout_s: float = PATIENCE_S) -> dict[str, Any] | None:
        """The first new alert of `cgroup` whose rule asks for more than an alert; None where none comes."""
        path = "/" + str(cgroup.relative_to(cgroup2_mount()))
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for alert in self.new_alerts():
                if alert.get("cgroup", {}).get("path") == path and alert["response"]["action"] != "alert":
                    return alert
            pause()
        return None

    def stop(self) -> int:
        """Its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Sshd:
    """A real sshd on a loopback port, with keys of its own; serves nobody else."""

    def __init__(self, directory: Path) -> None:
        self._sshd, keygen, self._ssh = (_find(name) for name in ("sshd", "ssh-keygen", "ssh"))
        self._directory = directory
        for key in ("host_key", "user_key"):
            make = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)]
            if subprocess.run(make, check=False, start_new_session=True).returncode:
                raise StageError("ssh-keygen made no key")
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own requirement: its privilege separation directory
        self.port = _free_port()
        config = directory / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        )
        self._process = subprocess.Popen(
            [self._sshd, "-D", "-e", "-f", config],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._wait()
            undo.pop_all()

    def _wait(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            pause()
        raise StageError("sshd did not start")

    def client(self, *options: str) -> list[str | Path]:
        """An ssh command line that logs in there, with `options` before the destination."""
        quiet = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        identity = ["-F", "none", "-i", str(self._directory / "user_key"), "-p", str(self.port)]
        return [self._ssh, *identity, *quiet, *options, "root@127.0.0.1"]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)


def _find(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise StageError(f"{name} is not installed; install openssh-client and openssh-server")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
