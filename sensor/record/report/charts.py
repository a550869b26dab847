"""Where things stand in the page's plots: coordinates only; the template draws them, and so escapes all text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from sensor.events import parse_rfc3339, rfc3339
from sensor.record.report.cases import NOT_STOPPED, WORST
from sensor.record.report.model import Incident, Latency, Report, Row

LANES = 12
"""Agents in one plot; the rest share a lane."""
_BIN = 12
"""Incidents that are closer together than this share a mark."""
LOWEST_MS = 0.01
_HIGHEST_DECADE = 8
_BINS_A_DECADE = 4
_ROW = 44
_LEFT = 6
_TOP = 8
_AXIS = 40


class Tick(msgspec.Struct, frozen=True):
    x: float
    label: str
    anchor: str = "middle"


class Range(msgspec.Struct, frozen=True):
    """One latency: from median to worst."""

    y: float
    median: float
    p99: float
    worst: float
    words: str


class RangeRow(msgspec.Struct, frozen=True):
    name: str
    y: float
    known: Range | None
    stopped: Range | None


class RangePlot(msgspec.Struct, frozen=True):
    width: float
    height: float
    bottom: float
    ticks: list[Tick]
    rows: list[RangeRow]
    left_out: int


class Bar(msgspec.Struct, frozen=True):
    x: float
    y: float
    width: float
    height: float
    words: str
    count: int = 0


class Histogram(msgspec.Struct, frozen=True):
    width: float
    height: float
    bottom: float
    ticks: list[Tick]
    bars: list[Bar]
    highest: int


class Mark(msgspec.Struct, frozen=True):
    x: float
    y: float
    radius: float
    outcome: str
    words: str


class Lane(msgspec.Struct, frozen=True):
    name: str
    y: float


class Timeline(msgspec.Struct, frozen=True):
    width: float
    height: float
    bottom: float
    ticks: list[Tick]
    lanes: list[Lane]
    marks: list[Mark]
    gaps: list[Bar]


class LogAxis:
    """Milliseconds -> x, over whole decades."""

    def __init__(self, values: Iterable[float], left: float, right: float) -> None:
        logs = [math.log10(max(value, LOWEST_MS)) for value in values]
        self._low = math.floor(min(logs, default=-1))
        self._high = min(max(math.ceil(max(logs, default=3) + 1e-9), self._low + 2), _HIGHEST_DECADE)
        self._left, self._right = left, right

    def x(self, milliseconds: float) -> float:
        place = (math.log10(max(milliseconds, LOWEST_MS)) - self._low) / (self._high - self._low)
        return round(self._left + min(max(place, 0), 1) * (self._right - self._left), 1)

    def edges(self) -> list[float]:
        """Of the bins of a histogram, in milliseconds."""
        steps = (self._high - self._low) * _BINS_A_DECADE
        return [10 ** (self._low + step / _BINS_A_DECADE) for step in range(steps + 1)]

    def ticks(self) -> list[Tick]:
        ticks = []
        step = 1 if self._high - self._low <= 6 else 2
        for decade in range(self._low, self._high + 1, step):
            anchor = "start" if decade == self._low else "end" if decade == self._high else "middle"
            ticks.append(Tick(self.x(10.0**decade), decade_label(decade), anchor))
        return ticks


def decade_label(decade: int) -> str:
    """10 to the power of `decade`, in ms or s."""
    number, unit = (10.0**decade, "ms") if decade < 3 else (10.0 ** (decade - 3), "s")
    return f"{number:,.{max(0, -decade)}f} {unit}"


def ranges(rows: Sequence[Row], width: float) -> RangePlot | None:
    """Median, p99 and worst of each row that has any; None where none has."""
    measured = [row for row in rows if row.known.count or row.stopped.count]
    shown = measured[:LANES]
    if not shown:
        return None
    axis = LogAxis(_values(shown), _LEFT, width - _LEFT)
    made = []
    for number, row in enumerate(shown):
        y = _TOP + number * _ROW
        known, stopped = _range(axis, row.known, y + 22), _range(axis, row.stopped, y + 33)
        made.append(RangeRow(row.name or "(none named)", y + 12, known, stopped))
    bottom = _TOP + len(shown) * _ROW
    return RangePlot(width, bottom + _AXIS, bottom, axis.ticks(), made, len(measured) - len(shown))


def _values(rows: Iterable[Row]) -> list[float]:
    every = [one for row in rows for one in (row.known, row.stopped)]
    return [value for one in every for value in (one.median_ms, one.worst_ms) if value is not None]


def _range(axis: LogAxis, one: Latency, y: float) -> Range | None:
    if one.median_ms is None or one.p99_ms is None or one.worst_ms is None:
        return None
    words = f"median {one.median_ms:g} ms, 99 of 100 within {one.p99_ms:g} ms, worst {one.worst_ms:g} ms"
    return Range(y, axis.x(one.median_ms), axis.x(one.p99_ms), axis.x(one.worst_ms), f"{words}, {one.count} measured")


def histogram(values: Sequence[float], every: Iterable[float], width: float, height: float) -> Histogram | None:
    """How many of `values` took how long, on the axis that `every` value has room on."""
    if not values:
        return None
    axis = LogAxis(every, _LEFT, width - _LEFT)
    edges = axis.edges()
    counts = [0] * (len(edges) - 1)
    low = math.log10(edges[0])
    for value in values:
        place = int((math.log10(max(value, LOWEST_MS)) - low) * _BINS_A_DECADE + 1e-9)
        counts[min(max(place, 0), len(counts) - 1)] += 1
    highest, top, bottom = max(counts), 18.0, height - _AXIS
    bars = []
    for start, end, number in zip(edges, edges[1:], counts, strict=False):
        if number:
            tall = max(2.0, (bottom - top) * number / highest)
            words = f"{number} of {len(values)} took {start:.3g} to {end:.3g} ms"
            wide = axis.x(end) - axis.x(start) - 2
            bars.append(Bar(axis.x(start) + 1, round(bottom - tall, 1), round(wide, 1), round(tall, 1), words, number))
    return Histogram(width, height, bottom, axis.ticks(), bars, highest)


def timeline(report: Report, width: float, ticks: int) -> Timeline:
    """Incidents by agent along the period, drills, and the times without a sensor."""
    start, end = parse_rfc3339(report.since), parse_rfc3339(report.until)
    span = max(1, end - start)

    def x(time: str) -> float:
        place = (parse_rfc3339(time) - start) / span
        return round(_LEFT + 8 + min(max(place, 0), 1) * (width - 2 * _LEFT - 16), 1)

    lanes = _lanes(report)
    bottom = _TOP + max(1, len(set(lanes.values()))) * _ROW
    named = {place: name for name, place in reversed(lanes.items())}
    shown = [
        Lane("other agents" if place == LANES - 1 and len(lanes) > LANES else name, _TOP + place * _ROW + 12)
        for place, name in sorted(named.items())
    ]
    gaps = []
    for gap in report.watch.gaps:
        wide = max(2.0, x(gap.end) - x(gap.start))
        gaps.append(Bar(x(gap.start), _TOP, round(wide, 1), bottom - _TOP, f"no sensor from {gap.start} to {gap.end}"))
    marks = _drill_marks(report, lanes, x) + _incident_marks(report.incidents, lanes, start, span, width)
    return Timeline(width, bottom + _AXIS, bottom, _days(start, span, ticks, width), shown, marks, gaps)


def lane_of(agent: str | None) -> str:
    return agent or "no agent"


def _lanes(report: Report) -> dict[str, int]:
    """Name -> lane; those that something of was not stopped and the busiest have their own."""
    busy: dict[str, tuple[bool, int]] = {}
    for incident in report.incidents:
        grave, number = busy.get(lane_of(incident.agent), (False, 0))
        busy[lane_of(incident.agent)] = grave or incident.outcome in NOT_STOPPED, number + 1
    for drill in report.drills.runs:
        busy.setdefault(lane_of(drill.agent), (False, 0))
    names = sorted(busy, key=lambda name: (not busy[name][0], -busy[name][1], name))
    return {name: min(place, LANES - 1) for place, name in enumerate(names)}


def _incident_marks(
    incidents: Iterable[Incident], lanes: dict[str, int], start: int, span: int, width: float
) -> list[Mark]:
    places: dict[tuple[int, int, int], int] = {}
    bins = int(width // _BIN)
    for one in incidents:
        place = int(min(max((parse_rfc3339(one.opened) - start) / span, 0), 1) * bins)
        key = (WORST.index(one.outcome), lanes[lane_of(one.agent)], place)
        places[key] = places.get(key, 0) + 1
    marks = []
    for (outcome, lane, place), number in sorted(places.items()):
        x = _LEFT + 8 + place / bins * (width - 2 * _LEFT - 16)
        radius = min(9.0, 4.5 + 1.5 * math.log2(number))
        words = f"{number} incident{'' if number == 1 else 's'}: {WORST[outcome]}"
        marks.append(Mark(round(x, 1), _TOP + lane * _ROW + 28, round(radius, 1), WORST[outcome], words))
    return marks


def _drill_marks(report: Report, lanes: dict[str, int], x: Callable[[str], float]) -> list[Mark]:
    return [
        Mark(
            x(drill.time),
            _TOP + lanes[lane_of(drill.agent)] * _ROW + 28,
            5.0,
            "drill" if drill.passed else "drill-failed",
            f"drill on {drill.time[:10]}: {'passed' if drill.passed else 'did NOT pass'}",
        )
        for drill in report.drills.runs
    ]


def _days(start: int, span: int, ticks: int, width: float) -> list[Tick]:
    made = []
    for number in range(ticks + 1):
        text = rfc3339(start + span * number // ticks)
        label = text[:10] if span > 3 * 86_400 * 10**9 else f"{text[5:10]} {text[11:16]}"
        anchor = "start" if number == 0 else "end" if number == ticks else "middle"
        made.append(Tick(round(_LEFT + 8 + number / ticks * (width - 2 * _LEFT - 16), 1), label, anchor))
    return made
