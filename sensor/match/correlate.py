"""Sigma correlations: verdicts on what several events come to.

Time is the kernel's (`sensor.events.kernel_time`). An event may reach the sensor up to `LATENESS` after a later
one; what comes later than that is counted as `late` and only counts in what is not decided yet. Everything kept is
bounded; what had to go is counted as `evicted`. The same events in the same order give the same verdicts.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

from sensor.events import AnyEvent, kernel_time
from sensor.match import ir
from sensor.match.correlate_entry import Entry, Group, Number, Occurrence, group_of, number_of, values_of
from sensor.match.correlate_sliding import Sliding
from sensor.match.correlate_tally import Chain, Distinct, Tally, Total
from sensor.match.correlate_whole import Item, Whole
from sensor.verdict import Verdict

LATENESS = 1_000_000_000
"""Nanoseconds of the kernel's time."""
GROUPS = 8192
"""How many groups all correlations together keep."""
ENTRIES = 65_536
"""How many entries all windows together keep."""
GROUP_ENTRIES = 2048
"""How many one group keeps, or as many as the distinct values that it waits for."""
MOST_VALUES = 16_384
"""How many distinct values a correlation may ask for."""
_END = 1 << 63

Targets: TypeAlias = tuple[tuple["Engine", int], ...]
"""The correlations that take a rule's verdicts, and as which of their feeds."""


class Correlator:
    """All correlations, and what they keep."""

    def __init__(self, rules: Iterable[ir.Rule]) -> None:
        """`rules` are correlation rules, in any order."""
        self._kept = Kept()
        self._newest = 0
        self._events = 0
        made: dict[str, Engine] = {}
        for rule in _inner_first([rule for rule in rules if rule.correlation is not None]):
            made[rule.info.id] = _engine(rule, made, self._kept)
        self._engines = list(made.values())
        self._whole = [engine for engine in self._engines if isinstance(engine, WholeEngine)]
        self._targets: dict[str, list[tuple[Engine, int]]] = {}
        for engine in self._engines:
            for place, feed in enumerate(engine.condition.feeds):
                self._targets.setdefault(feed.rule, []).append((engine, place))

    def targets(self, rule_id: str) -> Targets:
        """Who takes the verdicts of this rule."""
        return tuple(self._targets.get(rule_id, ()))

    def losses(self) -> dict[str, int]:
        """What came too late to count fully and what had to go for want of room, since the sensor began."""
        return dict(self._kept.losses)

    def take(self, event: AnyEvent, fed: Iterable[Targets]) -> list[Verdict]:
        """The correlations' verdicts, now that the rules behind `fed` matched `event`."""
        time = kernel_time(event)
        verdicts: list[Verdict] = []
        self._judge(time, verdicts)
        self._newest = max(self._newest, time)
        self._events += 1
        occurrence = Occurrence(time, self._events, event, event.repeats or 0)
        for targets in fed:
            self._feed(targets, occurrence, verdicts)
        self._make_room()
        return verdicts

    def advance(self, now: int) -> list[Verdict]:
        """The verdicts on windows that are over `now`, a kernel time; events before it have been taken."""
        verdicts: list[Verdict] = []
        self._judge(now, verdicts)
        self._settle(now, verdicts)
        return verdicts

    def finish(self) -> list[Verdict]:
        """The verdicts on all windows that are still open; no event may come after."""
        verdicts: list[Verdict] = []
        self._judge(_END - 1, verdicts)
        return verdicts

    def _judge(self, until: int, verdicts: list[Verdict]) -> None:
        """Judge windows in the order in which they end, so that correlations of these hear of them in time."""
        while self._whole and (due := min(engine.due() for engine in self._whole)) <= until:
            self._settle(due, verdicts)

    def _settle(self, now: int, verdicts: list[Verdict]) -> None:
        self._newest = max(now, self._newest)
        for engine in self._engines:
            for occurrence in engine.settle(self._newest):
                self._fire(engine, occurrence, verdicts)

    def _feed(self, targets: Iterable[tuple[Engine, int]], occurrence: Occurrence, verdicts: list[Verdict]) -> None:
        for engine, place in targets:
            for fired in engine.take(place, occurrence, self._newest):
                self._fire(engine, fired, verdicts)

    def _fire(self, engine: Engine, occurrence: Occurrence, verdicts: list[Verdict]) -> None:
        if not engine.is_silent:
            verdicts.append(Verdict(rule=engine.info, event=occurrence.event))
        self._feed(self._targets.get(engine.info.id, ()), occurrence, verdicts)

    def _make_room(self) -> None:
        """Whoever keeps most gives first, so that a flood in one correlation leaves the others alone."""
        while self._kept.groups > GROUPS:
            max(self._engines, key=lambda engine: engine.groups).evict()
        while self._kept.entries > ENTRIES:
            max(self._engines, key=lambda engine: engine.entries).evict()


class Kept:
    """What all correlations together keep, and what they could not."""

    def __init__(self) -> None:
        self.groups = 0
        self.entries = 0
        self.losses: Counter[str] = Counter({"late": 0, "evicted": 0})


class Engine:
    """One correlation."""

    def __init__(self, rule: ir.Rule, inner: Sequence[Engine], kept: Kept) -> None:
        assert rule.correlation is not None
        self.info = rule.info
        self.is_silent = rule.silent
        self.condition = rule.correlation
        self.groups = 0
        self.entries = 0
        self.slack = max([LATENESS, *(engine.delay for engine in inner)])
        """How much later than a later event one may come here, nanoseconds."""
        self._kept = kept
        self._arrivals = 0
        self._event = 0
        self._groups_of_event: set[Group] = set()

    @property
    def delay(self) -> int:
        """How much later than a later event a verdict of this correlation may come."""
        return self.slack

    def take(self, place: int, occurrence: Occurrence, newest: int) -> list[Occurrence]:
        """What this occurrence of feed `place` makes fire."""
        raise NotImplementedError

    def settle(self, newest: int) -> list[Occurrence]:
        """What fires because time goes on."""
        raise NotImplementedError

    def evict(self) -> None:
        """Let go of the group that has been quiet for longest."""
        raise NotImplementedError

    def _keep(self, groups: int, entries: int) -> None:
        self._kept.groups += groups - self.groups
        self._kept.entries += entries - self.entries
        self.groups, self.entries = groups, entries

    def _content(self, place: int, occurrence: Occurrence) -> tuple[Group, Number, tuple[Hashable, ...]] | None:
        """Group, weight and values; None where the occurrence is nothing to this correlation."""
        feed, kind = self.condition.feeds[place], self.condition.type
        group = group_of(feed, occurrence)
        if group is None:
            return None
        if kind.startswith("temporal"):
            return group, 1, (place,)
        weight: Number | None = 1 + occurrence.repeats if kind == "event_count" else 1
        values: tuple[Hashable, ...] = (None,)
        if kind == "value_count":
            values = tuple(values_of(feed, occurrence))
        elif feed.value:
            weight = number_of(feed, occurrence)
        if weight is None or not values or self._was_counted(group, occurrence):
            return None
        return group, weight, values

    def _was_counted(self, group: Group, occurrence: Occurrence) -> bool:
        """An event that several of the rules match is still one event."""
        if occurrence.number != self._event:
            self._event = occurrence.number
            self._groups_of_event.clear()
        if group in self._groups_of_event:
            return True
        self._groups_of_event.add(group)
        return False


class SlidingEngine(Engine):
    """A correlation whose condition more events can only make true."""

    def __init__(self, rule: ir.Rule, inner: Sequence[Engine], kept: Kept) -> None:
        super().__init__(rule, inner, kept)
        self._by_group: OrderedDict[Group, Sliding] = OrderedDict()
        distinct = int(self.condition.number) + 1 if self.condition.type == "value_count" else 0
        self._most = max(GROUP_ENTRIES, distinct)

    def _tally(self) -> Tally:
        if self.condition.type in ("event_count", "value_sum"):
            return Total(self.condition)
        return Chain(self.condition) if self.condition.type == "temporal_ordered" else Distinct(self.condition)

    def take(self, place: int, occurrence: Occurrence, newest: int) -> list[Occurrence]:
        content = self._content(place, occurrence)
        if content is None or content[1] <= 0:
            return []
        key, weight, values = content
        settled = newest - self.slack
        if occurrence.time < settled:
            self._kept.losses["late"] += 1
        group = self._group(key, settled)
        before = len(group.entries)
        fires = False
        for value in values:
            self._arrivals += 1
            entry = Entry(occurrence.time, self._arrivals, occurrence.number, value, weight)
            fires = group.add(entry, settled) or fires
        self._kept.losses["evicted"] += group.trim(settled, self._most, self._tally)
        self._keep(len(self._by_group), self.entries + len(group.entries) - before)
        return [occurrence._replace(group=key, repeats=0)] if fires else []

    def _group(self, key: Group, settled: int) -> Sliding:
        group = self._by_group.get(key)
        if group is None:
            self._expire(settled)
            group = self._by_group[key] = Sliding(self._tally(), self.condition.timespan)
        else:
            self._by_group.move_to_end(key)
        return group

    def settle(self, newest: int) -> list[Occurrence]:
        self._expire(newest - self.slack)
        return []

    def _expire(self, settled: int) -> None:
        while self._by_group and next(iter(self._by_group.values())).is_over(settled):
            self._drop_oldest()

    def evict(self) -> None:
        self._kept.losses["evicted"] += self._drop_oldest()

    def _drop_oldest(self) -> int:
        """How many entries went with it."""
        _, group = self._by_group.popitem(last=False)
        self._keep(len(self._by_group), self.entries - len(group.entries))
        return len(group.entries)


class WholeEngine(Engine):
    """A correlation whose windows are judged once they are over."""

    def __init__(self, rule: ir.Rule, inner: Sequence[Engine], kept: Kept) -> None:
        super().__init__(rule, inner, kept)
        self._windows = Whole(self.condition)

    @property
    def delay(self) -> int:
        return self.slack + self.condition.timespan

    def due(self) -> int:
        """When a window may next be over, a kernel time."""
        due = self._windows.due()
        return _END if due is None else due + self.slack

    def take(self, place: int, occurrence: Occurrence, newest: int) -> list[Occurrence]:
        content = self._content(place, occurrence)
        if content is None:
            return []
        group, weight, values = content
        self._arrivals += 1
        item = Item(occurrence.time, self._arrivals, occurrence, group, place, weight, values)
        if not self._windows.add(item):
            self._kept.losses["late"] += 1
        return self.settle(newest)

    def settle(self, newest: int) -> list[Occurrence]:
        fired = self._windows.settle(newest - self.slack)
        self._tell()
        return [item.occurrence._replace(group=item.group, repeats=0) for item in fired]

    def evict(self) -> None:
        self._windows.evict()
        self._tell()

    def _tell(self) -> None:
        self._keep(len(self._windows.open), self._windows.held)
        self._kept.losses["evicted"] += self._windows.evicted
        self._windows.evicted = 0


def _engine(rule: ir.Rule, made: dict[str, Engine], kept: Kept) -> Engine:
    condition = rule.correlation
    assert condition is not None
    inner = [made[feed.rule] for feed in condition.feeds if feed.rule in made]
    return (SlidingEngine if condition.grows else WholeEngine)(rule, inner, kept)


def _inner_first(rules: list[ir.Rule]) -> list[ir.Rule]:
    """Each after those that it takes verdicts of; there are no cycles."""
    known = {rule.info.id: rule for rule in rules}
    ordered: dict[str, ir.Rule] = {}

    def place(rule: ir.Rule) -> None:
        if rule.info.id in ordered or rule.correlation is None:
            return
        for feed in rule.correlation.feeds:
            if feed.rule in known:
                place(known[feed.rule])
        ordered[rule.info.id] = rule

    for rule in rules:
        place(rule)
    return list(ordered.values())
