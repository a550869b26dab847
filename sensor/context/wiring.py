"""Who is at the other end of a program's standard streams: pipes, ptys and unix sockets followed to a connection.

Pure: judges what one look at the descriptors of some processes found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TypeAlias

import msgspec

from sensor import wire
from sensor.context.held import HeldEnd

_HOPS = 4
"""Programs between the connection and the one that it feeds: `nc | base64 -d | tr | sh`."""
_KINDS = {wire.PIPE: "pipe", wire.PTY: "pty", wire.UNIX: "unix", wire.INTERNET: "socket"}

Who: TypeAlias = tuple[int, int]
"""(tgid, start)"""


class Wired(msgspec.Struct, frozen=True):
    """A process whose standard input comes from a connection, and whose output goes to it."""

    process: HeldEnd
    """Its standard input."""
    connection: int
    """The socket's cookie."""
    kind: str
    """Of its standard input: pipe, pty, unix or, where that is the connection itself, socket."""
    feeder: Who
    """Who holds the connection and feeds the process, itself or through others."""
    by_stdio: bool
    """The feeder has the ends, or the connection, as its own standard streams: somebody put it between."""
    only_connection: bool
    """It holds no other internet socket."""


class Ends:
    """The ends that some processes hold."""

    def __init__(self, ends: Iterable[HeldEnd]) -> None:
        self.by_process: defaultdict[Who, dict[int, HeldEnd]] = defaultdict(dict)
        self._holders: defaultdict[tuple[int, int], list[HeldEnd]] = defaultdict(list)
        self._others: dict[tuple[int, int, int, bool], list[HeldEnd]] = {}
        for end in ends:
            self.by_process[end.tgid, end.start][end.fd] = end
            self._holders[end.kind, end.object].append(end)

    def holders(self, connection: int) -> set[Who]:
        """The processes that hold this internet socket."""
        return {(end.tgid, end.start) for end in self._holders.get((wire.INTERNET, connection), ())}

    def others(self, end: HeldEnd, *, givers: bool) -> list[HeldEnd]:
        """The ends of other processes from which what is read at `end` comes, or to which goes what is written."""
        key = (end.kind, end.object, end.role, givers)
        found = self._others.get(key)
        if found is None:  # a terminal may have a thousand holders, each of which asks
            found = self._others[key] = self._across(end, givers)
        return [other for other in found if (other.tgid, other.start) != (end.tgid, end.start)]

    def _across(self, end: HeldEnd, givers: bool) -> list[HeldEnd]:
        if end.kind == wire.INTERNET:
            return []
        found = self._holders.get((end.kind, end.peer if end.kind == wire.UNIX else end.object), [])
        if end.kind == wire.PIPE:
            near, far = (wire.READ, wire.WRITE) if givers else (wire.WRITE, wire.READ)
            return [other for other in found if other.role & far] if end.role & near else []
        return [other for other in found if other.role != end.role] if end.kind == wire.PTY else found

    def reach(self, end: HeldEnd, *, givers: bool) -> Iterator[list[HeldEnd]]:
        """The ends of other processes up- or downstream of `end`, the nearest first, level by level."""
        stream = 0 if givers else 1
        level, seen = [end], {(end.tgid, end.start)}
        for _ in range(_HOPS):
            others = [other for near in level for other in self.others(near, givers=givers)]
            if not others:
                return
            yield others
            beyond = {(other.tgid, other.start) for other in others} - seen
            seen |= beyond
            level = [self.by_process[who][stream] for who in beyond if stream in self.by_process[who]]

    def nearest(self, end: HeldEnd, holders: Collection[Who], *, givers: bool) -> list[HeldEnd]:
        """The nearest of them that belong to `holders`."""
        for level in self.reach(end, givers=givers):
            found = [other for other in level if (other.tgid, other.start) in holders]
            if found:
                return found
        return []

    def below(self) -> dict[Who, set[Who]]:
        """Which processes each process feeds, itself or through others."""
        fed: defaultdict[Who, set[Who]] = defaultdict(set)
        for who, own in self.by_process.items():
            if 0 in own:
                for level in self.reach(own[0], givers=True):
                    for other in level:
                        fed[other.tgid, other.start].add(who)
        return fed


def wired(found: Iterable[HeldEnd], connections: Collection[int]) -> list[Wired]:
    """Every process that one of `connections` feeds and hears; of a process and its children on the same streams
    the uppermost alone.
    """
    ends = Ends(found)
    below = ends.below()
    told: list[Wired] = []
    for connection in connections:
        holders = ends.holders(connection)
        near = holders.union(*(below.get(who, ()) for who in holders))
        feeds = [feed for who in near if (feed := _feed(ends, who, connection, holders))]
        fed = {(feed.process.tgid, feed.process.start): feed.process.object for feed in feeds}
        told += [feed for feed in feeds if fed.get(feed.process.parent) != feed.process.object]
    return told


def _feed(ends: Ends, who: Who, connection: int, holders: set[Who]) -> Wired | None:
    own = ends.by_process[who]
    stdin = own.get(0)
    if stdin is None:
        return None
    if stdin.kind == wire.INTERNET:
        hears = any(own[fd].object == connection for fd in (1, 2) if fd in own)
        if stdin.object != connection or not hears:
            return None
        return Wired(stdin, connection, "socket", who, True, _is_only(ends, who))
    givers = ends.nearest(stdin, holders - {who}, givers=True)
    if not givers:
        return None
    takers = [end for fd in (1, 2) if fd in own for end in ends.nearest(own[fd], holders - {who}, givers=False)]
    if not takers and who not in holders:
        return None
    feeder = min(givers, key=lambda end: (end.fd != 1, end.tgid))
    between = _is_between(ends, givers, takers)
    source = (feeder.tgid, feeder.start)
    return Wired(stdin, connection, _KINDS[stdin.kind], source, between, _is_only(ends, source))


def _is_between(ends: Ends, givers: list[HeldEnd], takers: list[HeldEnd]) -> bool:
    if any(end.fd == 1 for end in givers) and any(end.fd == 0 for end in takers):
        return True
    for end in givers:
        streams = [ends.by_process[end.tgid, end.start].get(fd) for fd in (0, 1)]
        if all(stream is not None and stream.kind == wire.INTERNET for stream in streams):
            return True
    return False


def _is_only(ends: Ends, who: Who) -> bool:
    return len({end.object for end in ends.by_process[who].values() if end.kind == wire.INTERNET}) == 1
