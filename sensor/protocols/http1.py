"""HTTP/1 requests: what they ask of whom, and what they turn the connection into (RFC 9110, RFC 9112).

More lenient than a server has to be: lone LF, folded lines, blanks before the colon, a missing Host. Of the headers
only the six that are named here are ever read, and of a target never its user information and its query.
"""

from __future__ import annotations

import re

from sensor.protocols.finding import Finding, text
from sensor.protocols.stratum import StratumBody
from sensor.protocols.stream import Dialogue, State, Stream
from sensor.protocols.websocket import Unframe

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}"
_TARGET = rb"[^\x00-\x08\n-\r\x0e-\x1f]*"
_LINE = re.compile(rb"(?:\r?\n)*(" + _TOKEN + rb")[ \t]+(" + _TARGET + rb"[^\x00-\x20])[ \t]+HTTP/1\.\d[ \t]*\r?\n")
_PREFIX = re.compile(rb"(?:\r?\n)*(?:\r|" + _TOKEN + rb"(?:[ \t]" + _TARGET + rb"\r?)?)?")
_OPEN_LINE = re.compile(
    rb"(?:\r?\n)*(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT)[ \t]+((?:/|https?://)" + _TARGET + rb")"
)
_HEAD_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_HEADERS = re.compile(
    rb"^(host|upgrade|content-length|transfer-encoding|content-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.M
)
_STATUS = re.compile(rb"HTTP/1\.\d[ \t]+(\d{3})[^\n]*\n")
_STATUS_PREFIX = re.compile(rb"H(T(T(P(/(1(\.(\d[^\n]*)?)?)?)?)?)?)?")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)([^?#]*)")
_QUERY = re.compile(rb"[?#]")
_HEX = re.compile(rb"[0-9A-Fa-f]{1,8}")
_PORT = re.compile(rb":\d*\Z")

_RESPONSES = 4
"""Interim responses (RFC 9110 section 15.2) and refused attempts that are passed over."""


class Request:
    """The head of a request."""

    __slots__ = ("body", "chunked", "finding", "size")

    def __init__(self, finding: Finding, size: int, body: bool, chunked: bool) -> None:
        self.finding = finding
        self.size = size
        """Bytes of the head; 0 where its end has not been seen."""
        self.body = body
        """A body follows that is not compressed."""
        self.chunked = chunked


def read_request(data: bytes, last: bool, from_peer: bool) -> Request | State:
    """The request that `data` begins with, or READING until its head is whole, or MISS."""
    line = _LINE.match(data) if b"\n" in data else None
    if line is None:
        if not last:
            return State.READING if _PREFIX.fullmatch(data) else State.MISS
        line = _OPEN_LINE.fullmatch(data)
        if line is None:
            return State.MISS
    end = _HEAD_END.search(data, line.end() - 1)
    if end is None and not last:
        return State.READING
    head = data[line.end() : end.start() + 1 if end else len(data)]
    if b"\n " in head or b"\n\t" in head:
        head = _FOLD.sub(b" ", head)
    headers: dict[bytes, bytes] = {}
    for name, value in _HEADERS.findall(head):
        headers.setdefault(name.lower(), value)
    chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
    body = (chunked or headers.get(b"content-length", b"0").strip() != b"0") and b"content-encoding" not in headers
    return Request(_finding(line[1], line[2], headers, from_peer), end.end() if end else 0, body, chunked)


def _finding(method: bytes, target: bytes, headers: dict[bytes, bytes], from_peer: bool) -> Finding:
    host = headers.get(b"host", b"").strip()
    if method == b"CONNECT":
        connect = text(target.rpartition(b"@")[2]).lower()
        return Finding(
            protocol="http-connect",
            http_method="CONNECT",
            http_host=host_name(target),
            http_connect_target=connect,
            from_peer=from_peer,
        )
    absolute = _ABSOLUTE.match(target)
    path = absolute[2] or b"/" if absolute else _QUERY.split(target, maxsplit=1)[0]
    upgrade = headers.get(b"upgrade", b"").strip()
    return Finding(
        protocol="http",
        http_method=method.decode("ascii"),
        http_host=host_name(absolute[1] if absolute else host),
        http_path=text(path),
        http_upgrade=text(upgrade).lower() or None,
        from_peer=from_peer,
    )


def host_name(authority: bytes) -> str | None:
    """The host of an authority (RFC 3986 section 3.2), lower case, without user information, port and brackets."""
    host = _PORT.sub(b"", authority.rpartition(b"@")[2])
    if host.startswith(b"[") and host.endswith(b"]"):
        host = host[1:-1]
    return text(host).lower().removesuffix(".") or None


class Http(Dialogue):
    """A request; where it asks for a tunnel or an upgrade, also the answer to that, and where it has a body, that."""

    __slots__ = ("_asked", "_responses", "_sent_body")

    def __init__(self, client: Stream, server: Stream) -> None:
        super().__init__(client, server)
        self._asked: Finding | None = None
        self._sent_body = False
        self._responses = 0

    def look(self, last: bool) -> Finding | None:
        if self._asked is None:
            return self._request(last)
        self._follow()
        if self._asked is None:
            return self._request(last)
        if self.state is State.CARRIES and "websocket" in (self._asked.http_upgrade or ""):
            return Finding(
                protocol="websocket",
                http_method=self._asked.http_method,
                http_host=self._asked.http_host,
                http_path=self._asked.http_path,
                http_upgrade="websocket",
                from_peer=self.from_peer,
            )
        return None

    def _request(self, last: bool) -> Finding | None:
        request = read_request(self.client.data, last, self.from_peer)
        if isinstance(request, State):
            self.state = request
            return None
        asked = self._asked = request.finding
        self.client.take(request.size)
        self._sent_body = request.body and not (asked.http_connect_target or asked.http_upgrade)
        if not request.size or not (self._sent_body or asked.http_connect_target or asked.http_upgrade):
            self.state = State.COMPLETE
            return asked
        if self._sent_body and request.chunked:
            self.client.through(Unchunk())
        return self.look(last) or asked

    def _follow(self) -> None:
        """The body's beginning, or the answer to a request for a tunnel or an upgrade."""
        if self._sent_body:
            body = self.client.data.lstrip()
            if body:
                self.state = State.CARRIES if body[0] in b"{[" else State.COMPLETE
                self.carries = StratumBody
            return
        assert self._asked is not None
        while self.state is State.READING:
            data = self.server.data
            status = _STATUS.match(data)
            if status is None:
                if data and not _STATUS_PREFIX.fullmatch(data):
                    self.state = State.COMPLETE
                return
            end = _HEAD_END.search(data, status.end() - 1)
            if end is None:
                return
            self.server.take(end.end())
            self._answered(int(status[1]))
            if self._asked is None:
                return

    def _answered(self, status: int) -> None:
        assert self._asked is not None
        self._responses += 1
        if self._asked.http_connect_target:
            if 200 <= status < 300:
                self.state = State.CARRIES
            elif status in (401, 407):
                self._refused()
            elif status >= 300:
                self.state = State.COMPLETE
        elif status == 101:
            self.state = State.CARRIES
            if "websocket" in (self._asked.http_upgrade or ""):
                self.client.through(Unframe())
                self.server.through(Unframe())
        elif status >= 200:
            self.state = State.COMPLETE
        if self._responses >= _RESPONSES and self.state is State.READING:
            self.state = State.COMPLETE

    def _refused(self) -> None:
        """A proxy that wants a password is asked again on the same connection."""
        self._asked = None
        self.server.through(SkipTo(b"HTTP/1."))


class SkipTo:
    """Drops all before a mark: the body of a refusal."""

    __slots__ = ("_held", "_mark", "_met")

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._held = b""
        self._met = False

    def __call__(self, data: bytes) -> bytes:
        if self._met:
            return data
        data = self._held + data
        at = data.find(self._mark)
        if at < 0:
            self._held = data[-len(self._mark) :]
            return b""
        self._met = True
        return data[at:]


class HttpAnswer(Dialogue):
    """A response whose request was not seen: it says only that this is HTTP; `client` is who sent it."""

    __slots__ = ()

    def look(self, last: bool) -> Finding | None:
        if _STATUS.match(self.client.data):
            self.state = State.MISS
            return Finding(protocol="http", from_peer=self.client.ours)
        if not _STATUS_PREFIX.fullmatch(self.client.data):
            self.state = State.MISS
        return None


class Unchunk:
    """Takes the chunked coding off (RFC 9112 section 7.1); gives nothing more once it is broken or over."""

    __slots__ = ("_left", "_line", "_over")

    def __init__(self) -> None:
        self._line = b""
        self._left = 0
        """Bytes that the chunk still has."""
        self._over = False

    def __call__(self, data: bytes) -> bytes:
        out = []
        while data and not self._over:
            if self._left:
                out.append(data[: self._left])
                data = data[self._left :]
                self._left -= len(out[-1])
                continue
            line, newline, data = data.partition(b"\n")
            self._line += line
            if newline:
                self._size_line(self._line.partition(b";")[0].strip())
                self._line = b""
        return b"".join(out)

    def _size_line(self, digits: bytes) -> None:
        """A size, or the empty rest of the line that a chunk's data ends with."""
        if digits:
            self._left = int(digits, 16) if _HEX.fullmatch(digits) else 0
            self._over = not self._left
