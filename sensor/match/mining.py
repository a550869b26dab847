"""Mining by behaviour: one quiet, steady conversation with a peer, and a workload that is busy all the while.

A miner keeps one connection for hours. On it come jobs and go shares: a few hundred bytes each, some a minute, both
ways; the work itself stays on the machine. What else does that and speaks a protocol that is known is let be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import TypeAlias

import msgspec

from sensor.events import AnyEvent, NetworkFlow
from sensor.verdict import RuleInfo, Verdict

_LIMIT = 4096
_TECHNIQUES = ("T1496.001",)

EXTERNAL = RuleInfo(
    id="c7dfeefb-3341-4758-ae38-a9501ef2ab02",
    title="Mining by behaviour: long and quiet talk in an unknown protocol beside steady work",
    level="high",
    techniques=_TECHNIQUES,
)
SERVICE = RuleInfo(
    id="bcdae8f5-d738-40ec-8cf2-fa4324c2fe87",
    title="Mining by behaviour: long and quiet talk in nameless TLS or on a service's port beside steady work",
    level="medium",
    techniques=_TECHNIQUES,
)
PRIVATE = RuleInfo(
    id="384b1fb5-4e86-450c-8877-88e93615a701",
    title="Mining by behaviour: long and quiet talk with a private address beside steady work",
    level="low",
    techniques=_TECHNIQUES,
)
RULES = (EXTERNAL, SERVICE, PRIVATE)

SERVICE_PORTS = frozenset(
    (1433, 1521, 1883, 3306, 4222, 5432, 5671, 5672, 6379, 6380, 8883, 9042, 9092, 9093, 11211, 27017, 50051)
)
"""Databases, queues and caches of which clients keep a connection and the recogniser does not know the protocol."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """When a flow is a miner's. Per report: of the minute before it."""

    duration_s: float = 600.0
    """Pools drop who is idle and miners stay for hours; fewer things talk for ten minutes without a pause."""
    reports: int = 8
    """That follow one another without exception. One every minute in which a packet came."""
    cpu_cores: float = 0.7
    """One thread that does nothing but hash, less what a crowded machine takes from it."""
    gpu_utilisation: float = 70.0
    """Miners hold a GPU near 100 %; percent of one GPU."""
    bytes_most: int = 32_768
    """Each way. A share is about 250 bytes, a job 400 (Monero) to 3,500 (Bitcoin), some of each a minute."""
    packets_least: int = 2
    """Each way: a share and its answer, or a job and its acknowledgement."""
    packets_most: int = 200
    packet_bytes_least: int = 75
    """Each way on average, headers (52 bytes) included: a keep-alive or a WebSocket ping has 52 to 60."""
    scopes: Collection[str] = ("external", "private")
    """Of the destinations that count."""


_TOLD = -1
"""In place of the number of reports that followed one another."""

_Key: TypeAlias = tuple[int | None, str | None, str | None, int | None, int | None]


class Mining:
    """Judges NetworkFlow events; all others pass. At most `limit` flows are followed; the oldest go first."""

    def __init__(self, thresholds: Thresholds | None = None, limit: int = _LIMIT) -> None:
        self.evicted = 0
        self._thresholds = thresholds or Thresholds()
        self._limit = limit
        self._steady: OrderedDict[_Key, int] = OrderedDict()

    def match(self, event: AnyEvent) -> list[Verdict]:
        """At most one verdict for each flow."""
        if not isinstance(event, NetworkFlow):
            return []
        key = (event.cgroup_id, event.process_guid, event.destination_ip, event.destination_port, event.source_port)
        rule = _rule(event, self._thresholds.scopes)
        if event.flows or rule is None or not (self._is_quiet_talk(event) and self._is_busy(event)):
            self._steady.pop(key, None)
            return []
        count = self._steady.get(key, 0)
        if count != _TOLD:
            count += 1
        is_due = count >= self._thresholds.reports and (event.duration or 0) >= self._thresholds.duration_s
        self._steady[key] = _TOLD if is_due else count
        self._steady.move_to_end(key)
        if len(self._steady) > self._limit:
            self._steady.popitem(last=False)
            self.evicted += 1
        return [Verdict(rule=rule, event=event)] if is_due else []

    def _is_quiet_talk(self, event: NetworkFlow) -> bool:
        wanted = self._thresholds
        for size, packets in ((event.bytes_out, event.packets_out), (event.bytes_in, event.packets_in)):
            if size is None or packets is None or size > wanted.bytes_most:
                return False
            if not wanted.packets_least <= packets <= wanted.packets_most:
                return False
            if size < packets * wanted.packet_bytes_least:
                return False
        return True

    def _is_busy(self, event: NetworkFlow) -> bool:
        wanted = self._thresholds
        gpu = event.gpu_utilisation
        return (event.cpu_cores or 0) >= wanted.cpu_cores or (gpu is not None and gpu >= wanted.gpu_utilisation)


def _rule(event: NetworkFlow, scopes: Collection[str]) -> RuleInfo | None:
    """How bad it would be; None where the flow is told apart by what it says.

    A job that reports its metrics behaves as a miner does, but speaks HTTP or TLS to a name. Names of pools are the
    matter of other rules.
    """
    if event.protocol != "tcp" or not event.initiated or event.destination_scope not in scopes:
        return None
    spoken = event.application_protocol
    if spoken == "tls" and event.destination_hostname is None and event.destination_scope == "external":
        return SERVICE
    if spoken != "unknown":
        return None  # known, or its first words were not seen: older than the sensor
    if event.destination_scope == "private":
        return PRIVATE
    return SERVICE if event.destination_port in SERVICE_PORTS else EXTERNAL
