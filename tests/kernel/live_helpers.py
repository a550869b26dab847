"""Real programs in network namespaces of the test's own, and what the sensor's stages make of their traffic.

Workloads run in one namespace, servers in another, and a veth pair joins them; so addresses of the documentation
ranges are external hosts, and no packet leaves the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sensor_helpers import wait_for

from sensor.config import shipped_rules_dir
from sensor.context.agents import Agents
from sensor.context.enrich import Context
from sensor.decode import decode
from sensor.events import AnyEvent, NetworkPayload
from sensor.kernel.core import CoreBackend
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.node import cgroup2_mount

SERVER, SERVER6 = "198.51.100.7", "2001:db8::7"
DNS_SERVER = "198.51.100.53"
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Namespace:
    """A network namespace that lasts until `close`, or as long as this process."""

    def __init__(self) -> None:
        home = self._current()
        _checked(_libc.unshare(_CLONE_NEWNET))
        try:
            self._fd = self._current()
        finally:
            _checked(_libc.setns(home, _CLONE_NEWNET))
            os.close(home)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self.enter = ("nsenter", f"--net={self.path}")
        """The start of a command that runs there."""

    @staticmethod
    def _current() -> int:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is there: what sockets it opens stay there."""
        home = self._current()
        _checked(_libc.setns(self._fd, _CLONE_NEWNET))
        try:
            yield
        finally:
            _checked(_libc.setns(home, _CLONE_NEWNET))
            os.close(home)

    def ip(self, *commands: str) -> None:
        for command in commands:
            subprocess.run([*self.enter, "ip", *command.split()], check=True)

    def close(self) -> None:
        os.close(self._fd)


class Link:
    """The workloads' namespace, `near`, and the servers', `far`."""

    def __init__(self) -> None:
        self.near, self.far = Namespace(), Namespace()
        self.near.ip(f"link add name near type veth peer name far netns {self.far.path}")
        for space, device, addresses in (
            (self.near, "near", ("198.51.100.1/24", "2001:db8::1/64")),
            (self.far, "far", (f"{SERVER}/24", f"{DNS_SERVER}/24", f"{SERVER6}/64")),
        ):
            space.ip("link set lo up", f"link set {device} up")
            for address in addresses:
                space.ip(f"address add {address} dev {device}" + (" nodad" if ":" in address else ""))

    @contextlib.contextmanager
    def server(self, answer: Callable[[socket.socket], object], address: str = SERVER, port: int = 0) -> Iterator[int]:
        """The port of a TCP server: each connection is handed to `answer`, in a thread of its own."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.far.inside():
            listener = socket.create_server((address, port), family=family)
        thread = threading.Thread(target=_accept, args=(listener, answer))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # which ends accept()
            thread.join(10)
            listener.close()

    @contextlib.contextmanager
    def program(self, command: Sequence[str | Path], address: str, port: int) -> Iterator[None]:
        """A server that is a program, ready once it takes connections."""
        with subprocess.Popen(
            [*self.far.enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_for(lambda: self._takes(address, port) or process.poll() is not None, f"{command[0]} listens")
                assert process.poll() is None, f"{command[0]} ended"
                yield
            finally:
                process.terminate()

    def _takes(self, address: str, port: int) -> bool:
        with self.far.inside(), socket.socket() as sock:
            return sock.connect_ex((address, port)) == 0

    def close(self) -> None:
        self.near.close()
        self.far.close()


def _accept(listener: socket.socket, answer: Callable[[socket.socket], object]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()


def _answer(connection: socket.socket, answer: Callable[[socket.socket], object]) -> None:
    with connection, contextlib.suppress(OSError):  # the client goes when it likes
        connection.settimeout(60)
        answer(connection)


@functools.lru_cache
def shipped_rules() -> tuple[Any, ...]:
    return tuple(load_rules([shipped_rules_dir()]))


class Live:
    """The kernel side on one cgroup, the stages behind it up to the rules, and workloads below it on a `Link`."""

    def __init__(self, cgroup: Path, link: Link) -> None:
        self.link = link
        self.context = Context(cgroup_root=cgroup2_mount(), agents=Agents())
        self.backend = CoreBackend(cgroup, [])
        self.context.seed()
        self._matcher = Matcher(shipped_rules())
        self._cgroup = cgroup
        self._root = "/" + str(cgroup.relative_to(cgroup2_mount()))
        self._events: list[AnyEvent] = []
        self._raised: set[tuple[str, str]] = set()

    def command(self, *command: str | Path, workload: str, files: dict[str, Path] | None = None) -> list[str | Path]:
        """`command` as it is run in a workload; it finds `files` (path -> other content) in their places."""
        cgroup = self._cgroup / workload
        cgroup.mkdir(exist_ok=True)
        enter = ["sh", "-c", 'echo 0 > "$0" && exec "$@"', cgroup / "cgroup.procs", *self.link.near.enter]
        if files:
            mounts = "".join(f"mount --bind '{source}' '{target}' && " for target, source in files.items())
            enter += ["unshare", "--mount", "sh", "-c", mounts + 'exec "$@"', "sh"]
        return [*enter, *command]

    def run(
        self, *command: str | Path, workload: str = "work", files: dict[str, Path] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end in a workload."""
        whole = self.command(*command, workload=workload, files=files)
        streams = {} if "input" in options else {"stdin": subprocess.DEVNULL}
        return subprocess.run(whole, capture_output=True, text=True, timeout=60, **streams, **options)

    @contextlib.contextmanager
    def running(
        self, *command: str | Path, workload: str = "work", files: dict[str, Path] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A program that lasts; its standard input is a pipe."""
        whole = self.command(*command, workload=workload, files=files)
        with subprocess.Popen(
            whole, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def events(self, workload: str | None = None) -> list[AnyEvent]:
        """All that was seen so far, of one workload or of all."""
        while records := self.backend.read():
            for record in records:
                found = self.context.enrich(decode(record)) or []
                for event in found if isinstance(found, list) else [found]:
                    if (event.cgroup_path or "").startswith(self._root):
                        self._events.append(event)
                        name = Path(event.cgroup_path or "").name
                        self._raised |= {(name, Path(v.rule.path).stem) for v in self._matcher.match(event)}
        path = self._root if workload is None else f"{self._root}/{workload}"
        return [event for event in self._events if workload is None or event.cgroup_path == path]

    def wait(self, what: str, is_it: Callable[[AnyEvent], object], workload: str | None = None) -> Any:
        """The first event of which `is_it` holds, once there is one."""
        return wait_for(lambda: next((event for event in self.events(workload) if is_it(event)), None), what)

    def payload(self, protocol: str, workload: str | None = None, **fields: object) -> NetworkPayload:
        """The first event of a flow that was recognised as `protocol` and has these fields."""

        def is_it(event: AnyEvent) -> bool:
            return (
                isinstance(event, NetworkPayload)
                and event.application_protocol == protocol
                and all(getattr(event, name) == value for name, value in fields.items())
            )

        found: NetworkPayload = self.wait(f"{protocol} with {fields}", is_it, workload)
        return found

    def raised(self, workload: str = "work") -> set[str]:
        """The shipped rules, by file name, that its events have matched so far."""
        self.events()
        return {rule for name, rule in self._raised if name == workload}

    def close(self) -> None:
        self.backend.close()
        self.context.close()


def copy_of(program: str, to: Path) -> Path:
    """The program under another name."""
    found = shutil.which(program)
    assert found, f"{program} is not installed"
    shutil.copy(os.path.realpath(found), to)
    return to


class Certificate:
    """A self-signed one."""

    def __init__(self, directory: Path) -> None:
        self.key, self.certificate = directory / "key.pem", directory / "certificate.pem"
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", self.key, "-out", self.certificate]
        subprocess.run([*make, *files, "-subj", "/CN=test", "-days", "2"], check=True, capture_output=True)

    def server(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context
