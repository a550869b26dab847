"""Two hosts in network namespaces of the test's own, a sensor that watches both, and what it made of their relays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sensor_helpers import alerts_of, path_of, wait_for

from sensor.cli.staging import Sensor, start_in

PROGRAMS = Path(__file__).parents[1] / "programs"
NEAR, FAR = "198.51.100.1", "198.51.100.7"
"""Of a documentation range (RFC 5737), which is external to everybody."""
NEAR_PRIVATE, FAR_PRIVATE = "10.77.0.1", "10.77.0.7"
QUIET = {"informational", "low"}


class Lab:
    """`near` is the host of workloads, `far` is where their connections go. All ends with the cgroup."""

    def __init__(self, cgroup: Path, directory: Path, sensor: Sensor) -> None:
        self.cgroup, self.directory, self.sensor = cgroup, directory, sensor
        self._recorded: list[dict[str, Any]] = []
        self._read = 0
        (directory / "complaints").touch()
        hosts = cgroup / "hosts"
        hosts.mkdir()
        self._enter = {name: ("nsenter", f"--net=/proc/{_namespace(hosts)}/ns/net") for name in ("near", "far")}
        self._join()

    def _join(self) -> None:
        self._ip("near", f"link add eth0 type veth peer name eth0 netns {self._enter['far'][1].split('/')[2]}")
        for host, addresses in (("near", (NEAR, NEAR_PRIVATE)), ("far", (FAR, FAR_PRIVATE))):
            for address in addresses:
                self.address(host, address)
            self._ip(host, "link set eth0 up")

    def address(self, host: str, address: str) -> None:
        """Give the host one more."""
        self._ip(host, f"address add {address}/24 dev eth0")

    def _ip(self, host: str, command: str) -> None:
        subprocess.run([*self._enter[host], "ip", *command.split()], check=True)

    def start(self, host: str, work: str, *command: str | Path) -> subprocess.Popen[bytes]:
        """A program that goes on, in the cgroup named `work`; its complaints are kept."""
        (self.cgroup / work).mkdir(exist_ok=True)
        with (self.directory / "complaints").open("ab") as complaints:
            return subprocess.Popen(
                [*self._in(work), *self._enter[host], *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )

    def _in(self, work: str) -> list[str | Path]:
        return ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.cgroup / work]

    def run(self, host: str, work: str, *command: str | Path) -> str:
        """What the command prints; it must succeed."""
        (self.cgroup / work).mkdir(exist_ok=True)
        whole = [*self._in(work), *self._enter[host], *command]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        complaints = (self.directory / "complaints").read_text()[-4000:]
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]} {complaints}"
        return done.stdout

    def python(self, host: str, work: str, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        """One of tests/programs, going on."""
        return self.start(host, work, sys.executable, PROGRAMS / program, *map(str, arguments))

    def listening(self, host: str, port: int, address: str = "127.0.0.1") -> None:
        """Wait until something accepts connections there."""
        probe = ("bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
        wait_for(
            lambda: subprocess.run([*self._enter[host], *probe], capture_output=True).returncode == 0, f"port {port}"
        )

    def bound(self, host: str, port: int) -> None:
        """Wait until something listens there, without connecting to it."""
        self._sockets(host, f"sport = :{port}", "-l")

    def connected(self, host: str, port: int) -> None:
        """Wait until a connection to that port is there."""
        self._sockets(host, f"dport = :{port}", "state", "established")

    def _sockets(self, host: str, which: str, *options: str) -> None:
        command = [*self._enter[host], "ss", "-Htn", *options, which]
        wait_for(lambda: subprocess.run(command, capture_output=True, check=True).stdout, f"{which} on {host}")

    def recorded(self) -> list[dict[str, Any]]:
        """Every event so far."""
        with (self.directory / "events.jsonl").open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        self._recorded += map(json.loads, whole.splitlines())
        return self._recorded

    def relays(self, work: str) -> list[dict[str, Any]]:
        """What was said of relays in the cgroup of that name."""
        return self.seen(work, "network_relay")

    def seen(self, work: str, category: str, **fields: object) -> list[dict[str, Any]]:
        """Events in that cgroup that have these fields."""
        fields |= {"category": category, "CgroupPath": path_of(self.cgroup / work)}
        return [e for e in self.recorded() if all(e.get(name) == value for name, value in fields.items())]

    def judged(self, work: str) -> None:
        """Wait until the sensor has judged all that happened so far: events come in the kernel's order."""
        marker = f"judged-{len(self._recorded)}"
        self.run("near", work, "/bin/echo", marker)

        def seen() -> bool:
            return any(
                e["category"] == "process_creation" and e["CommandLine"].endswith(marker) for e in self.recorded()
            )

        wait_for(seen, "the sensor is up to date")

    def raised(self, work: str) -> dict[str, str]:
        """Names and levels of the rules that told of this work."""
        self.judged(work)
        return {a["rule"]["name"]: a["rule"]["level"] for a in alerts_of(self.sensor.alerts, self.cgroup / work)}

    def loud(self, work: str) -> dict[str, str]:
        return {name: level for name, level in self.raised(work).items() if level not in QUIET}


def _namespace(cgroup: Path) -> int:
    """The process that holds a network namespace of its own; both end with the cgroup."""
    holder = start_in(cgroup, ["unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep infinity"])
    wait_for(lambda: Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n", "a network namespace")
    return holder.pid


class SshServer:
    """sshd on the far host, and clients' keys."""

    def __init__(self, lab: Lab, directory: Path, port: int) -> None:
        self.port, self.directory = port, directory
        directory.mkdir()
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True)
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = directory / "sshd_config"
        config.write_text(
            f"Port {port}\nHostKey {directory}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {directory}/authorized_keys\nPermitRootLogin yes\n"
        )
        lab.start("far", "far", shutil.which("sshd", path="/usr/sbin:/sbin") or "sshd", "-D", "-e", "-f", config)
        lab.listening("far", port)

    def options(self) -> list[str | Path]:
        """What ssh needs to log in there."""
        quiet = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return ["-F", "none", "-i", self.directory / "user_key", "-p", str(self.port), *quiet]
