"""What a workload was told by DNS: the names behind addresses, for as long as the answers say.

Kept per cgroup, so that `DestinationHostname` is what this workload asked for, and not what a neighbour did.
Parsing is dnspython's; it takes 14 MB and half a second to import, so a thread does that once the sensor is ready.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import ModuleType

import msgspec

_SECOND = 1_000_000_000
_LEAST_TTL_S = 30
"""A connection may follow its answer after longer than a TTL of 0 says."""
_MOST_TTL_S = 86_400
_QUESTIONS = 8
_RECORDS = 128
"""Answers with more are cut: what a hostile server sends is bounded."""


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
        import dns.message  # noqa: PLC0415 (see above)
        import dns.rdatatype  # noqa: PLC0415

        self._dns = dns
        import sensor.protocols  # noqa: PLC0415, F401 (what flows will need, see sensor.context.flows)

    def parse(self, message: bytes) -> Answer | None:
        """The question and its answer, or None for what is no DNS message. Waits for the import if it must."""
        if self._dns is None:
            if self._thread.ident is None:
                self.start()
            self._thread.join()
        return _parse(self._dns, message)


def _parse(dns: ModuleType | None, message: bytes) -> Answer | None:
    assert dns is not None
    try:
        parsed = dns.message.from_wire(message, ignore_trailing=True, one_rr_per_rrset=False)
    except (dns.exception.DNSException, ValueError):
        return None
    if not 0 < len(parsed.question) <= _QUESTIONS:
        return None
    question = parsed.question[0]
    results: list[str] = []
    addresses: list[tuple[str, int]] = []
    for rrset in parsed.answer:
        for record in rrset:
            if len(results) >= _RECORDS:
                break
            kind = dns.rdatatype.to_text(rrset.rdtype)
            if kind in ("A", "AAAA"):
                results.append(record.address)
                addresses.append((record.address, rrset.ttl))
            elif kind in ("CNAME", "DNAME", "PTR", "NS"):
                results.append(_name(record.target))
            elif kind in ("HTTPS", "SVCB"):
                addresses += [(hint, rrset.ttl) for hint in _hints(record)]
                results += _hints(record)
            else:
                results.append(record.to_text()[:512])
    return Answer(
        _name(question.name),
        dns.rdatatype.to_text(question.rdtype),
        results,
        addresses,
        bool(parsed.flags & dns.flags.QR),
    )


def _hints(record: object) -> list[str]:
    """Addresses in an HTTPS or SVCB record (RFC 9460 section 7.3)."""
    params = getattr(record, "params", {})
    return [address for param in params.values() for address in getattr(param, "addresses", ())]


def _name(name: object) -> str:
    return str(name).removesuffix(".") or "."
