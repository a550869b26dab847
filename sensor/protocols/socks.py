"""SOCKS 4, 4a and 5 (SOCKS4 and 4a by Ying-Da Lee; RFC 1928, RFC 1929), and what goes through."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from sensor.protocols.finding import Finding, text
from sensor.protocols.stream import Dialogue, State, Stream

_METHODS = frozenset({0, 1, 2, 3, 5, 6, 7, 8, 9, *range(0x80, 0xFF)})
_USER_PASSWORD = 2
_REFUSED = 0xFF
_HOST = re.compile(rb"[A-Za-z0-9_.\-:\[\]%\x80-\xff]{1,255}")
_NAME_4A = re.compile(rb"[A-Za-z0-9_.-]{3,255}")
_NAME_4A_PREFIX = re.compile(rb"[A-Za-z0-9_.-]{0,255}")
_USER = re.compile(rb"[\x20-\x7e]{0,255}")


class Socks5(Dialogue):
    """Greeting, choice, perhaps a password that is skipped, request, reply; then the tunnel."""

    __slots__ = ("_destination", "_greeted", "_request_end")

    def __init__(self, client: Stream, server: Stream) -> None:
        super().__init__(client, server)
        self._greeted = False
        self._destination: str | None = None
        self._request_end = 0

    def look(self, last: bool) -> Finding | None:
        finding = None
        if self._destination is None:
            finding = self._request(self.client.data, self.server.data)
        if self._destination is not None and self.state is State.READING:
            self._reply(self.server.data)
        return finding

    def _found(self) -> Finding:
        return Finding(protocol="socks5", socks_destination=self._destination, from_peer=self.from_peer)

    def _request(self, data: bytes, answer: bytes) -> Finding | None:
        greeting = 2 + data[1] if len(data) > 1 else 3
        methods = data[2:greeting]
        if greeting == 2 or not _METHODS.issuperset(methods) or len(set(methods)) < len(methods):
            self.state = State.MISS
            return None
        if len(data) < greeting:
            return None
        if answer and (answer[0] != 5 or (len(answer) > 1 and answer[1] not in (*methods, _REFUSED))):
            self.state = State.MISS
            return None
        chosen = answer[1] if len(answer) > 1 else None
        if chosen == _REFUSED:
            self.state = State.COMPLETE
            return self._found()
        finding = None
        if chosen is not None and not self._greeted:
            self._greeted = True
            finding = self._found()
        at = _past_password(data, greeting) if _USER_PASSWORD in methods else greeting
        if at is not None:
            self._destination, self._request_end = _address(data, at)
        if self._destination is not None:
            return self._found()
        if self._request_end < 0:
            self.state = State.MISS
        return finding

    def _reply(self, answer: bytes) -> None:
        """Past the server's choice, its verdict on a password and its reply; the rest is the tunnel's."""
        at = 4 if answer[1:2] == b"\2" else 2
        if len(answer) < at + 2:
            return
        if answer[at] != 5 or answer[at + 1]:
            self.state = State.COMPLETE
            return
        bound, end = _address(answer, at, reply=True)
        if bound is not None:
            self.client.take(self._request_end)
            self.server.take(end)
            self.state = State.CARRIES
        elif end < 0:
            self.state = State.COMPLETE


def _past_password(data: bytes, at: int) -> int | None:
    """Where user and password end (RFC 1929 section 2), `at` where there are none, None where more must come."""
    if data[at : at + 1] != b"\1":
        return at if len(data) > at else None
    if len(data) < at + 2:
        return None
    password = at + 2 + data[at + 1]
    if len(data) <= password:
        return None
    end = password + 1 + data[password]
    return end if len(data) >= end else None


def _address(data: bytes, at: int, reply: bool = False) -> tuple[str | None, int]:
    """host:port of a request or reply at `at` and where it ends; (None, 0) if more must come, (None, -1) if wrong."""
    head = data[at : at + 4]
    if head[:1] not in (b"", b"\5") or head[2:3] not in (b"", b"\0"):
        return None, -1
    if (not reply and head[1:2] and not 1 <= head[1] <= 3) or head[3:4] not in (b"", b"\1", b"\3", b"\4"):
        return None, -1
    if len(data) < at + 5:
        return None, 0
    start = at + 4
    if head[3] == 3:
        start += 1
        length = data[start - 1]
    else:
        length = 4 if head[3] == 1 else 16
    end = start + length + 2
    if len(data) < end:
        return None, 0
    raw = data[start : start + length]
    port = int.from_bytes(data[end - 2 : end], "big")
    if head[3] == 1:
        return f"{IPv4Address(raw)}:{port}", end
    if head[3] == 4:
        return f"[{IPv6Address(raw)}]:{port}", end
    if not reply and not _HOST.fullmatch(raw):
        return None, -1
    return f"{text(raw).lower()}:{port}", end


class Socks4(Dialogue):
    """CONNECT or BIND with an address, or with a name (4a); certain by the name or by the reply."""

    __slots__ = ("_destination", "_end")

    def __init__(self, client: Stream, server: Stream) -> None:
        super().__init__(client, server)
        self._destination: str | None = None
        self._end = 0

    def look(self, last: bool) -> Finding | None:
        named = self._destination is not None
        if not named and not self._request(self.client.data):
            return None
        reply = self.server.data[:8]
        finding = None if named or not self._by_name() else self._found()
        if not reply:
            return finding
        if reply[0] != 0 or (len(reply) > 1 and not 0x5A <= reply[1] <= 0x5D):
            self.state = State.COMPLETE if self._by_name() else State.MISS
            return finding
        if len(reply) == 8:
            self.client.take(self._end)
            self.server.take(8)
            self.state = State.CARRIES if reply[1] == 0x5A else State.COMPLETE
            return self._found()
        return finding

    def _found(self) -> Finding:
        return Finding(protocol="socks4", socks_destination=self._destination, from_peer=self.from_peer)

    def _by_name(self) -> bool:
        address = self.client.data[4:8]
        return address[:3] == b"\0\0\0" and address[3:] != b"\0"

    def _request(self, data: bytes) -> bool:
        """Reads version, command, port, address, user, NUL and for 4a a name, NUL; whether all is there."""
        user_end = data.find(0, 8)
        user = data[8:] if user_end < 0 else data[8:user_end]
        if (len(data) > 1 and data[1] not in (1, 2)) or data[2:4] == b"\0\0" or not _USER.fullmatch(user):
            self.state = State.MISS
        if self.state is State.MISS or user_end < 0:
            return False
        port = int.from_bytes(data[2:4], "big")
        if not self._by_name():
            self._destination, self._end = f"{IPv4Address(data[4:8])}:{port}", user_end + 1
            return True
        end = data.find(0, user_end + 1)
        name = data[user_end + 1 :] if end < 0 else data[user_end + 1 : end]
        if not (_NAME_4A_PREFIX if end < 0 else _NAME_4A).fullmatch(name):
            self.state = State.MISS
        if self.state is State.MISS or end < 0:
            return False
        self._destination, self._end = f"{text(name).lower()}:{port}", end + 1
        return True
