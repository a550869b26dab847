"""Drills: what they measured, and which agents lack one."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sensor.agents_file import DRILLED, AgentFile
from sensor.events import parse_rfc3339
from sensor.record.report.fields import count, milliseconds, text
from sensor.record.report.model import Behaviour, Drill, Drills, DrillState, latency

LIMIT_DAYS = 31
"""A month, as the timer that runs them."""
RUNS = 100
BEHAVIOURS = 100
"""How many of one run are kept."""
AGENTS = 4096
APART_NS = 3600 * 10**9
"""Records further apart than this are of two runs, the first of which came to no end."""


class DrillBook:
    """Reads the records of drills in the trail's order, also those before the period: one record for each behaviour,
    then one with `summary`.
    """

    def __init__(self, since: str, until: str) -> None:
        self.crowded_out = 0
        self._since = since
        self._until = until
        self._open: dict[tuple[str | None, str | None], Drill] = {}
        """By agent and the drill's own id, where it has one."""
        self._last: dict[str | None, Drill] = {}
        self._runs: deque[Drill] = deque(maxlen=RUNS)
        self._count = 0
        self._known: list[float] = []
        self._stopped: list[float] = []

    def take(self, record: Mapping[str, Any]) -> None:
        agent = text(record, "agent")
        key = agent, text(record, "drill")
        run = self._open.get(key)
        if run is None or parse_rfc3339(record["time"]) - parse_rfc3339(run.time) > APART_NS:
            run = self._begin(record["time"], key)
        run.time = record["time"]
        if not record.get("summary"):
            self._behaviour(run, record)
            return
        run.passed = record.get("passed") is True and all(one.passed for one in run.behaviours)
        run.expected = count(record, "behaviours")
        if run.expected is not None and run.expected > len(run.behaviours) and len(run.behaviours) < BEHAVIOURS:
            run.passed = False
        del self._open[key]

    @staticmethod
    def is_canary(record: Mapping[str, Any]) -> bool:
        """It is of what a drill had its canary do: what that showed is in the drill's own records."""
        return bool(record.get("drill")) or DRILLED in (text(record, "agent") or "")

    def finish(self, agents: Sequence[AgentFile], overdue_before: str) -> Drills:
        """`overdue_before`: a drill of that time is too old."""
        states = [
            DrillState(one.agent, one.owner.name, *self._state(one.agent, overdue_before))
            for one in sorted(agents, key=lambda one: one.agent)
        ]
        return Drills(
            limit_days=LIMIT_DAYS,
            agents=states,
            runs=list(reversed(self._runs)),
            runs_in_all=self._count,
            known=latency(self._known),
            stopped=latency(self._stopped),
        )

    def _begin(self, time: str, key: tuple[str | None, str | None]) -> Drill:
        agent, _ = key
        run = Drill(time, agent)
        if agent in self._last or len(self._last) < AGENTS:
            self._last[agent] = run
        else:
            self.crowded_out += 1
        if len(self._open) >= AGENTS:
            self._open.clear()
        self._open[key] = run
        if self._since <= time <= self._until:
            self._runs.append(run)
            self._count += 1
        return run

    def _behaviour(self, run: Drill, record: Mapping[str, Any]) -> None:
        known, stopped = milliseconds(record, "known_ms"), milliseconds(record, "stopped_ms")
        passed, error = record.get("passed") is True, text(record, "error")
        name = text(record, "behaviour") or "unnamed"
        if len(run.behaviours) < BEHAVIOURS:
            limit = milliseconds(record, "limit_ms")
            run.behaviours.append(Behaviour(name, passed, known, stopped, limit, error))
        if self._since <= run.time <= self._until:
            self._known += [] if known is None else [known]
            self._stopped += [] if stopped is None else [stopped]

    def _state(self, agent: str, overdue_before: str) -> tuple[str, str | None]:
        """A drill of no named agent is not counted as this one's."""
        run = self._last.get(agent)
        if run is None:
            return "never", None
        if run.time <= overdue_before:
            return "overdue", run.time
        return ("unfinished" if run.passed is None else "ok" if run.passed else "failed"), run.time
