"""What a workload was told by DNS: the names behind addresses, for as long as the answers say.

Kept per cgroup, so that `DestinationHostname` is what this workload asked for, and not what a neighbour did.
Parsing is dnspython's; it takes 8 MB and 0.1 s to import, so a thread does that once the sensor is ready.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import ModuleType
from typing import Any

import msgspec

_SECOND = 1_000_000_000
_LEAST_TTL_S = 30
"""A connection may follow its answer after longer than a TTL of 0 says."""
_MOST_TTL_S = 86_400
_QUESTIONS = 8
_RECORDS = 128
"""Answers with more are cut: what a hostile server sends is bounded."""
_TEXT = 512
_RESPONSE, _OPCODE = 0x8000, 0x7800
_ALIASES = frozenset({"CNAME", "DNAME", "PTR", "NS"})
_READ = _ALIASES | {"A", "AAAA", "HTTPS", "SVCB", "MX", "TXT", "SRV", "SOA"}
"""Types that are read; others are given as their bytes (RFC 3597 section 5)."""


class Answer(msgspec.Struct, frozen=True):
    """One question, and what was said to it."""

    name: str
    type: str
    results: list[str]
    """Addresses and names, a chain of aliases first."""
    addresses: list[tuple[str, int]] = []
    """(address, TTL in seconds)."""
    is_response: bool = False


class Names:
    """Addresses and their names, at most `limit` of them; the oldest go first."""

    def __init__(self, limit: int = 65_536, least_ttl_s: int = _LEAST_TTL_S) -> None:
        self.evicted = 0
        self.malformed = 0
        """Datagrams to or from port 53 that were no DNS message."""
        self._limit = limit
        self._least_ttl_s = least_ttl_s
        self._names: OrderedDict[tuple[int, str], tuple[str, int]] = OrderedDict()

    def learn(self, cgroup_id: int, now: int, answer: Answer) -> None:
        """`now` is CLOCK_BOOTTIME in nanoseconds."""
        for address, ttl in answer.addresses:
            key = (cgroup_id, address)
            self._names.pop(key, None)
            self._names[key] = (answer.name, now + min(max(ttl, self._least_ttl_s), _MOST_TTL_S) * _SECOND)
        while len(self._names) > self._limit:
            self._names.popitem(last=False)
            self.evicted += 1

    def name(self, cgroup_id: int, address: str, now: int) -> str | None:
        """The name that this cgroup asked for when it was given `address`; None where it was not, or long ago."""
        found = self._names.get((cgroup_id, address))
        if found is None:
            return None
        name, until = found
        if now > until:
            del self._names[cgroup_id, address]
            return None
        return name


class Parser:
    """DNS messages, once dnspython is there."""

    def __init__(self) -> None:
        self._dns: ModuleType | None = None
        self._thread = threading.Thread(target=self._load, name="dns", daemon=True)

    def start(self) -> None:
        """Import dnspython beside everything else."""
        self._thread.start()

    def _load(self) -> None:
        import dns.name  # noqa: PLC0415 (see above)
        import dns.rdata  # noqa: PLC0415
        import dns.rdataclass  # noqa: PLC0415
        import dns.rdatatype  # noqa: PLC0415
        import dns.wire  # noqa: PLC0415

        self._dns = dns
        import sensor.protocols  # noqa: PLC0415, F401 (what flows will need, see sensor.context.flows)

    def parse(self, message: bytes) -> Answer | None:
        """The question and its answer, or None for what is no DNS message. Waits for the import if it must."""
        if self._dns is None:
            if self._thread.ident is None:
                self.start()
            self._thread.join()
        dns = self._dns
        assert dns is not None
        try:
            return _read(dns, dns.wire.Parser(message))
        except (dns.exception.DNSException, ValueError):
            return None


def _read(dns: ModuleType, wire: Any) -> Answer | None:
    """Question and answer of a message (RFC 1035 section 4.1); raises DNSException for anything else.

    `dns.message` is not used: of each unknown pair of type and class it looks for a module and remembers for ever that
    there is none, and one record of class ANY has it forget how to read those of class IN.
    """
    _, flags, questions, answers, _, _ = wire.get_struct("!6H")
    if not 0 < questions <= _QUESTIONS:
        return None
    name, asked = _name(dns.name.from_wire_parser(wire)), wire.get_struct("!HH")[0]
    for _ in range(questions - 1):
        dns.name.from_wire_parser(wire)
        wire.get_bytes(4)
    results: list[str] = []
    addresses: list[tuple[str, int]] = []
    while answers and len(results) < _RECORDS:
        answers -= 1
        dns.name.from_wire_parser(wire)
        rdtype, rdclass, ttl, length = wire.get_struct("!HHIH")
        with wire.restrict_to(length):
            given, texts = _record(dns, rdtype, rdclass, wire)
        results += given + texts
        addresses += [(address, ttl if ttl < 1 << 31 else 0) for address in given]  # RFC 2181 section 8
    is_response = bool(flags & _RESPONSE) and not flags & _OPCODE
    return Answer(name, dns.rdatatype.to_text(asked), results[:_RECORDS], addresses[:_RECORDS], is_response)


def _record(dns: ModuleType, rdtype: int, rdclass: int, wire: Any) -> tuple[list[str], list[str]]:
    """Addresses, and what is said besides, of the record whose data `wire` is restricted to."""
    kind = dns.rdatatype.to_text(rdtype)
    if rdclass != dns.rdataclass.IN or kind not in _READ:
        return [], [dns.rdata.GenericRdata(rdclass, rdtype, wire.get_remaining()).to_text()[:_TEXT]]
    record = dns.rdata.from_wire_parser(rdclass, rdtype, wire)
    if kind in ("A", "AAAA"):
        return [record.address], []
    if kind in ("HTTPS", "SVCB"):  # RFC 9460 section 7.3
        return [address for param in record.params.values() for address in getattr(param, "addresses", ())], []
    return [], [_name(record.target) if kind in _ALIASES else record.to_text()[:_TEXT]]


def _name(name: object) -> str:
    return str(name).removesuffix(".") or "."
