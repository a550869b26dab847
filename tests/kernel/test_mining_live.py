"""Mining by behaviour, live: a minute is half a second here, everything else is as it is."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.cli.staging import start_in
from sensor.context.agents import Agents
from sensor.context.enrich import Context
from sensor.context.usage import Usages
from sensor.decode import decode
from sensor.events import NetworkFlow
from sensor.kernel.core import CoreBackend, Programs
from sensor.match.mining import EXTERNAL, Mining, Thresholds
from sensor.node import cgroup2_mount

pytestmark = pytest.mark.kernel

BPF = Path(__file__).parents[2] / "bpf"
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
SOON = Thresholds(duration_s=4, reports=5, cpu_cores=0.06, packets_least=1, scopes=("loopback",))

CLIENT = """
import socket, sys, threading, time
port, opening, busy = int(sys.argv[1]), sys.argv[2].encode().decode("unicode_escape").encode("latin-1"), sys.argv[3]
if busy == "busy":
    import subprocess
    subprocess.Popen([sys.executable, "-c", "while True: pass"])
with socket.create_connection(("127.0.0.1", port)) as pool:
    while True:
        pool.sendall(opening.ljust(250, b"."))
        pool.recv(1000)
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def object_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel side with a report of each open flow every half second."""
    directory = tmp_path_factory.mktemp("object")
    machine = platform.machine()
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{ARCHITECTURES.get(machine, machine)}"]
    flags += ["-DREPORT_NS=500000000ULL", f"-I{BPF}", "-idirafter", f"/usr/include/{machine}-linux-gnu"]
    parts = []
    for source in sorted(BPF.glob("*.bpf.c")):
        parts.append(directory / source.name.replace(".c", ".o"))
        subprocess.run(["clang", *flags, "-c", source, "-o", parts[-1]], check=True)
    whole = directory / "whole.o"
    subprocess.run(["bpftool", "gen", "object", whole, *parts], check=True)
    return whole


@pytest.fixture
def pool() -> Iterator[int]:
    """The port of a server that answers each message with a shorter one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def _serve(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    with client:
        try:
            while client.recv(1000):
                client.sendall(b"a job or an answer".ljust(150, b"."))
        except OSError:  # its cgroup was removed
            return


def test_quiet_talk_beside_steady_work(cgroup: Path, object_file: Path, pool: int) -> None:
    mount = cgroup2_mount()
    backend = CoreBackend(mount, [], Programs(object_file))
    context = Context(cgroup_root=mount, agents=Agents([]))
    context.usages = Usages(mount, apart_s=0.4)
    context.seed()
    mining = Mining(SOON)
    deeds = {
        "miner": ("\\x01\\x02nothing known", "busy"),
        "idle": ("\\x01\\x02nothing known", "idle"),
        "tracker": ("POST /metrics HTTP/1.1\\r\\nHost: tracker\\r\\nX: ", "busy"),
    }
    for name, (opening, busy) in deeds.items():
        (cgroup / name).mkdir()
        start_in(cgroup / name, [sys.executable, "-c", CLIENT, str(pool), opening, busy])
    reports: list[NetworkFlow] = []
    verdicts = []
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until and not (verdicts and min(len(of(reports, name)) for name in deeds) >= 20):
            for record in backend.read():
                found = context.enrich(decode(record))
                for event in found if isinstance(found, list) else []:
                    if isinstance(event, NetworkFlow) and event.destination_port == pool:
                        reports.append(event)
                        verdicts += mining.match(event)
            time.sleep(0.05)
    finally:
        backend.close()
        context.close()
    assert [(verdict.rule, Path(verdict.event.cgroup_path or "").name) for verdict in verdicts] == [(EXTERNAL, "miner")]
    (told,) = [verdict.event for verdict in verdicts]
    assert isinstance(told, NetworkFlow) and told.duration is not None and told.duration >= SOON.duration_s
    assert of(reports, "tracker")[-1].application_protocol == "http"
    assert {event.application_protocol for event in of(reports, "miner")} == {"unknown"}
    idle = [event.cpu_cores for event in of(reports, "idle") if event.cpu_cores is not None]
    assert idle and sum(idle) / len(idle) < SOON.cpu_cores < (told.cpu_cores or 0)


def of(reports: list[NetworkFlow], name: str) -> list[NetworkFlow]:
    return [event for event in reports if Path(event.cgroup_path or "").name == name]
