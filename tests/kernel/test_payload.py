"""The first words and totals of flows, live, however the flow was opened."""

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

from sensor.decode import Connect, FlowTotals, Payload, decode
from sensor.kernel.core import CoreBackend
from sensor.node import cgroup2_mount

pytestmark = pytest.mark.kernel

PROGRAMS = Path(__file__).parents[1] / "programs"
MSG_FASTOPEN = 0x20000000  # include/linux/socket.h


@pytest.fixture
def backend() -> Iterator[CoreBackend]:
    core = CoreBackend(cgroup2_mount(), [])
    yield core
    core.close()


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def echo(request: pytest.FixtureRequest) -> Iterator[tuple[int, str, int]]:
    """(family, address, port) of a server that says back what it is told."""
    address = "127.0.0.1" if request.param == socket.AF_INET else "::1"
    yield from echo_server(request.param, address)


@pytest.fixture
def echo4() -> Iterator[tuple[int, str, int]]:
    yield from echo_server(socket.AF_INET, "127.0.0.1")


def said(backend: CoreBackend, port: int, wait_s: float = 0.05) -> list[Payload | FlowTotals | Connect]:
    """What came of flows to `port`."""
    return [
        event
        for event in everything(backend, wait_s)
        if (isinstance(event, Payload | FlowTotals) and event.ends.remote_port == port)
        or (isinstance(event, Connect) and event.port == port)
    ]


def words(events: list[Payload | FlowTotals | Connect], inbound: bool = False) -> bytes:
    parts = [e for e in events if isinstance(e, Payload) and e.inbound == inbound]
    assert [p.offset for p in parts] == [sum(len(q.data) for q in parts[:i]) for i in range(len(parts))]
    return b"".join(part.data for part in parts)


def test_first_words_of_both_sides_and_their_process(backend: CoreBackend, echo: tuple[int, str, int]) -> None:
    family, address, port = echo
    with socket.socket(family) as sock:
        sock.connect((address, port))
        local = sock.getsockname()[1]
        sock.sendall(b"hello, whoever you are")
        sock.recv(100)
    events = said(backend, port)
    assert words(events) == words(events, inbound=True) == b"hello, whoever you are"
    payloads = [e for e in events if isinstance(e, Payload)]
    assert {(p.tgid, p.ends.remote, p.ends.local, p.ends.local_port, p.ends.protocol) for p in payloads} == {
        (os.getpid(), address, address, local, 6)
    }


def test_only_the_first_bytes_and_then_silence(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    with socket.create_connection((address, port)) as sock:
        for _ in range(200):
            sock.sendall(b"x" * 1000)
            got = 0
            while got < 1000:
                got += len(sock.recv(65536))
    events = said(backend, port)
    assert 4096 <= len(words(events)) < 4096 + 1000
    assert sum(isinstance(e, Payload) for e in events) <= 12


def test_a_handshake_byte_by_byte_is_whole(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    text = b"SSH-2.0-made_in_a_test_0.1 one byte at a time, which nobody does without a reason\r\n"
    with socket.create_connection((address, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in text:
            sock.send(bytes([byte]))
            sock.recv(1)
    assert words(said(backend, port)) == text


def test_fast_open_which_never_calls_connect(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    with socket.socket() as sock:
        sock.sendto(b"in a hurry", MSG_FASTOPEN, (address, port))
        sock.recv(100)
    events = said(backend, port)
    assert words(events) == b"in a hurry"
    assert [e.tgid for e in events if isinstance(e, Connect)] == [os.getpid()]


def test_mptcp(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError as error:
        pytest.skip(f"the kernel has no MPTCP: {error}")
    with sock:
        sock.connect((address, port))
        sock.sendall(b"over several paths")
        sock.recv(100)
    events = said(backend, port)
    assert words(events) == b"over several paths"
    assert {e.tgid for e in events if isinstance(e, Connect)} == {os.getpid()}


def test_io_uring(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, _, port = echo4
    done = subprocess.run([sys.executable, PROGRAMS / "io_uring_connect.py", str(port)], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
    (totals,) = [e for e in said(backend, port) if isinstance(e, FlowTotals)]
    assert totals.packets_out >= 2 and totals.closed


def test_a_socket_passed_to_another_process(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    with socket.create_connection((address, port)) as sock:
        code = f"import socket; s = socket.socket(fileno={sock.fileno()}); s.sendall(b'from the child'); s.recv(99)"
        subprocess.run([sys.executable, "-c", code], pass_fds=[sock.fileno()], check=True)
    assert words(said(backend, port)) == b"from the child"


def test_datagrams_both_ways(backend: CoreBackend) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        for number in range(10):
            client.sendto(b"question %d" % number, ("127.0.0.1", port))
            _, sender = server.recvfrom(100)
            server.sendto(b"answer %d" % number, sender)
            client.recv(100)
        events = said(backend, port)
    parts = [(e.inbound, e.data) for e in events if isinstance(e, Payload)]
    assert parts[:2] == [(False, b"question 0"), (True, b"answer 0")]
    assert len(parts) == 12, "the first six of each direction"


def test_raw_sockets_are_connections_and_the_kernel_itself_is_none(backend: CoreBackend) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.sendto(b"\x08\0\xf7\xff\0\0\0\0", ("127.0.0.7", 0))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:  # nobody listens: the kernel answers by ICMP
        sock.sendto(b"anybody?", ("127.0.0.8", 9))
    found = []
    time.sleep(0.05)
    while records := backend.read():
        found += [decode(record) for record in records]
    icmp = [e.address for e in found if isinstance(e, Connect) and e.protocol == 1 and e.tgid == os.getpid()]
    assert icmp == ["127.0.0.7"]


def test_totals_of_a_flow(backend: CoreBackend, echo: tuple[int, str, int]) -> None:
    family, address, port = echo
    with socket.socket(family) as sock:
        sock.connect((address, port))
        sock.sendall(b"x" * 50_000)
        got = 0
        while got < 50_000:
            got += len(sock.recv(65536))
    (totals,) = [e for e in said(backend, port) if isinstance(e, FlowTotals)]
    assert totals.closed and not totals.refused and totals.tgid == os.getpid()
    assert 50_000 < totals.bytes_out < 60_000 and 50_000 < totals.bytes_in < 60_000
    assert totals.began < totals.time


def test_a_refused_connection(backend: CoreBackend) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0
    (totals,) = [e for e in said(backend, port) if isinstance(e, FlowTotals)]
    assert totals.refused and totals.closed


def test_a_busy_client_is_told_by_some_of_its_flows(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    before = backend.counters()
    for text in [b"GET / HTTP/1.1\r\n\r\n"] * 60 + [b"SSH-2.0-among_them\r\n"]:
        with socket.create_connection((address, port)) as sock:
            sock.sendall(text)
            sock.recv(200)
    events = said(backend, port)
    first = [e.data[:4] for e in events if isinstance(e, Payload) and not e.inbound]
    counted = backend.counters()["payload"]["collapsed"] - before["payload"]["collapsed"]
    assert first.count(b"GET ") >= 33 and first.count(b"GET ") + counted == 60
    assert first.count(b"SSH-") == 1, "another word is another matter"


def test_totals_of_many_flows_to_one_end_add_up(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4

    for _ in range(40):
        socket.create_connection((address, port)).close()
    time.sleep(1.1)
    socket.create_connection((address, port)).close()
    totals = [e for e in said(backend, port) if isinstance(e, FlowTotals)]
    assert sum(e.flows for e in totals) == 41 and len(totals) <= 4
    assert 41 * 100 < sum(e.bytes_out for e in totals) < 41 * 500


def test_a_flow_that_was_listened_to_is_told_alone(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    for _ in range(10):
        with socket.create_connection((address, port)) as sock:
            sock.sendall(b"x" * 1000)
            sock.recv(2000)
    events = said(backend, port)
    spoken = {e.ends.cookie for e in events if isinstance(e, Payload)}
    assert {e.ends.cookie for e in events if isinstance(e, FlowTotals)} == spoken and len(spoken) == 10


def test_who_accepts_is_not_handed_up(backend: CoreBackend, echo4: tuple[int, str, int]) -> None:
    _, address, port = echo4
    with socket.create_connection((address, port)) as sock:
        local = sock.getsockname()[1]
        sock.sendall(b"to the server")
        sock.recv(100)
    assert not [e for e in said(backend, local) if isinstance(e, Payload)]


def test_who_opened_a_flow(backend: CoreBackend, echo: tuple[int, str, int]) -> None:
    family, address, port = echo
    with socket.socket(family) as sock:
        sock.connect((address, port))
        local = sock.getsockname()[1]
        sock.sendall(b"to the server")
        sock.recv(100)
    opened, accepted = sides(backend, port, local)
    assert not opened.accepted and accepted.accepted


def test_who_opened_a_flow_that_is_older_than_the_sensor(echo: tuple[int, str, int]) -> None:
    family, address, port = echo
    with socket.socket(family) as sock:
        sock.connect((address, port))
        local = sock.getsockname()[1]
        sock.sendall(b"before anybody looked")
        sock.recv(100)
        backend = CoreBackend(cgroup2_mount(), [])
        sock.sendall(b"and since")
        sock.recv(100)
    try:
        opened, accepted = sides(backend, port, local)
        assert not opened.accepted and accepted.accepted
    finally:
        backend.close()


def sides(backend: CoreBackend, port: int, local: int) -> tuple[FlowTotals, FlowTotals]:
    """The totals of a flow from `local` to `port`, as either side's."""
    found: dict[int, FlowTotals] = {}
    until = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < until:
        for event in map(decode, backend.read()):
            if isinstance(event, FlowTotals) and {event.ends.remote_port, event.ends.local_port} == {port, local}:
                found[event.ends.remote_port] = event
        time.sleep(0.01)
    return found[port], found[local]
