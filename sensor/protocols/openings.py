"""Which protocol a direction's first bytes may open."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from sensor.protocols.dns import DnsOverTcp
from sensor.protocols.http1 import Http, HttpAnswer
from sensor.protocols.http2 import Http2
from sensor.protocols.secure import Tls
from sensor.protocols.socks import Socks4, Socks5
from sensor.protocols.ssh import Ssh
from sensor.protocols.stratum import Stratum
from sensor.protocols.stream import Dialogue, State

Opening: TypeAlias = type[Dialogue] | State
"""A protocol to read the flow as; READING until more bytes decide; MISS."""

_BLANKS = b" \t\r\n\x00\x1e"
_MARK = b"\xef\xbb\xbf"
_METHOD = re.compile(rb"(?:\r?\n)*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?:[ \t]|\Z)")
_RESPONSE = b"HTTP/1."
_SSH = b"SSH-"
_PRI = b"PRI "


def opening(data: bytes) -> Opening:
    """What a direction that begins with `data` may be."""
    return _BY_FIRST_BYTE[data[0]](data) if data else State.READING


def _tls(data: bytes) -> Opening:
    return State.MISS if data[1:2] not in (b"", b"\3") else Tls


def _socks4(_: bytes) -> Opening:
    return Socks4


def _socks5(_: bytes) -> Opening:
    return Socks5


def _dns(_: bytes) -> Opening:
    return DnsOverTcp


def _word(data: bytes) -> Opening:
    for start, protocol in ((_SSH, Ssh), (_PRI, Http2), (_RESPONSE, HttpAnswer)):
        if data[0] == start[0]:
            if data.startswith(start):
                return protocol
            if start.startswith(data):
                return State.READING
    return Http if _METHOD.match(data) else State.MISS


def _json(_: bytes) -> Opening:
    return Stratum


def _blank(data: bytes) -> Opening:
    rest = data.lstrip(_BLANKS).removeprefix(_MARK).lstrip(_BLANKS)
    if not rest or _MARK.startswith(rest):
        return State.READING
    if rest[0] in b"{[":
        return Stratum
    return Http if _METHOD.match(data) else State.MISS


def _miss(_: bytes) -> Opening:
    return State.MISS


def _table() -> list[Callable[[bytes], Opening]]:
    table: list[Callable[[bytes], Opening]] = [_miss] * 256
    for byte in b"!#$%&'*+.^_`|~0123456789-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        table[byte] = _word
    for byte in b"{[":
        table[byte] = _json
    for byte in b" \t\r\n\x1e" + _MARK[:1]:
        table[byte] = _blank
    for byte in range(4):
        table[byte] = _dns
    table[4], table[5], table[0x16] = _socks4, _socks5, _tls
    return table


_BY_FIRST_BYTE = _table()
