"""A flow's two directions, and how a protocol reads them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

from sensor.protocols.finding import Finding

LIMIT = 4096
"""Bytes of each direction that are looked at."""

Filter: TypeAlias = Callable[[bytes], bytes]
"""Takes the successive bytes of a direction and gives the payload in them."""


class Stream:
    """One direction: the bytes that no layer has taken yet."""

    __slots__ = ("_filters", "data", "ours", "room")

    def __init__(self, ours: bool) -> None:
        self.data = b""
        self.ours = ours
        """Sent by the side that opened the flow."""
        self.room = LIMIT
        self._filters: list[Filter] = []

    def add(self, chunk: bytes) -> int:
        """Append what comes next; how many bytes of it there was room for, the rest is dropped."""
        chunk = chunk[: self.room]
        count = len(chunk)
        self.room -= count
        for payload in self._filters:
            chunk = payload(chunk)
        self.data = self.data + chunk if self.data else chunk
        return count

    def take(self, count: int) -> None:
        """The first `count` bytes are read."""
        self.data = self.data[count:]

    def through(self, payload: Filter) -> None:
        """From here on the direction is framed: `payload` takes the frames off."""
        self._filters.append(payload)
        self.data = payload(self.data)


class State(Enum):
    """Where a dialogue stands."""

    READING = 0
    MISS = 1
    """Another protocol, or nothing more to learn on this side."""
    COMPLETE = 2
    CARRIES = 3
    """What is left in the streams is another protocol's."""


class Dialogue:
    """Both directions read as one protocol; `client` is the one whose first bytes opened it.

    Whatever `look` concludes from a prefix must hold for every continuation, so that how a stream is split changes
    nothing.
    """

    __slots__ = ("carries", "client", "server", "state")

    def __init__(self, client: Stream, server: Stream) -> None:
        self.client = client
        self.server = server
        self.state = State.READING
        self.carries: type[Dialogue] | None = None
        """With CARRIES: the only protocol to look for in what is left; None for any."""

    def look(self, last: bool) -> Finding | None:
        """What the streams say now, if it is more than before; `last` when no more bytes will come."""
        raise NotImplementedError

    @property
    def from_peer(self) -> bool:
        return not self.client.ours
