"""SSH by its identification strings (RFC 4253 section 4.2)."""

from __future__ import annotations

import re

from sensor.protocols.finding import Finding, text
from sensor.protocols.stream import Dialogue, State, Stream

_BANNER = re.compile(rb"(SSH-\d{1,3}\.\d{1,3}-[^\r\n]{0,255})(\r?\n)?")
_PREFIX = re.compile(rb"SSH-(?:\d{1,3}(?:\.(?:\d{1,3}-?)?)?)?")
_LONGEST = 255


class Ssh(Dialogue):
    """One side's banner as its first bytes opens it; the other's may have lines before it."""

    __slots__ = ("_banners",)

    def __init__(self, client: Stream, server: Stream) -> None:
        super().__init__(client, server)
        self._banners: dict[bool, str] = {}

    def look(self, last: bool) -> Finding | None:
        if not self._banners and _hopeless(self.client.data):
            self.state = State.MISS
            return None
        before = len(self._banners)
        for stream in (self.client, self.server):
            if stream.ours not in self._banners:
                banner = _banner(stream.data, last, after_lines=bool(self._banners))
                if banner is not None:
                    self._banners[stream.ours] = banner
        if len(self._banners) == 2:
            self.state = State.COMPLETE
        if len(self._banners) == before:
            return None
        return Finding(protocol="ssh", ssh_banner=self._banners.get(True), ssh_peer_banner=self._banners.get(False))


def _hopeless(data: bytes) -> bool:
    return not _BANNER.match(data) and not _PREFIX.fullmatch(data)


def _banner(data: bytes, last: bool, after_lines: bool) -> str | None:
    """The identification string, once its line is whole or longer than allowed; perhaps after lines of another kind."""
    start = data.find(b"\nSSH-") + 1 if after_lines and not data.startswith(b"SSH-") else 0
    match = _BANNER.match(data, start)
    if match is None or not (match[2] or last or len(match[1]) >= _LONGEST):
        return None
    return text(match[1][:_LONGEST])
