"""What flows carried, live: told when they end, and nothing left over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_helpers import echo_server, everything
from sensor_helpers import Launch, json_lines

from sensor.cli.staging import start_in
from sensor.decode import FlowTotals, KernelEvent
from sensor.kernel.core import CoreBackend
from sensor.node import cgroup2_mount

pytestmark = pytest.mark.kernel

STORM = """
import socket, subprocess, sys, threading
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = socket.create_server(("127.0.0.1", 8080))
def serve():
    while True:
        client, _ = server.accept()
        client.recv(5000)
        client.send(b"y" * 700)
        client.close()
threading.Thread(target=serve, daemon=True).start()
for number in range(int(sys.argv[1])):
    with socket.create_connection(("127.0.0.1", 8080)) as client:
        client.send(b"x" * (number % 97 + 1))
        while client.recv(5000):
            pass
fields = open("/proc/net/dev").read().split("lo:")[1].split()
print(fields[0], fields[1])
"""
"""A network of its own, in which nothing but the storm is sent; what its device has counted of it."""

CLIENT = """
import socket, ssl, sys
port = int(sys.argv[1])
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
try:
    ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="cut.example.com").do_handshake()
except ssl.SSLWantReadError:
    pass
with socket.create_connection(("127.0.0.1", port)) as sock:
    sock.send(outgoing.read()[:-20])
for _ in range(50):
    socket.create_connection(("127.0.0.1", port)).close()
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.sendto(b"x" * 72, ("127.0.0.1", 9))
"""
"""Cuts its hello off, calls again and again, and says something to nobody."""


@pytest.fixture
def backend() -> Iterator[CoreBackend]:
    core = CoreBackend(cgroup2_mount(), [])
    yield core
    core.close()


@pytest.fixture
def echo4() -> Iterator[tuple[int, str, int]]:
    yield from echo_server()


def flow_totals(events: list[KernelEvent], port: int) -> list[FlowTotals]:
    return [e for e in events if isinstance(e, FlowTotals) and e.ends.remote_port == port]


def test_many_accepted_flows_are_told_together(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    for _ in range(40):
        with socket.create_connection((address, port)) as sock:
            sock.sendall(b"x" * 1000)
            sock.recv(2000)
    time.sleep(1.1)
    with socket.create_connection((address, port)) as sock:
        sock.sendall(b"x" * 1000)
        sock.recv(2000)
    totals = [e for e in everything(backend) if isinstance(e, FlowTotals) and e.ends.local_port == port]
    assert sum(e.flows for e in totals) == 41 and len(totals) <= 4, "each comes from another port"
    assert 41_000 < sum(e.bytes_in for e in totals) < 41 * 1500


def test_a_connected_datagram_socket_tells_its_totals_when_it_is_closed(backend: CoreBackend) -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as server:
            server.bind((address, 0))
            port = server.getsockname()[1]
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.connect((address, port))
                for _ in range(3):
                    client.send(b"x" * 100)
                server.sendto(b"y" * 500, client.getsockname())
                assert not flow_totals(everything(backend), port)
            (totals,) = flow_totals(everything(backend), port)
        headers = 28 if family == socket.AF_INET else 48
        assert (totals.bytes_out, totals.bytes_in) == (3 * (100 + headers), 500 + headers)
        assert totals.closed and totals.flows == 1 and totals.tgid == os.getpid() and totals.ends.remote == address


def test_datagrams_to_many_are_told_once_they_are_silent(backend: CoreBackend) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        for host in range(1, 6):
            for _ in range(2):
                client.sendto(b"x" * 100, (f"127.0.0.{host}", 9))
        backend.sweep()
        assert not flow_totals(everything(backend), 9), "30 seconds have not passed"
        backend.sweep(silence_s=0)
        found = flow_totals(everything(backend), 9)
        assert sorted((e.ends.remote, e.bytes_out, e.flows) for e in found) == [
            (f"127.0.0.{host}", 256, 1) for host in range(1, 6)
        ]


def test_the_last_flows_of_a_storm_are_told_a_second_later(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    for _ in range(40):
        socket.create_connection((address, port)).close()
    events = everything(backend)
    deadline = time.monotonic() + 30
    while sum(e.flows for e in flow_totals(events, port)) < 40 and time.monotonic() < deadline:
        backend.sweep()
        events += everything(backend)
    backend.sweep(final=True)
    totals = flow_totals(events + everything(backend), port)
    assert sum(e.flows for e in totals) == 40 and len(totals) < 10
    assert {(e.tgid, e.ends.remote, e.ends.protocol, e.closed) for e in totals} == {(os.getpid(), address, 6, True)}


def test_what_a_full_table_lets_go_is_counted(backend: CoreBackend) -> None:
    flows = 40_000
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        for number in range(flows):
            client.sendto(b"x", (f"127.{number >> 8 & 255}.{number & 255}.5", 9))
            if number % 1000 == 0:
                everything(backend, 0)
    told = 0
    for _ in range(3):  # what is missing must be missing twice
        backend.sweep(silence_s=0, final=True)
        told += sum(e.flows for e in flow_totals(everything(backend), 9))
    lost = sum(backend.counters()["flow"][name] for name in ("evicted", "lost_ring"))
    assert 0 < flows - told <= lost


def test_the_bytes_of_a_storm_add_up_to_what_the_device_counted(backend: CoreBackend) -> None:
    command = ["unshare", "--net", sys.executable, "-c", STORM, "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as storm:
        assert storm.stdout is not None
        counted, packets = map(int, storm.stdout.read().split())
    backend.sweep(final=True)
    totals = [e for e in everything(backend) if isinstance(e, FlowTotals) and e.ends.remote_port == 8080]
    assert sum(e.flows for e in totals) == 300
    assert sum(e.packets_out + e.packets_in for e in totals) == packets
    assert sum(e.bytes_out + e.bytes_in for e in totals) == counted


def test_a_sensor_tells_all_of_it_in_the_end(
    launch: Launch, cgroup: Path, tmp_path: Path, echo4: tuple[int, str, int]
) -> None:
    _, _, port = echo4
    recording = tmp_path / "events.jsonl"
    sensor = launch(f"--events={recording}")
    assert start_in(cgroup, [sys.executable, "-c", CLIENT, str(port)]).wait(60) == 0
    sensor.stop()
    events = [event for event in json_lines(recording) if event.get("DestinationPort") in (port, 9)]
    (hello,) = [event for event in events if event["category"] == "network_payload"]
    assert (hello["ApplicationProtocol"], hello["TlsServerName"]) == ("tls", "cut.example.com")
    assert "TlsJa4" not in hello
    flows = [event for event in events if event["category"] == "network_flow"]
    assert sum(event["Flows"] for event in flows if event["DestinationPort"] == port) == 51
    assert all(event["BytesOut"] > 0 for event in flows)
