"""One flow's first bytes, both directions, in; what they say out."""

from __future__ import annotations

from typing import Literal, Protocol

from sensor.protocols import secure, wireguard
from sensor.protocols.dns import query
from sensor.protocols.finding import Finding, within
from sensor.protocols.openings import opening
from sensor.protocols.stratum2 import Turns
from sensor.protocols.stream import LIMIT, Dialogue, State, Stream

MAX_DATAGRAMS = 4
"""Datagrams of each direction that are looked at."""
MAX_DEPTH = 4
"""Protocols around the innermost."""
MAX_LOOKS = 256
"""Chunks that are looked at one by one. Each look may cost as much as all bytes so far: a flow of thousands of segments
of one byte each is looked at in steps."""
STEP = 32
_DNS = 53
_LONG = 0x80
"""The header form of QUIC's first packets (RFC 8999 section 5.1)."""


class _Reader(Protocol):
    done: bool

    def add(self, ours: bool, data: bytes) -> Finding | None: ...

    def end(self) -> Finding | None: ...


class Flow:
    """Recognises one flow; keeps at most LIMIT bytes of each direction, of UDP MAX_DATAGRAMS datagrams.

    A call gives what is newly known: the protocol once it is certain, and again when more is known of it or of what
    it carries. Of TCP, chunks come in stream order, split anywhere; how directions take turns matters only to Stratum
    V2. Of UDP, a chunk is a datagram.
    """

    __slots__ = ("_found", "_reader")

    def __init__(self, transport: Literal["tcp", "udp"], destination_port: int) -> None:
        self._reader: _Reader = _Streams() if transport == "tcp" else _Datagrams(destination_port)
        self._found: Finding | None = None

    def outbound(self, data: bytes) -> Finding | None:
        """What the side that opened the flow sends next."""
        return self._new(self._reader.add(True, data)) if data and not self._reader.done else None

    def inbound(self, data: bytes) -> Finding | None:
        """What the side that accepted it sends next."""
        return self._new(self._reader.add(False, data)) if data and not self._reader.done else None

    def end(self) -> Finding | None:
        """No more bytes will come: what can be said of an opening that was cut off."""
        return self._new(self._reader.end()) if not self._reader.done else None

    @property
    def done(self) -> bool:
        """Nothing more to learn: recognised wholly, hopeless, or the bound is reached."""
        return self._reader.done

    def _new(self, finding: Finding | None) -> Finding | None:
        if finding == self._found:
            return None
        self._found = finding or self._found
        return finding


class _Streams:
    """A TCP flow: each protocol reads both directions from where the one around it left them."""

    __slots__ = (
        "_carriers",
        "_dialogue",
        "_found",
        "_latest",
        "_looks",
        "_ours",
        "_shut",
        "_silent",
        "_theirs",
        "_turns",
        "_unread",
        "done",
    )

    def __init__(self) -> None:
        self._ours = Stream(ours=True)
        self._theirs = Stream(ours=False)
        self._dialogue: Dialogue | None = None
        self._silent = True
        """The dialogue has found nothing so far."""
        self._shut: set[bool] = set()
        """Directions, by `Stream.ours`, that open nothing known."""
        self._carriers: list[Finding] = []
        self._found: Finding | None = None
        """Of the innermost protocol so far."""
        self._turns = Turns()
        self._looks = 0
        self._latest = self._ours
        self._unread = 0
        """Bytes of the latest direction that wait until they are STEP, or the other speaks."""
        self.done = False

    def add(self, ours: bool, data: bytes) -> Finding | None:
        stream = self._ours if ours else self._theirs
        found = None
        if self._unread and stream is not self._latest:
            found = self._read(last=False)
            if self.done:
                return found
        self._latest = stream
        count = stream.add(data)
        last = not stream.room
        self._unread += count
        self._looks += 1
        if self._looks <= MAX_LOOKS or self._unread >= STEP or last:
            found = self._read(last=False) or found
        if last and not self.done:
            found = self._read(last=True) or found
        if self._turns.possible:
            self._turns.add(ours, count)
            if self._found is None and self._turns.handshake(self._ours.data, self._theirs.data):
                self.done = True
                found = Finding(
                    protocol="stratum", stratum_dialect="v2", certain=False, from_peer=self._turns.from_peer
                )
        self.done = self.done or last or (len(self._shut) == 2 and not (self._turns.possible and not self._found))
        return found

    def end(self) -> Finding | None:
        found = self._read(last=False) if self._unread else None
        if not self.done:
            found = self._read(last=True) or found
        self.done = True
        return found

    def _read(self, last: bool) -> Finding | None:
        """What the streams say now, down to the innermost protocol, if it is new."""
        new = None
        self._unread = 0
        while True:
            dialogue = self._dialogue or self._open()
            if dialogue is None:
                return new
            found = dialogue.look(last)
            if found is not None:
                self._found = found
                new = within(found, self._carriers[-1]) if self._carriers else found
                self._silent = False
            if dialogue.state is State.MISS or (last and self._silent):
                self._dialogue = None
                self._shut.add(dialogue.client.ours)
            elif dialogue.state is State.CARRIES and len(self._carriers) < MAX_DEPTH and self._found:
                self._enter(dialogue, self._found)
            else:
                self.done = dialogue.state is not State.READING
                return new

    def _open(self) -> Dialogue | None:
        for stream, other in ((self._ours, self._theirs), (self._theirs, self._ours)):
            if stream.ours in self._shut:
                continue
            protocol = opening(stream.data)
            if protocol is State.MISS:
                self._shut.add(stream.ours)
            elif not isinstance(protocol, State):
                self._dialogue = protocol(stream, other)
                self._silent = True
                return self._dialogue
        return None

    def _enter(self, carrier: Dialogue, said: Finding) -> None:
        """What is left in the streams is what `carrier`, of which `said` is known, carries."""
        self._carriers.append(within(said, self._carriers[-1]) if self._carriers else said)
        self._shut.clear()
        self._dialogue = carrier.carries(carrier.client, carrier.server) if carrier.carries else None
        self._silent = True


class _Datagrams:
    """A UDP flow."""

    __slots__ = ("_client", "_count", "_port", "_quic", "done")

    def __init__(self, port: int) -> None:
        self._port = port
        self._count = {True: 0, False: 0}
        self._client: bool | None = None
        self._quic: list[bytes] = []
        """The first datagrams of the side that spoke first, while they may be QUIC's."""
        self.done = False

    def add(self, ours: bool, data: bytes) -> Finding | None:
        if self._client is None:
            self._client = ours
        self._count[ours] += 1
        last = self._count[ours] >= MAX_DATAGRAMS
        found = query(data, not ours, leftover=self._port == _DNS) or wireguard.handshake(data, not ours)
        if found is None and ours is self._client and len(self._quic) == self._count[ours] - 1 and data[0] & _LONG:
            self._quic.append(data[:LIMIT])
            found = self._read_quic(last)
        self.done = found is not None or last or not (self._quic or 0 in self._count.values())
        return found

    def end(self) -> Finding | None:
        self.done = True
        return self._read_quic(last=True) if self._quic else None

    def _read_quic(self, last: bool) -> Finding | None:
        found = secure.quic(self._quic, last, not self._client)
        if found is State.MISS:
            self._quic.clear()
        return found if isinstance(found, Finding) else None
