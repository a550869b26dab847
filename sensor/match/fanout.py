"""Scans of internal networks: many new destinations in a short time, most of which do not answer.

Counted for every cgroup, and for every process of its own so that a busy neighbour does not water a scan down, over
TCP destinations of scope private or local: crawlers talk to the outside, test suites to loopback. Needs no profile.

- A destination (address and port) counts from the moment it is first seen, for `WINDOW_S` of event time. One that the
  cgroup knows from before never counts again, so a health checker of a fixed set is soon no news.
- It has failed where the connection was refused or not answered before its end, where it was denied, or where it came
  from the same source port as the one before: so look the packets of a raw socket, of which no flow ever ends. Clients
  that bind a port (rsh) take another for each connection. Later bytes from the destination take that back.
- An alert: `ADDRESSES` addresses that failed, or `PORTS` ports of one address, and at least `SHARE` of all new
  destinations in the window. A job's start-up among hundreds of nodes that accept fails on the share, a service that
  retries its few peers on the number.

`ADDRESSES` is less than a fifth of a /24, and 40 connections at one second's patience each end well within the window.
A scan slower than that, by UDP or by ICMP is not seen here: nothing tells whether a datagram was answered.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from sensor.events import AnyEvent, FlowEvent, NetworkConnection, NetworkFlow
from sensor.verdict import RuleInfo, Verdict

WINDOW_S = 300
ADDRESSES = 40
PORTS = 40
SHARE = 0.75

ADDRESSES_RULE = RuleInfo(
    id="9f7f4a0e-50a4-4a0e-8a53-0b7d5f5c7d21",
    title="Many addresses of an internal network do not answer: a scan",
    level="high",
    techniques=("T1046", "T1018"),
)
PORTS_RULE = RuleInfo(
    id="c4b9d1f2-6c55-4b3b-9d0e-3f6a5f1f0c52",
    title="Many ports of one internal address do not answer: a scan",
    level="high",
    techniques=("T1046",),
)

_WINDOW_NS = WINDOW_S * 1_000_000_000
_SCOPES = {"private", "local"}
_WHO_LIMIT = 512
_DESTINATIONS_LIMIT = 512

_Destination = tuple[str, int]


class _Contacts:
    """The destinations of one process or cgroup: those in the window, and those known from before."""

    __slots__ = ("_failed", "_known", "_new", "_ports", "source_port", "told")

    def __init__(self) -> None:
        self.told = -_WINDOW_NS
        """When an alert was last raised."""
        self.source_port: int | None = None
        """Of the last connection that had one before it was made."""
        self._known: OrderedDict[_Destination, bool] = OrderedDict()
        """Destination -> it counts: it was first seen in the window."""
        self._new: deque[tuple[int, _Destination]] = deque()
        self._failed: set[_Destination] = set()
        self._ports: dict[str, int] = {}
        """Address -> its ports that failed in the window."""

    def add(self, now: int, destination: _Destination, failed: bool | None) -> bool:
        """Whether it failed, and that is news. `failed` None: nothing is known yet."""
        while self._new and now - self._new[0][0] > _WINDOW_NS:
            _, old = self._new.popleft()
            self._settle(old)
            if old in self._known:
                self._known[old] = False
        counts = self._known.get(destination)
        if counts is None and failed is False:
            return False  # it may be the peer that opened this flow
        if counts is None:
            self._known[destination] = counts = True
            self._new.append((now, destination))
            if len(self._known) > _DESTINATIONS_LIMIT:
                self._settle(self._known.popitem(last=False)[0])
            if len(self._new) > _DESTINATIONS_LIMIT:
                self._new.popleft()
        if not counts or failed is None:
            return False
        if not failed:
            self._settle(destination)
            return False
        if destination in self._failed:
            return False
        self._failed.add(destination)
        self._ports[destination[0]] = self._ports.get(destination[0], 0) + 1
        return True

    def _settle(self, destination: _Destination) -> None:
        """It counts as failed no longer."""
        if destination not in self._failed:
            return
        self._failed.discard(destination)
        left = self._ports[destination[0]] - 1
        if left:
            self._ports[destination[0]] = left
        else:
            del self._ports[destination[0]]

    def judge(self, address: str) -> tuple[RuleInfo, str] | None:
        """The rule that holds now that a destination at `address` has failed, and what the alert adds to it."""
        failed = len(self._failed)
        if failed < min(ADDRESSES, PORTS) or failed < SHARE * len(self._new):
            return None
        share = f"{failed} of {len(self._new)} new destinations in {WINDOW_S // 60} minutes"
        if len(self._ports) >= ADDRESSES:
            return ADDRESSES_RULE, f"{len(self._ports)} addresses; refused or unanswered: {share}"
        if self._ports[address] >= PORTS:
            return PORTS_RULE, f"{self._ports[address]} ports of {address}; refused or unanswered: {share}"
        return None


class FanOut:
    """Watches everybody's new destinations; an alert at most once in a window for each cgroup."""

    def __init__(self) -> None:
        self._cgroups: OrderedDict[object, _Contacts] = OrderedDict()
        self._processes: OrderedDict[object, _Contacts] = OrderedDict()

    def match(self, event: AnyEvent) -> Sequence[Verdict]:
        """The verdict, if any, on a connection or flow."""
        if type(event) is not NetworkConnection and type(event) is not NetworkFlow:
            return ()
        if event.destination_scope not in _SCOPES or event.protocol != "tcp" or event.initiated is False:
            return ()
        address, port = event.destination_ip, event.destination_port
        if address is None or port is None:
            return ()
        cgroup = event.cgroup_path if event.cgroup_id is None else event.cgroup_id
        contacts = _contacts(self._cgroups, cgroup)
        failed = _failed(event, contacts)
        watched = [contacts]
        if event.process_guid is not None:
            watched.append(_contacts(self._processes, event.process_guid))
        news = [who for who in watched if who.add(event.time, (address, port), failed)]
        if not news or event.time - contacts.told <= _WINDOW_NS:
            return ()
        found = next(filter(None, (who.judge(address) for who in news)), None)
        if found is None:
            return ()
        contacts.told = event.time
        return (Verdict(rule=found[0], event=event, detail=found[1]),)


def _failed(event: FlowEvent, contacts: _Contacts) -> bool | None:
    """None: nothing is known yet."""
    if isinstance(event, NetworkFlow):
        if event.refused:
            return True
        return False if event.bytes_in else None
    if event.denied:
        return True
    if not event.source_port:
        return None
    is_same = event.source_port == contacts.source_port
    contacts.source_port = event.source_port
    return is_same or None


def _contacts(table: OrderedDict[object, _Contacts], who: object) -> _Contacts:
    found = table.get(who)
    if found is None:
        found = table[who] = _Contacts()
        if len(table) > _WHO_LIMIT:
            table.popitem(last=False)
    else:
        table.move_to_end(who)
    return found
