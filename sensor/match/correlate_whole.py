"""Windows judged as a whole: for conditions that one event more can also make false, such as `lt`, `not`, averages.

A group's window opens with its first event and lasts a timespan; it is judged once nothing more can come into it,
and the next opens with the next event. So a group fires at most once in a timespan, and each event counts once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

from sensor.match import ir
from sensor.match.correlate_entry import COMPARISONS, Group, Number, Occurrence

VALUES = 2048
"""How many numbers of one window a median or percentile is taken of; those after them are counted as evicted."""
WAITING = 4096
"""How many occurrences of one correlation wait for others to come before them. Past that the oldest wait no more."""


class Item(NamedTuple):
    """One occurrence, for one group."""

    time: int
    arrival: int
    occurrence: Occurrence
    group: Group
    feed: int
    weight: Number
    values: tuple[Hashable, ...]


class Sum(Protocol):
    """What a window comes to."""

    size: int
    """How many values it holds."""
    left_out: int
    """How many it had no room for."""

    def add(self, item: Item) -> None: ...
    def holds(self) -> bool: ...


class _Sum:
    size = 0
    left_out = 0

    def __init__(self, condition: ir.Correlation) -> None:
        self._condition = condition

    def _compares(self, value: float | Number) -> bool:
        return COMPARISONS[self._condition.comparison](value, self._condition.number)


class _Total(_Sum):
    """event_count, value_sum."""

    _total: Number = 0

    def add(self, item: Item) -> None:
        self._total += item.weight

    def holds(self) -> bool:
        return self._compares(self._total)


class _Distinct(_Sum):
    """value_count, temporal."""

    def __init__(self, condition: ir.Correlation) -> None:
        super().__init__(condition)
        self._enough = condition.number + 1
        self._seen: set[Hashable] = set()

    def add(self, item: Item) -> None:
        for value in item.values:
            if len(self._seen) < self._enough:  # one more decides nothing
                self._seen.add(value)
        self.size = len(self._seen)

    def holds(self) -> bool:
        return self._compares(self.size)


class _Numbers(_Sum):
    """value_avg, value_median and value_percentile, the last with linear interpolation: its 50 is the median."""

    def __init__(self, condition: ir.Correlation) -> None:
        super().__init__(condition)
        self._total: Number = 0
        self._count = 0
        self._numbers: list[Number] = []

    def add(self, item: Item) -> None:
        self._count += 1
        self._total += item.weight
        if self._condition.type == "value_avg":
            return
        if len(self._numbers) < VALUES:
            insort(self._numbers, item.weight)
            self.size += 1
        else:
            self.left_out += 1

    def holds(self) -> bool:
        return self._compares(self._value())

    def _value(self) -> float:
        if self._condition.type == "value_avg":
            return float(self._total) / self._count
        percentile = 50 if self._condition.percentile is None else self._condition.percentile
        place, rest = divmod((len(self._numbers) - 1) * percentile, 100)
        low = float(self._numbers[place])
        return low + (float(self._numbers[place + 1]) - low) * rest / 100 if rest else low


class _Longest(_Sum):
    """temporal_ordered with a count: of how many rules, in their order, events followed one another."""

    def __init__(self, condition: ir.Correlation) -> None:
        super().__init__(condition)
        self._longest = [0] * len(condition.order)
        self._before = self._longest
        self._event = -1

    def add(self, item: Item) -> None:
        if item.occurrence.number != self._event:  # an event does not follow itself
            self._event = item.occurrence.number
            self._before = self._longest.copy()
        for place, feed in enumerate(self._condition.order):
            if feed == item.feed:
                found = 1 + max(self._before[:place], default=0)
                self._longest[place] = max(self._longest[place], found)

    def holds(self) -> bool:
        return self._compares(max(self._longest))


class _Alternatives(_Sum):
    """temporal and temporal_ordered with `not`."""

    def __init__(self, condition: ir.Correlation) -> None:
        super().__init__(condition)
        self._alternatives = condition.alternatives
        self._is_ordered = condition.type == "temporal_ordered"
        self._seen: set[int] = set()
        self._progress = [0] * len(condition.alternatives)
        self._last = [-1] * len(condition.alternatives)

    def add(self, item: Item) -> None:
        self._seen.add(item.feed)
        if not self._is_ordered:
            return
        event = item.occurrence.number
        for place, alternative in enumerate(self._alternatives):
            done = self._progress[place]
            follows = event != self._last[place]
            if follows and done < len(alternative.needs) and alternative.needs[done] == item.feed:
                self._progress[place] = done + 1
                self._last[place] = event

    def holds(self) -> bool:
        return any(
            self._seen.isdisjoint(alternative.without)
            and (progress == len(alternative.needs) if self._is_ordered else self._seen.issuperset(alternative.needs))
            for alternative, progress in zip(self._alternatives, self._progress, strict=True)
        )


def sum_of(condition: ir.Correlation) -> Callable[[], Sum]:
    """What makes an empty sum for a window of `condition`."""
    kinds: dict[ir.CorrelationType, type[_Total | _Distinct | _Numbers]] = {
        "event_count": _Total,
        "value_sum": _Total,
        "value_count": _Distinct,
        "temporal": _Distinct,
    }
    if condition.alternatives:
        return lambda: _Alternatives(condition)
    if condition.type == "temporal_ordered":
        return lambda: _Longest(condition)
    kind = kinds.get(condition.type, _Numbers)
    return lambda: kind(condition)


class Window:
    """An open window."""

    __slots__ = ("last", "start", "sum")

    def __init__(self, first: Item, empty: Sum) -> None:
        self.start = first.time
        self.sum = empty
        self.last = first

    def add(self, item: Item) -> None:
        self.sum.add(item)
        self.last = max(self.last, item)


class Whole:
    """The windows of one correlation, and the occurrences that wait until nothing earlier can come."""

    def __init__(self, condition: ir.Correlation) -> None:
        self.open: OrderedDict[Group, Window] = OrderedDict()
        """In the order of their beginnings."""
        self.held = 0
        """How many occurrences and values are kept."""
        self.evicted = 0
        """How many values or windows there was no room for."""
        self._waiting: list[Item] = []
        self._timespan = condition.timespan
        self._empty = sum_of(condition)
        self._settled = 0

    def add(self, item: Item) -> bool:
        """False: `item` came so late that its window may be over."""
        if item.time >= self._settled:
            insort(self._waiting, item)
            self.held += 1
            return True
        window = self.open.get(item.group)
        if window is not None and window.start <= item.time:
            self._count(window, item)
        return False

    def due(self) -> int | None:
        """The time that must be settled for the next window to be judged; None where none is open."""
        if self.open:
            return next(iter(self.open.values())).start + self._timespan
        return self._waiting[0].time + self._timespan if self._waiting else None

    def settle(self, settled: int) -> list[Item]:
        """Nothing earlier than `settled` is to be expected. Gives the last item of each window that fires."""
        settled = max(settled, self._settled)
        if len(self._waiting) > WAITING:
            settled = max(settled, self._waiting[-WAITING].time)
        self._settled = settled
        fired: list[Item] = []
        ready = bisect_left(self._waiting, (settled,))
        for item in self._waiting[:ready]:
            fired += self._judge(item.time)
            window = self.open.get(item.group)
            if window is None:
                window = self.open[item.group] = Window(item, self._empty())
            self._count(window, item)
        del self._waiting[:ready]
        self.held -= ready
        return fired + self._judge(settled)

    def evict(self) -> None:
        """Let go of the oldest window unjudged, or, where none is open, of what has waited longest."""
        if self.open:
            self._close(next(iter(self.open)))
            self.evicted += 1
        elif self._waiting:
            gone = max(1, len(self._waiting) // 2)
            del self._waiting[:gone]
            self.held -= gone
            self.evicted += gone

    def _count(self, window: Window, item: Item) -> None:
        before = window.sum.size
        window.add(item)
        self.held += window.sum.size - before

    def _close(self, group: Group) -> Window:
        window = self.open.pop(group)
        self.held -= window.sum.size
        self.evicted += window.sum.left_out
        return window

    def _judge(self, until: int) -> list[Item]:
        fired: list[Item] = []
        while self.open:
            group, window = next(iter(self.open.items()))
            if window.start + self._timespan > until:
                break
            self._close(group)
            if window.sum.holds():
                fired.append(window.last)
        return fired
