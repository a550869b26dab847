"""Connections that may steer a program of this host, and when to look whose standard streams they feed.

A look costs a walk over the descriptors of the node. So there is one only where a flow that was opened here says
nothing known, or belongs to a program that runs between pipes; a few of each, and more when a program begins beside it.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from itertools import islice

import msgspec

from sensor import wire
from sensor.context.held import HeldEnd
from sensor.context.wiring import Who, Wired, wired
from sensor.decode import Ends, Exec, FlowTotals, Payload

_SECOND = 1_000_000_000
_LOOKS = (_SECOND * 3 // 10, 2 * _SECOND, 10 * _SECOND, 60 * _SECOND)
"""After the first words: a split handshake is whole by the first, and a relay may do its wiring later."""
_APART = _SECOND // 2
_SHARE = 50
"""Looks take at most one part in so many of the sensor's time."""
_AT_ONCE = 256
_CGROUPS = 8
_NEVER = 1 << 63


class Suspect(msgspec.Struct):
    """A flow that was opened here."""

    ends: Ends
    owner: Who
    cgroups: set[int]
    """Where to look: its socket's, and those of programs that began below its owner."""
    due: int
    looks: int = 1
    """How many there were once that of `due` is over."""


class Remote:
    """Keeps at most `limit` flows and as many programs that one of them feeds; the oldest go first."""

    def __init__(self, limit: int = 1024) -> None:
        self.evicted = 0
        """Flows that were let go before there was a look."""
        self.failed = 0
        """Looks that came to nothing."""
        self._limit = limit
        self._rest = 0
        self._looking: list[Suspect] = []
        self._suspects: OrderedDict[int, Suspect] = OrderedDict()
        self._places: defaultdict[int | Who, set[int]] = defaultdict(set)
        """Cookies by cgroup and by owner."""
        self._again: dict[int | Who, tuple[int, int]] = {}
        """When to look once more because something began at a place, and in which cgroup that was."""
        self._told: OrderedDict[Who, dict[int, tuple[Suspect, Wired]]] = OrderedDict()
        """What was told, by program and cookie."""
        self._idle: set[Who] = set()
        """Those of whom it is not known yet that they run other programs."""

    def __contains__(self, cookie: int) -> bool:
        return cookie in self._suspects

    def spoke(self, raw: Payload, scope: str) -> None:
        """A flow that may steer a program said its first words; `scope` is where its peer is."""
        if scope not in ("private", "external"):
            return
        cookie = raw.ends.cookie
        suspect = Suspect(raw.ends, (raw.tgid, raw.start), {raw.cgroup_id}, raw.time + _LOOKS[0])
        self._suspects[cookie] = suspect
        self._places[raw.cgroup_id].add(cookie)
        self._places[suspect.owner].add(cookie)
        if len(self._suspects) > self._limit:
            oldest = next(iter(self._suspects))
            self.evicted += self._suspects[oldest].looks == 1
            self._drop(oldest)

    def started(self, raw: Exec) -> list[tuple[Suspect, Wired]]:
        """A program began: it may be fed, so look. Gives what was told of its parent, if it is the first it runs."""
        if raw.fed and self._suspects:
            places: tuple[int | Who, ...] = (raw.cgroup_id, *raw.ancestors)
            for place in places:
                if place in self._places:
                    self._again.setdefault(place, (raw.time + _LOOKS[0], raw.cgroup_id))
        if not self._idle or not raw.ancestors or raw.ancestors[0] not in self._idle:
            return []
        self._idle.remove(raw.ancestors[0])
        return list(self._told[raw.ancestors[0]].values())

    def exited(self, who: Who) -> None:
        """Its last thread ended."""
        if self._told.pop(who, None):
            self._idle.discard(who)

    def ended(self, raw: FlowTotals) -> None:
        """A flow was closed, or is open for another minute."""
        if raw.closed and raw.ends.cookie in self._suspects:
            self._drop(raw.ends.cookie)

    def due(self, now: int) -> list[int]:
        """The cgroups in which to look now, none for most of the time. `now` is CLOCK_BOOTTIME in nanoseconds."""
        if now < self._rest or not self._suspects:
            return []
        for place, cgroup_id in [(place, again[1]) for place, again in self._again.items() if again[0] <= now]:
            del self._again[place]
            for cookie in self._places.get(place, ()):
                suspect = self._suspects[cookie]
                suspect.due = now
                if len(suspect.cgroups) < _CGROUPS:
                    suspect.cgroups.add(cgroup_id)
        due = (suspect for suspect in self._suspects.values() if suspect.due <= now)
        self._looking = list(islice(due, _AT_ONCE))
        return list(set().union(*(suspect.cgroups for suspect in self._looking)))

    def looked(self, found: list[HeldEnd], now: int, took: int) -> list[tuple[Suspect, Wired]]:
        """The programs that a look at the cgroups which `due` named found to be fed, each once. `took`: how long it
        lasted, nanoseconds.
        """
        self._rest = now + max(_APART, took * _SHARE)
        held = {end.object for end in found if end.kind == wire.INTERNET}
        looking = {suspect.ends.cookie: suspect for suspect in self._looking}
        for cookie, suspect in looking.items():
            suspect.due = now + _LOOKS[suspect.looks] if suspect.looks < len(_LOOKS) else _NEVER
            suspect.looks += 1
            if found and cookie not in held and cookie in self._suspects:
                self._drop(cookie)  # closed, and its end was summed up in another's
        return [(looking[each.connection], each) for each in wired(found, looking) if self._tell(looking, each)]

    def _tell(self, looking: dict[int, Suspect], each: Wired) -> bool:
        """Whether this is new."""
        who = (each.process.tgid, each.process.start)
        if each.connection in self._told.get(who, ()):
            return False
        if who not in self._told:
            self._idle.add(who)
        self._told.setdefault(who, {})[each.connection] = (looking[each.connection], each)
        if len(self._told) > self._limit:
            self._idle.discard(self._told.popitem(last=False)[0])
        return True

    def _drop(self, cookie: int) -> None:
        suspect = self._suspects.pop(cookie)
        places: tuple[int | Who, ...] = (*suspect.cgroups, suspect.owner)
        for place in places:
            if place in self._places:
                self._places[place].discard(cookie)
                if not self._places[place]:
                    del self._places[place]
