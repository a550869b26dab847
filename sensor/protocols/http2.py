"""HTTP/2 in the clear: its preface and the first request (RFC 9113 sections 3.4, 4.1, 6.2, RFC 7541)."""

from __future__ import annotations

import functools
from collections.abc import Callable

from sensor.protocols.finding import Finding, text
from sensor.protocols.http1 import host_name
from sensor.protocols.stream import Dialogue, State, Stream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME = 9
_HEADERS, _CONTINUATION = 1, 9
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_WANTED = (b":method", b":authority", b":path", b":protocol", b"host")


class Http2(Dialogue):
    """The preface is certain; the first header block adds method, host and path."""

    __slots__ = ("_seen",)

    def __init__(self, client: Stream, server: Stream) -> None:
        super().__init__(client, server)
        self._seen = False

    def look(self, last: bool) -> Finding | None:
        data = self.client.data
        if not data.startswith(PREFACE):
            if not PREFACE.startswith(data):
                self.state = State.MISS
            return None
        block = _header_block(data, len(PREFACE))
        if isinstance(block, bytes):
            self.state = State.COMPLETE
            return self._found(_decode(block))
        self.state = block
        if self._seen:
            return None
        self._seen = True
        return self._found({})

    def _found(self, headers: dict[bytes, bytes]) -> Finding:
        method = headers.get(b":method")
        authority = headers.get(b":authority", headers.get(b"host", b""))
        path = headers.get(b":path")
        plain_connect = method == b"CONNECT" and b":protocol" not in headers
        return Finding(
            protocol="http2",
            http_method=None if method is None else text(method),
            http_host=host_name(authority),
            http_path=None if path is None else text(path.partition(b"?")[0].partition(b"#")[0]),
            http_upgrade=text(headers[b":protocol"]).lower() if b":protocol" in headers else None,
            http_connect_target=text(authority).lower() if plain_connect else None,
            from_peer=self.from_peer,
        )


def _header_block(data: bytes, at: int) -> bytes | State:
    """The first whole header block after the preface; READING until it is there, COMPLETE where it never will be."""
    block = b""
    stream = 0
    while at + _FRAME <= len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        number = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        if kind != (_CONTINUATION if stream else _HEADERS):
            if stream:
                return State.COMPLETE
            at += _FRAME + length
            continue
        payload = data[at + _FRAME : at + _FRAME + length]
        if len(payload) < length:
            break
        if kind == _HEADERS:
            payload = _unpadded(payload, flags)
            stream = number or 1
        block += payload
        if flags & _END_HEADERS:
            return block
        at += _FRAME + length
    return State.READING


def _unpadded(payload: bytes, flags: int) -> bytes:
    """A HEADERS payload without padding and priority (RFC 9113 section 6.2)."""
    padding = payload[0] if flags & _PADDED and payload else 0
    start = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
    return payload[start : max(len(payload) - padding, start)]


@functools.cache
def _hpack() -> tuple[Callable[[bytes], dict[bytes, bytes]], type[Exception]]:
    """hpack costs milliseconds to import, and most nodes never see HTTP/2 in the clear."""
    from hpack import Decoder, HPACKError  # noqa: PLC0415

    def decode(block: bytes) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for name, value, *_ in Decoder(max_header_list_size=1 << 14).decode(block, raw=True):
            if name in _WANTED:
                found.setdefault(bytes(name), bytes(value))
        return found

    return decode, HPACKError


def _decode(block: bytes) -> dict[bytes, bytes]:
    """The headers that are read, of a block without a dynamic table before it; none where it is broken."""
    decode, broken = _hpack()
    try:
        return decode(block)
    except broken:
        return {}
