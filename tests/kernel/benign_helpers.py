"""Ordinary work under the shipped rules: a sensor that enforces, two hosts for programs to talk between, and a verdict.

Every process runs in the site's own cgroup, each test's in one below it. The sensor is a real one and enforces: what
a rule that kills would take for an attack does not come to its end.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import LOSS, alerts_of, path_of, wait_for

from sensor.cli.staging import Sensor, start_in

PROGRAMS = Path(__file__).parents[1] / "programs"
QUIET = {"informational", "low"}
PATIENCE_S = 60
BUILT = Path(__file__).parents[2] / "build/nginx/usr/sbin"
"""Where `make test` unpacks nginx if the node has none."""
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin:{BUILT}"
PYTHON = "/" + Path(sys.executable).resolve().name
"""How the sensor's name of this Python's image ends."""
BETWEEN = pytest.mark.parametrize("place", ["private", "external"], indirect=True)
INSIDE = pytest.mark.parametrize("place", ["private"], indirect=True)
OUTSIDE = pytest.mark.parametrize("place", ["external"], indirect=True)
"""Where else than on loopback and outside, or only where: what rules look at differs, and each place takes time."""
_WIRES = {
    "private": {"node": ("10.98.0.1", "fd00:98::1"), "peer": ("10.98.0.2", "fd00:98::2")},
    "external": {"node": ("203.0.113.1", "2001:db8:98::1"), "peer": ("203.0.113.2", "2001:db8:98::2")},
}
"""Addresses of the same two hosts; those of documentation (RFC 5737, RFC 3849) are external to the sensor."""
_PORTS = range(24_000, 32_000)
"""Below those that the kernel gives to clients, and none that pools use."""


@dataclass(frozen=True)
class Host:
    """Where programs run: how a command starts there, the address others reach it at, and an IPv6 one."""

    enter: tuple[str, ...]
    address: str
    address6: str


@dataclass(frozen=True)
class Place:
    """A workload's host and the one that it talks to: this machine's loopback, or two hosts on a wire.

    `scope` is what the sensor says of the addresses.
    """

    scope: str
    node: Host
    peer: Host


class Site:
    """Two namespaces joined by a veth pair, and all the deeds done between them."""

    def __init__(self, cgroup: Path, directory: Path, sensor: Sensor) -> None:
        self.cgroup, self.directory, self.sensor = cgroup, directory, sensor
        self._recorded: list[dict[str, Any]] = []
        self._read = 0
        self._condoned: list[str] = []
        self._numbers = itertools.count()
        hosts = cgroup / "hosts"
        hosts.mkdir()
        self._pids = {name: _namespace(hosts) for name in ("node", "peer")}
        _join(self._pids)
        here = Host((), "127.0.0.1", "::1")
        self.places = {"loopback": Place("loopback", here, here)}
        for scope, wire in _WIRES.items():
            ends = [Host(self._enter(name), *addresses) for name, addresses in wire.items()]
            self.places[scope] = Place(scope, *ends)

    def _enter(self, name: str) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{self._pids[name]}/ns/net")

    def work(self, name: str) -> Work:
        """A cgroup and a directory for one piece of work."""
        label = f"{name}-{next(self._numbers)}"
        cgroup, directory = self.cgroup / label, self.directory / label
        cgroup.mkdir()
        directory.mkdir()
        return Work(self, cgroup, directory)

    def recorded(self) -> list[dict[str, Any]]:
        """Every event so far."""
        with (self.directory / "events.jsonl").open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        self._recorded += map(json.loads, whole.splitlines())
        return self._recorded

    def loud(self, cgroup: Path | None = None) -> list[str]:
        """Alerts above `low` in that cgroup, or anywhere in the site; one line each. Losses are nobody's deed."""
        found = [
            alert
            for alert in alerts_of(self.sensor.alerts, cgroup)
            if alert["rule"]["level"] not in QUIET and alert["event"]["action"] != LOSS
        ]
        return [
            f"{alert['rule']['level']} {alert['rule']['name']}: {alert['event']['reason']} ({path})"
            for alert in found
            if (path := alert.get("cgroup", {}).get("path")) not in self._condoned
        ]

    def condone(self, work: Work) -> None:
        """What is told of this work was meant to be told."""
        self._condoned.append(path_of(work.cgroup))


class Work:
    """One piece of work: its processes, and what the sensor saw of them."""

    def __init__(self, site: Site, cgroup: Path, directory: Path) -> None:
        self.site, self.cgroup, self.directory = site, cgroup, directory

    def start(self, host: Host, *command: str | Path) -> subprocess.Popen[bytes]:
        """A service that goes on; it is killed with the site's cgroup."""
        program = shutil.which(command[0], path=PATH)
        assert program, f"{command[0]} is missing: make test fetches it"
        return start_in(self.cgroup, [*host.enter, program, *command[1:]])

    def run(self, host: Host, *command: str | Path, cwd: Path | None = None, text: str = "", **more: str) -> str:
        """What the command prints, given `text` on its standard input and `more` environment; it must succeed.

        Its environment is its own: this machine's proxies and configuration are not for it.
        """
        enter = ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.cgroup, *host.enter]
        done = subprocess.run(
            [*enter, *command],
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=cwd or self.directory,
            env={"PATH": PATH, "HOME": str(self.directory), "LANG": "C.UTF-8"} | more,
            start_new_session=True,
        )
        told = "\n".join([*map(str, command), done.stdout[-2000:], done.stderr[-2000:], *self.site.loud()])
        assert done.returncode == 0, f"exit {done.returncode}: {told}"
        return done.stdout

    def python(self, host: Host, program: str, *arguments: object) -> str:
        """What one of tests/programs prints."""
        return self.run(host, sys.executable, PROGRAMS / program, *map(str, arguments))

    def serve(self, host: Host, program: str, port: int, *arguments: object) -> None:
        """One of tests/programs as a service on `port`, its first argument; it listens at any address."""
        self.start(host, sys.executable, PROGRAMS / program, str(port), *map(str, arguments))
        self.listening(host, port)

    def serve_files(self, host: Host, port: int, address: str, directory: Path) -> None:
        """Python's own web server."""
        options = ("--bind", address, "--directory", directory, str(port))
        self.start(host, sys.executable, "-m", "http.server", *options)
        self.listening(host, port, address)

    def listening(self, host: Host, port: int, address: str = "127.0.0.1") -> None:
        """Wait until something accepts connections there."""
        probe = ("bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
        wait_for(lambda: subprocess.run([*host.enter, *probe], capture_output=True).returncode == 0, f"port {port}")

    def seen(self, category: str, **fields: object) -> list[dict[str, Any]]:
        """Events of this work so far whose fields end with (text) or equal (anything else) these."""
        found = []
        for event in self.site.recorded():
            ours = event["category"] == category and event.get("CgroupPath") == path_of(self.cgroup)
            if ours and all(_agrees(event.get(name), wanted) for name, wanted in fields.items()):
                found.append(event)
        return found

    def judged(self) -> None:
        """Wait until the sensor has judged all that happened so far: events come in the kernel's order."""
        marker = f"judged-{time.monotonic_ns()}"
        self.run(self.site.places["loopback"].node, "/bin/echo", marker)
        wait_for(lambda: self.seen("process_creation", CommandLine=marker), "the sensor is up to date")

    def quiet(self, *programs: str, connects: Sequence[tuple[str, str]] = ()) -> None:
        """Nothing above `low` was told, and these programs, and connections (program, scope), were seen."""
        self.judged()
        for program in programs:
            assert self.seen("process_creation", Image=f"/{program}"), f"the sensor saw no {program}"
        for program, scope in connects:
            found = self.seen("network_connection", Image=program, DestinationScope=scope)
            assert found, f"the sensor saw no connection of {program} to {scope}"
        assert self.site.loud(self.cgroup) == []


def _agrees(value: object, wanted: object) -> bool:
    return value.endswith(wanted) if isinstance(value, str) and isinstance(wanted, str) else value == wanted


def _namespace(cgroup: Path) -> int:
    """The process that holds a network namespace of its own; both end with the cgroup."""
    holder = start_in(cgroup, ["unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep infinity"])

    def ready() -> bool:
        return Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n"

    wait_for(ready, "a network namespace")
    return holder.pid


def _join(pids: dict[str, int]) -> None:
    def ip(name: str, *arguments: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{pids[name]}/ns/net", "ip", *arguments], check=True)

    ip("node", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(pids["peer"]))
    for name in pids:
        for address, address6 in (wire[name] for wire in _WIRES.values()):
            ip(name, "address", "add", f"{address}/24", "dev", "eth0")
            ip(name, "address", "add", f"{address6}/64", "dev", "eth0", "nodad")
        ip(name, "link", "set", "eth0", "up")


_numbers = itertools.count(random.randrange(len(_PORTS)))


def free_port() -> int:
    """A port that nobody has on loopback, another one each time."""
    while True:
        port = _PORTS[next(_numbers) % len(_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def open_site(cgroup: Path, directory: Path, state_dir: Path) -> Iterator[Site]:
    """A site with its sensor, which must have told nothing above `low` by its end, late verdicts included."""
    (directory / "sensor.yml").write_text("alert_window_s: 0\n")
    options = ("--mode=enforce", f"--state-dir={state_dir}", f"--events={directory}/events.jsonl")
    sensor = Sensor(directory, cgroup, *options)
    try:
        sensor.wait_ready()
        site = Site(cgroup, directory, sensor)
        yield site
    finally:
        code = sensor.stop()
    assert code == 0
    assert site.loud() == []


def git_round(work: Work, host: Host, bare: Path, url: str, **environment: str) -> None:
    """Clone, commit, push twice, clone again and fetch, by way of `url`, the repository made at `bare`."""
    clone, second = work.directory / "clone", work.directory / "second"
    who = {"NAME": "Ada", "EMAIL": "ada@example.org"}
    environment |= {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}

    def git(*command: str | Path, cwd: Path = work.directory) -> None:
        work.run(host, "git", *command, cwd=cwd, **environment)

    git("init", "-q", "--bare", "-b", "main", bare)
    git("--git-dir", bare, "config", "http.receivepack", "true")
    git("clone", "-q", url, clone)
    for number in range(2):
        (clone / f"file{number}").write_text("text\n" * 1000)
        git("add", ".", cwd=clone)
        git("commit", "-qm", f"change {number}", cwd=clone)
        git("push", "-q", "origin", "HEAD:main", cwd=clone)
        if not number:
            git("clone", "-q", url, second)
    git("pull", "-q", cwd=second)
    assert (second / "file1").exists()
