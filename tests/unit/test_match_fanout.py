"""Scans are told, and what looks like one is not: by event time alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from sensor.events import AnyEvent, NetworkConnection, NetworkFlow, from_record, to_record
from sensor.match.fanout import ADDRESSES, ADDRESSES_RULE, PORTS, PORTS_RULE, WINDOW_S, FanOut

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND


def flow(at: float, ip: str, port: int = 22, *, refused: bool = True, **more: Any) -> NetworkFlow:
    given = {
        "destination_scope": "private",
        "protocol": "tcp",
        "initiated": True,
        "process_id": 7,
        "process_guid": "boot-7-1",
        "cgroup_id": 42,
        "bytes_in": 0 if refused else 400,
        "bytes_out": 60,
        "flows": 1,
    }
    return NetworkFlow(
        time=START + int(at * SECOND), destination_ip=ip, destination_port=port, refused=refused, **given | more
    )


def connection(at: float, ip: str, port: int = 22, **more: Any) -> NetworkConnection:
    given = {"destination_scope": "private", "protocol": "tcp", "initiated": True, "cgroup_id": 42}
    return NetworkConnection(
        time=START + int(at * SECOND),
        destination_ip=ip,
        destination_port=port,
        **given | {"process_guid": "boot-7-1"} | more,
    )


def talk(at: float, ip: str, port: int = 22, *, refused: bool, **more: Any) -> list[AnyEvent]:
    """A connection and its end."""
    return [connection(at, ip, port, **more), flow(at + 0.001, ip, port, refused=refused, **more)]


def alerts(events: Iterable[AnyEvent]) -> list[str]:
    watch = FanOut()
    return [verdict.rule.id for event in events for verdict in watch.match(event)]


def addresses(count: int, network: int = 0) -> list[str]:
    return [f"10.{network}.{n >> 8}.{n & 255}" for n in range(count)]


def many(count: int, every_s: float = 1, **more: Any) -> Iterator[NetworkFlow]:
    return (flow(n * every_s, ip, **more) for n, ip in enumerate(addresses(count)))


POSITIVES: dict[str, tuple[Iterable[AnyEvent], list[str]]] = {
    "addresses": (many(ADDRESSES), [ADDRESSES_RULE.id]),
    "a whole /24 is one alert": (many(254), [ADDRESSES_RULE.id]),
    "ports": ((flow(n, "10.0.0.1", n + 1) for n in range(PORTS)), [PORTS_RULE.id]),
    "each by a process of its own": (
        (flow(n, ip, process_guid=f"boot-{n}-1") for n, ip in enumerate(addresses(ADDRESSES))),
        [ADDRESSES_RULE.id],
    ),
    "this host's own addresses": (many(ADDRESSES, destination_scope="local"), [ADDRESSES_RULE.id]),
    "IPv6": ((flow(n, f"fd00::{n:x}") for n in range(ADDRESSES)), [ADDRESSES_RULE.id]),
    "some answer": (
        (event for n, ip in enumerate(addresses(60)) for event in talk(n, ip, refused=n % 5 != 0)),
        [ADDRESSES_RULE.id],
    ),
    "raw packets: one source port, and no flow ends": (
        (connection(n / 100, ip, source_port=40_000) for n, ip in enumerate(addresses(ADDRESSES + 1))),
        [ADDRESSES_RULE.id],
    ),
    "denied by policy": (
        (connection(n, ip, denied=True) for n, ip in enumerate(addresses(ADDRESSES))),
        [ADDRESSES_RULE.id],
    ),
    "in the shadow of a busy neighbour": (
        (
            event
            for n, ip in enumerate(addresses(ADDRESSES))
            for event in (
                flow(n, ip, process_guid="scanner"),
                *(e for m in range(4) for e in talk(n, f"10.9.{n}.{m}", refused=False, process_guid="worker")),
            )
        ),
        [ADDRESSES_RULE.id],
    ),
    "cgroup id unknown": (many(ADDRESSES, cgroup_id=None, cgroup_path="/a"), [ADDRESSES_RULE.id]),
    "the next scan in the next window": (
        [*many(ADDRESSES), *(flow(1000 + n, ip) for n, ip in enumerate(addresses(ADDRESSES, 1)))],
        [ADDRESSES_RULE.id] * 2,
    ),
}


@pytest.mark.parametrize("name", POSITIVES)
def test_a_scan(name: str) -> None:
    events, expected = POSITIVES[name]
    assert alerts(events) == expected


def startup(nodes: int) -> Iterator[AnyEvent]:
    """Every rank connects to every other, on ports of their choice; some come before their peer listens."""
    for n, ip in enumerate(addresses(nodes)):
        for port in (29_500, 40_000 + n):
            yield connection(n / 50, ip, port)
            if n % 4 == 0:
                yield flow(n / 50, ip, port)
            yield flow(60 + n / 50, ip, port, refused=False, flows=0)


NEAR_MISSES: dict[str, Iterable[AnyEvent]] = {
    "one less": many(ADDRESSES - 1),
    "one port less": (flow(n, "10.0.0.1", n + 1) for n in range(PORTS - 1)),
    "slower than the window": many(200, WINDOW_S / ADDRESSES + 1),
    "a crawler whose hosts are gone": many(500, destination_scope="external"),
    "loopback: a search for a free port": (
        flow(n / 100, "127.0.0.1", n + 1, destination_scope="loopback") for n in range(500)
    ),
    "a job's start-up among 100 nodes": startup(100),
    "idle connections to 500 nodes": (connection(n / 50, ip) for n, ip in enumerate(addresses(500))),
    "all accept": (event for n, ip in enumerate(addresses(500)) for event in talk(n, ip, refused=False)),
    "a server's many clients, and a few refusals": [
        *(flow(n / 10, "10.3.0.1", 32_768 + n, refused=False) for n in range(500)),
        *(flow(n, ip) for n, ip in enumerate(addresses(ADDRESSES - 1))),
    ],
    "a few peers, for ever": (flow(n, f"10.0.0.{n % 20}", 6443) for n in range(5000)),
    "a health checker of 200, a quarter of them dead": (
        event
        for turn in range(100)
        for n, ip in enumerate(addresses(200))
        for event in talk(turn * 10 + n / 100, ip, 80, refused=n % 4 == 0)
    ),
    "a health checker whose 200 hosts all die": [
        event
        for turn in range(90)
        for n, ip in enumerate(addresses(200))
        for event in talk(turn * 10 + n / 100, ip, 80, refused=turn > 40)
    ],
    "many ports of many hosts, all below": (
        flow(n / 10, f"10.0.0.{n % 30}", 8000 + n // 30) for n in range(30 * (PORTS - 1))
    ),
    "refused at first, accepted then": (
        event for n, ip in enumerate(addresses(100)) for event in (flow(n, ip), flow(n + 0.5, ip, refused=False))
    ),
    "datagrams": (connection(n / 50, ip, 8301, protocol="udp", source_port=8301) for n, ip in enumerate(addresses(99))),
    "rsh to 500 nodes, from bound ports": (
        connection(n / 50, ip, 514, source_port=1023 - n) for n, ip in enumerate(addresses(500))
    ),
    "fast open, answered": (
        event
        for n, ip in enumerate(addresses(100))
        for event in (connection(n, ip, source_port=999 + n), flow(n + 0.1, ip, refused=False))
    ),
    "who accepts": many(100, initiated=False),
    "nothing is known of the destination": (
        NetworkFlow(time=n, protocol="tcp", destination_scope="private", refused=True) for n in range(100)
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_no_scan(name: str) -> None:
    assert alerts(NEAR_MISSES[name]) == []


def test_the_alert_says_how_many() -> None:
    watch = FanOut()
    (verdict,) = [verdict for event in many(ADDRESSES) for verdict in watch.match(event)]
    assert verdict.rule.level == "high" and verdict.rule.action == "alert"
    assert verdict.detail == "40 addresses; refused or unanswered: 40 of 40 new destinations in 5 minutes"


def test_a_recording_decides_alike() -> None:
    events = list(many(254))
    assert alerts(from_record(to_record(event)) for event in events) == alerts(events) != []


def test_a_million_destinations_cost_bounded_memory() -> None:
    watch = FanOut()
    for n in range(30_000):
        watch.match(flow(n / 10_000, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", process_guid=str(n), cgroup_id=n % 2000))
    tables = (watch._cgroups, watch._processes)
    assert all(len(table) <= 512 for table in tables)
    contacts = [who for table in tables for who in table.values()]
    for n in range(3000):
        watch.match(flow(20, f"10.200.0.{n & 255}", n + 1, process_guid="one", cgroup_id=1))
    assert all(len(who._known) <= 512 and len(who._new) <= 512 and len(who._failed) <= 512 for who in contacts)
    assert sys.getsizeof(watch._cgroups) < 1 << 20
