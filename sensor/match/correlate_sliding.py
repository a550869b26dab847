"""Windows that slide with the events: conditions that more events can only make true, decided on every event.

A window is the `timespan` up to an event, its beginning excluded. A group fires at the first event whose window
satisfies the condition, and again at the earliest a timespan later, so at most once in any timespan. Events need
not come in the order of their times: one that comes late takes its place, and what follows it is decided anew.
One event more can only bring each firing forward, so how many there are does not depend on the order of arrival;
a firing already told is not told again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from sensor.match.correlate_entry import Entry
from sensor.match.correlate_tally import Tally

_ROOM = 64


class Sliding:
    """The entries of one group, and what they came to."""

    __slots__ = ("_fired", "_left", "_room", "_tally", "_timespan", "entries")

    def __init__(self, tally: Tally, timespan: int) -> None:
        self.entries: list[Entry] = []
        """In order; never empty once something was added."""
        self._tally = tally
        self._timespan = timespan
        self._left = 0
        self._fired: list[int] = []
        self._room = _ROOM

    def add(self, entry: Entry, settled: int) -> bool:
        """Take `entry` in; True where the group fires for it. Nothing earlier than `settled` is to be expected."""
        fired = self._fired
        while len(fired) > 1 and fired[1] < settled:
            del fired[0]
        if not self.entries or self.entries[-1] < entry:
            self.entries.append(entry)
            return self._step(entry)
        before = len(fired)
        place = self._go_back(entry)
        self.entries.insert(place, entry)
        for later in self.entries[place:]:
            self._step(later)
        return len(fired) > before

    def _step(self, entry: Entry) -> bool:
        """Let the window end at `entry`, the next in order."""
        self._tally.push(entry)
        outside = entry.time - self._timespan
        while self.entries[self._left].time <= outside:
            self._tally.shift(self.entries[self._left])
            self._left += 1
        if self._fired and entry.time < self._fired[-1] + self._timespan:
            return False
        if not self._tally.holds():
            return False
        self._fired.append(entry.time)
        return True

    def _go_back(self, entry: Entry) -> int:
        """Undo all steps later than `entry`; gives its place."""
        place = bisect_left(self.entries, entry)
        outside = entry.time - self._timespan
        while self._left and self.entries[self._left - 1].time > outside:
            self._left -= 1
            self._tally.unshift(self.entries[self._left])
        for later in reversed(self.entries[place:]):
            self._tally.pop(later)
        while self._fired and self._fired[-1] >= entry.time:
            self._fired.pop()
        return place

    def is_over(self, settled: int) -> bool:
        """Nothing in it can matter to what is still to come."""
        return self.entries[-1].time <= settled - self._timespan

    def trim(self, settled: int, most: int, tally: Callable[[], Tally]) -> int:
        """Let go of what cannot matter any more, and of the oldest where more than `most` are left: how many those are.

        `tally` makes an empty one.
        """
        if self._left > _ROOM and self._left * 2 > len(self.entries):
            past = min(self._left, bisect_left(self.entries, (settled - self._timespan,)))
            del self.entries[:past]
            self._left -= past
        if len(self.entries) <= self._room:
            return 0
        kept = self._thinned(settled)
        kept, evicted = self._tally.squeeze(kept, most) if len(kept) > most else (kept, 0)
        self._rebuild(kept, tally())
        self._room = max(_ROOM, 2 * len(self.entries))
        return evicted

    def _thinned(self, settled: int) -> list[Entry]:
        """Without what no window that may still be asked for needs.

        A firing that is settled silences the timespan after it. One that is not may still move, but no further back
        than `settled`, so what follows it is silent until a timespan after that.
        """
        entries, fired = self.entries, self._fired
        was_settled = bool(fired) and fired[0] < settled
        silent = max(settled, fired[0] + self._timespan) if was_settled else settled
        edge = bisect_left(entries, (silent,))
        unsettled = fired[was_settled:]
        if len(unsettled) != 1:
            return self._tally.thin(entries[:edge], entries[edge:])
        first = max(edge, bisect_left(entries, (unsettled[0] + 1,)))
        last = max(first, bisect_left(entries, (settled + self._timespan,)))
        return [
            *self._tally.thin(entries[:edge], entries[edge:first]),
            *self._tally.thin(entries[first:last], entries[last:]),
        ]

    def _rebuild(self, entries: list[Entry], tally: Tally) -> None:
        self.entries, self._tally, self._left = entries, tally, 0
        outside = entries[-1].time - self._timespan
        for entry in entries:
            tally.push(entry)
        while entries[self._left].time <= outside:
            tally.shift(entries[self._left])
            self._left += 1
