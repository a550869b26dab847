"""Flows by their first words: parts put in order and shown to the recogniser."""

from __future__ import annotations

import re
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from sensor.decode import Ends, FlowTotals, Payload

if TYPE_CHECKING:
    from sensor.protocols import Finding

DNS_PORT = 53
SAME = {"socks4": "socks", "socks5": "socks", "http-connect": "http", "http2": "http"}
"""ApplicationProtocol where a finding is more exact than rules need."""
_HELD_PARTS = 32
"""Parts of one direction that came before what precedes them; the kernel side hands up 4 KiB in all."""

_TEXT = bytes(range(0x20, 0x7F)) + b"\t\n\r\a\b\x1b" + bytes(range(0x80, 0x100))
_SERVICE = re.compile(
    rb"""\{\s*["}] | \[\s*[\[{"\d] | <\?xml | <stream:       # JSON, XML
    | \*\d{1,9}\r\n\$ | INFO\ \{                            # Redis, NATS
    | \d{3}[ -] | \+OK | \*\ OK | (?:NICK|USER|PASS|CAP)\   # SMTP and FTP, POP3, IMAP, IRC
    """,
    re.VERBOSE,
)
"""How text begins that programs exchange; so would it have to begin that wants to pass for such."""

Key: TypeAlias = tuple[int, str, int]
"""(socket cookie, remote address, remote port): a UDP socket talks to many."""


class _Stream:
    """One direction of a TCP flow: gives its parts in order, each byte once."""

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, bytes] = {}

    def add(self, offset: int, data: bytes) -> bytes:
        """What has become contiguous by this part; empty where something before it is missing."""
        if offset > self._next:
            if len(self._held) < _HELD_PARTS:
                self._held[offset] = data
            return b""
        ready = data[self._next - offset :]
        self._next += len(ready)
        while self._held:
            offset = min(self._held)
            if offset > self._next:
                break
            more = self._held.pop(offset)[self._next - offset :]
            self._next += len(more)
            ready += more
        return ready


class _Entry:
    def __init__(self, raw: Payload) -> None:
        from sensor.protocols import Flow  # noqa: PLC0415 (0.1 s: imported in a thread once the sensor is ready)

        transport = "udp" if raw.ends.protocol == socket.IPPROTO_UDP else "tcp"
        self.recogniser = Flow(transport, raw.ends.remote_port)  # type: ignore[arg-type]
        self.streams = (_Stream(), _Stream()) if transport == "tcp" else None
        self.dns = b""
        self.protocol = "unknown"
        self.name: str | None = None
        self.ssh_banner: str | None = None
        self.plain = [True, True]
        self._begun = [False, False]

    def next(self, raw: Payload) -> bytes:
        """What of the flow's bytes this part makes known, in order."""
        return self.streams[raw.inbound].add(raw.offset, raw.data) if self.streams else raw.data

    def weigh(self, inbound: bool, data: bytes) -> None:
        """Whether what is said in an unknown protocol may be what a person and a shell say to each other."""
        if self.plain[inbound]:
            self.plain[inbound] = _is_text(data) and (self._begun[inbound] or not _SERVICE.match(data))
            self._begun[inbound] = True


class Said(NamedTuple):
    """What a flow has said so far."""

    protocol: str
    """As rules name it; "unknown" where its words say nothing."""
    name: str | None
    """Of the peer, as the flow itself gives it."""
    plain: bool
    """Text that opens no protocol."""
    ssh_banner: str | None = None
    """Of the side that opened it."""


class Flows:
    """What is known of flows that are open, at most `limit`; the oldest go first."""

    def __init__(self, limit: int = 16_384) -> None:
        self.evicted = 0
        """Of those of which more might have been learned."""
        self._limit = limit
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def recognise(self, raw: Payload) -> Finding | None:
        """What this part of a flow, with those before it, says that was not known."""
        entry = self._entry(raw)
        return _recognise(entry, raw.inbound, entry.next(raw))

    def recognise_beside_dns(self, raw: Payload) -> tuple[list[bytes], Finding | None]:
        """Of a TCP flow to port 53: the DNS messages that this part completes of what came back (RFC 7766 section 8),
        and, since anything may be spoken there, what it says that is no DNS.
        """
        entry = self._entry(raw)
        data = entry.next(raw)
        found = _recognise(entry, raw.inbound, data)
        if found is not None and found.protocol != "dns":
            return [], found
        messages = []
        if raw.inbound and entry.protocol in ("unknown", "dns"):
            entry.dns += data
            while len(entry.dns) >= 2 and len(entry.dns) >= 2 + (length := int.from_bytes(entry.dns[:2], "big")):
                messages.append(entry.dns[2 : 2 + length])
                entry.dns = entry.dns[2 + length :]
        return messages, None

    def known(self, raw: FlowTotals) -> tuple[str | None, str | None]:
        """The protocol, "unknown" where its words say nothing and None where none were seen, and the peer's name."""
        entry = self._entries.get(_key(raw.ends))
        return (entry.protocol, entry.name) if entry else (None, None)

    def ended(self, raw: FlowTotals) -> Finding | None:
        """Forget a flow that has closed; what its first words say, where they were broken off, is said now."""
        entry = self._entries.pop(_key(raw.ends), None) if raw.closed else None
        return None if entry is None or entry.recogniser.done else entry.recogniser.end()

    def said(self, ends: Ends) -> Said | None:
        """None where no words of this flow are known."""
        entry = self._entries.get(_key(ends))
        return (
            Said(SAME.get(entry.protocol, entry.protocol), entry.name, all(entry.plain), entry.ssh_banner)
            if entry
            else None
        )

    def _entry(self, raw: Payload) -> _Entry:
        key = _key(raw.ends)
        entry = self._entries.get(key)
        if entry is None:
            entry = _Entry(raw)
            self._entries[key] = entry
            if len(self._entries) > self._limit:
                _, oldest = self._entries.popitem(last=False)
                self.evicted += not oldest.recogniser.done
        return entry


def _recognise(entry: _Entry, inbound: bool, data: bytes) -> Finding | None:
    if not data:
        return None
    recogniser = entry.recogniser
    found = None if recogniser.done else recogniser.inbound(data) if inbound else recogniser.outbound(data)
    if found is not None:
        entry.protocol = found.protocol
        entry.name = found.tls_server_name or found.http_host or entry.name
        entry.ssh_banner = found.ssh_banner or entry.ssh_banner
    elif entry.protocol == "unknown":
        entry.weigh(inbound, data)
    return found


def _key(ends: Ends) -> Key:
    return ends.cookie, ends.remote, ends.remote_port


def _is_text(data: bytes) -> bool:
    if data.translate(None, _TEXT):
        return False
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start > len(data) - 4  # a character may be cut off
    return True
