"""What a window that slides holds at the moment, for conditions that more events can only make true.

A tally follows a window whose entries enter and leave at both ends: `push` and `pop` at the newest, `shift` and
`unshift` at the oldest. `thin` says which entries can still matter.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby
from typing import Protocol

from sensor.match import ir
from sensor.match.correlate_entry import COMPARISONS, Entry, Number


class Tally(Protocol):
    """See above."""

    def push(self, entry: Entry) -> None: ...
    def pop(self, entry: Entry) -> None: ...
    def shift(self, entry: Entry) -> None: ...
    def unshift(self, entry: Entry) -> None: ...
    def holds(self) -> bool: ...

    def thin(self, past: Sequence[Entry], recent: Sequence[Entry]) -> list[Entry]:
        """The entries that can still matter, in order, where no window that ends within `past` will be asked for."""
        ...

    def squeeze(self, entries: list[Entry], most: int) -> tuple[list[Entry], int]:
        """At most so many entries, those that matter most, and how many of the others might have mattered."""
        ...


class Total:
    """event_count and value_sum: the entries' weights, all above zero, added up."""

    def __init__(self, condition: ir.Correlation) -> None:
        self._compare = COMPARISONS[condition.comparison]
        self._number = condition.number
        self._total: Number = 0

    def push(self, entry: Entry) -> None:
        self._total += entry.weight

    def pop(self, entry: Entry) -> None:
        self._total -= entry.weight

    shift = pop
    unshift = push

    def holds(self) -> bool:
        return self._compare(self._total, self._number)

    def thin(self, past: Sequence[Entry], recent: Sequence[Entry]) -> list[Entry]:
        total: Number = 0
        for place in range(len(past) - 1, -1, -1):
            total += past[place].weight
            if self._compare(total, self._number):
                return [*past[place:], *recent]
        return [*past, *recent]

    def squeeze(self, entries: list[Entry], most: int) -> tuple[list[Entry], int]:
        """Neighbours become one, at the later one's time: no weight is lost, only when it leaves is less exact."""
        while len(entries) > most:
            odd = entries[:1] if len(entries) % 2 else []
            pairs = zip(entries[len(odd) :: 2], entries[len(odd) + 1 :: 2], strict=True)
            entries = [*odd, *(late._replace(weight=early.weight + late.weight) for early, late in pairs)]
        return entries, 0


class Distinct:
    """value_count and temporal: which keys are there."""

    def __init__(self, condition: ir.Correlation) -> None:
        self._compare = COMPARISONS[condition.comparison]
        self._number = condition.number
        self._timespan = condition.timespan
        self._alternatives = [alternative.needs for alternative in condition.alternatives]
        self._counts: Counter[Hashable] = Counter()

    def push(self, entry: Entry) -> None:
        self._counts[entry.key] += 1

    def pop(self, entry: Entry) -> None:
        self._counts[entry.key] -= 1
        if not self._counts[entry.key]:
            del self._counts[entry.key]

    shift = pop
    unshift = push

    def holds(self) -> bool:
        if self._alternatives:
            return any(all(key in self._counts for key in needs) for needs in self._alternatives)
        return self._compare(len(self._counts), self._number)

    def thin(self, past: Sequence[Entry], recent: Sequence[Entry]) -> list[Entry]:
        kept: dict[Hashable, list[Entry]] = {}
        for entry in reversed(past):  # of the past only each key's last entry counts, and of keys the last few
            if kept and not self._alternatives and self._compare(len(kept), self._number):
                break
            kept.setdefault(entry.key, [entry])
        for entry in recent:
            row = kept.setdefault(entry.key, [])
            if len(row) > 1 and entry.time - row[-2].time < self._timespan:
                row[-1] = entry  # between these two the key is in every window anyway
            else:
                row.append(entry)
        return sorted(entry for row in kept.values() for entry in row)

    def squeeze(self, entries: list[Entry], most: int) -> tuple[list[Entry], int]:
        return entries[-most:], max(0, len(entries) - most)


class Chain:
    """temporal_ordered: one event of each rule, each later than the one before."""

    def __init__(self, condition: ir.Correlation) -> None:
        self._alternatives = [alternative.needs for alternative in condition.alternatives]
        self._rows: dict[Hashable, deque[Entry]] = {key: deque() for key in range(len(condition.feeds))}

    def push(self, entry: Entry) -> None:
        self._rows[entry.key].append(entry)

    def pop(self, entry: Entry) -> None:
        self._rows[entry.key].pop()

    def shift(self, entry: Entry) -> None:
        self._rows[entry.key].popleft()

    def unshift(self, entry: Entry) -> None:
        self._rows[entry.key].appendleft(entry)

    def holds(self) -> bool:
        return any(map(self._is_complete, self._alternatives))

    def _is_complete(self, needs: tuple[int, ...]) -> bool:
        """Backwards, and each as late as can be: that leaves the most room for those before it."""
        after: Entry | None = None
        for key in reversed(needs):
            after = _last_before(self._rows[key], after)
            if after is None:
                return False
        return True

    def thin(self, past: Sequence[Entry], recent: Sequence[Entry]) -> list[Entry]:
        """Of the past only what `_is_complete` can come upon: each rule's last entry, those before these, and so on."""
        rows: dict[Hashable, list[Entry]] = {}
        for entry in past:
            rows.setdefault(entry.key, []).append(entry)
        kept: set[Entry] = set()
        edge: Iterable[Entry | None] = [None]
        for _ in range(max(map(len, self._alternatives))):
            found = {_last_before(row, after) for after in edge for row in rows.values()}
            new = {entry for entry in found if entry is not None} - kept
            kept |= new
            edge = new
        return [*sorted(kept), *recent]

    def squeeze(self, entries: list[Entry], most: int) -> tuple[list[Entry], int]:
        """First what lies within a row of the same rule's entries; then the oldest."""
        longest = max(map(len, self._alternatives))
        kept: list[Entry] = []
        for _, found in groupby(entries, key=lambda entry: entry.key):
            row = list(found)
            kept += row if len(row) <= longest else [row[0], *row[-longest:]]
        return kept[-most:], max(0, len(kept) - most)


def _last_before(row: Sequence[Entry], after: Entry | None) -> Entry | None:
    """The last entry of an event that came before that of `after`; of any event where that is None."""
    place = len(row) if after is None else bisect_left(row, (after.time, after.event), key=_when)
    return row[place - 1] if place else None


def _when(entry: Entry) -> tuple[int, int]:
    return entry.time, entry.event
