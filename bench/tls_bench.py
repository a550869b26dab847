"""Hellos and QUIC Initials a second on one core, JA4 included: `python -m bench.tls_bench`. One line for each shape."""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from sensor.protocols.ja4 import ja4
from sensor.protocols.quic import QuicInitial, initial
from sensor.protocols.tls import ClientHello, client_hello

T = TypeVar("T")

COUNT = 5000
ROUNDS = 9
OTHER = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"
FOOTPRINT = """
import time
from sensor.protocols import quic, tls
def kib(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
before, start = kib(), time.perf_counter()
quic._keys(1, b"any id")
print(f"first QUIC packet: {(time.perf_counter() - start) * 1e3:.0f} ms and {(kib() - before) / 1024:.1f} MB once")
"""


def openssl_hello() -> bytes:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    sent = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="pool.example").do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake with nobody ended")


def quic_flights(count: int, protocols: int) -> list[list[bytes]]:
    """First flights of clients, each with a connection id and so with keys of its own."""
    flights = []
    for _ in range(count):
        names = ["h3", *(f"protocol-{number}-{'x' * 200}" for number in range(protocols))]
        configuration = QuicConfiguration(is_client=True, server_name="pool.example", alpn_protocols=names)
        connection = QuicConnection(configuration=configuration)
        connection.connect(("127.0.0.1", 443), now=0.0)
        flights.append([data for data, _ in connection.datagrams_to_send(now=0.0)])
    return flights


def tls(data: bytes) -> None:
    hello = client_hello(data)
    assert isinstance(hello, ClientHello) and ja4(hello)


def in_parts(data: bytes) -> None:
    for size in range(100, len(data), 100):
        client_hello(data[:size])
    tls(data)


def quic(datagrams: list[bytes]) -> None:
    """As a flow is read: again with every datagram."""
    for count in range(1, len(datagrams) + 1):
        answer = initial(*datagrams[:count])
    assert isinstance(answer, QuicInitial) and answer.hello and ja4(answer.hello, "q")


def report(name: str, size: int, read: Callable[[T], object], flows: Sequence[T]) -> None:
    """The best of several rounds: the machine's noise only ever adds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for flow in flows:
            read(flow)
        best = min(best, time.perf_counter() - start)
    print(f"{name:32}{size:6} bytes {len(flows) / best:10,.0f} a second {best / len(flows) * 1e6:8.1f} µs")


def main() -> None:
    hello = openssl_hello()
    report("TLS hello", len(hello), tls, [hello] * COUNT)
    report("TLS hello, read every 100 bytes", len(hello), in_parts, [hello] * COUNT)
    report("not TLS", len(OTHER), client_hello, [OTHER] * COUNT)
    for name, protocols in (("QUIC hello in one datagram", 0), ("QUIC hello in three datagrams", 12)):
        flights = quic_flights(200, protocols)
        report(name, sum(len(data) for data in flights[0]), quic, flights)
    report("not QUIC", len(OTHER), initial, [OTHER] * COUNT)
    subprocess.run([sys.executable, "-c", FOOTPRINT], check=True)


if __name__ == "__main__":
    main()
