"""Counts and times of responses, by agent, owner, rule and action."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sensor.record.report.model import Deeds, Latency, Row, latency

CELLS = 20_000
"""How many combinations are told apart; what comes after that is counted under OTHERS."""
OTHERS = "(others)"


class Key(NamedTuple):
    """Whose response; None: the trail does not say."""

    agent: str | None = None
    owner: str | None = None
    rule: str | None = None
    title: str | None = None
    action: str | None = None


class _Cell:
    def __init__(self) -> None:
        self.alerts = 0
        self.known = array("d")
        self.stopped = array("d")
        self.outcomes: Counter[str] = Counter()


class Tally:
    """Every measurement is kept, at eight bytes, so that p99 and worst are no estimates."""

    def __init__(self) -> None:
        self.crowded_out = 0
        self._cells: dict[Key, _Cell] = {}

    def alert(self, key: Key, known_ms: float | None, times: int = 1) -> None:
        cell = self._cell(key)
        cell.alerts += times
        if known_ms is not None:
            cell.known.append(known_ms)

    def response(self, key: Key, outcome: str, stopped_ms: float | None) -> None:
        """`outcome` is the name of one of `Deeds`' counts."""
        cell = self._cell(key)
        cell.outcomes[outcome] += 1
        if stopped_ms is not None:
            cell.stopped.append(stopped_ms)

    def correct(self, key: Key, before: str, now: str) -> None:
        """A response that was counted as `before` has become `now`."""
        cell = self._cell(key)
        cell.outcomes[before] -= 1
        cell.outcomes[now] += 1

    def overall(self) -> Row:
        return _row(None, None, self._cells.values())

    def by_agent(self) -> list[Row]:
        return self._rows(lambda key: key.agent, lambda key: key.owner)

    def by_owner(self) -> list[Row]:
        return self._rows(lambda key: key.owner)

    def by_rule(self) -> list[Row]:
        return self._rows(lambda key: key.rule, lambda key: key.title)

    def by_action(self) -> list[Row]:
        return [row for row in self._rows(lambda key: key.action) if row.name is not None]

    def measurements(self) -> tuple[list[float], list[float]]:
        """All times to know, and all times to stop, in milliseconds."""
        cells = self._cells.values()
        return [value for cell in cells for value in cell.known], [value for cell in cells for value in cell.stopped]

    def _cell(self, key: Key) -> _Cell:
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= CELLS:
                self.crowded_out += 1
                key = Key(OTHERS, OTHERS, OTHERS, None, key.action)
            cell = self._cells.setdefault(key, _Cell())
        return cell

    def _rows(
        self, name: Callable[[Key], str | None], title: Callable[[Key], str | None] = lambda _: None
    ) -> list[Row]:
        """The busiest first."""
        groups: dict[str | None, list[_Cell]] = {}
        titles: dict[str | None, str | None] = {}
        for key, cell in self._cells.items():
            groups.setdefault(name(key), []).append(cell)
            titles[name(key)] = title(key) or titles.get(name(key))
        rows = [_row(one, titles[one], cells) for one, cells in groups.items()]
        return sorted(rows, key=lambda row: (-row.deeds.not_stopped(), -row.stopped.count, -row.alerts, row.name or ""))


def _row(name: str | None, title: str | None, cells: Iterable[_Cell]) -> Row:
    cells = list(cells)
    outcomes = sum((cell.outcomes for cell in cells), Counter[str]())
    return Row(
        name=name,
        title=title,
        alerts=sum(cell.alerts for cell in cells),
        known=_together([cell.known for cell in cells]),
        stopped=_together([cell.stopped for cell in cells]),
        deeds=Deeds(**outcomes),
    )


def _together(values: list[array[float]]) -> Latency:
    return latency([value for some in values for value in some])
