"""Alerts -> incidents: those of one workload that follow each other, with all that was recorded of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensor.events import parse_rfc3339
from sensor.record.report.fields import count, mapping, text
from sensor.record.report.model import Incident, Step
from sensor.record.report.words import in_words
from sensor.verdict import SEVERITY

QUIET_NS = 600 * 10**9
"""An incident is over when its workload raised no alert for ten minutes."""
KEEP = 1000
"""How many incidents are kept of each kind: those that were not stopped, and all others."""
OPEN = 1024
STEPS = 60
RULES = 10
KNOWN = 50_000
"""How many alerts are remembered, so that what is recorded of them later finds its incident."""
ID_LENGTH = 10
"""Who is notified is told an incident by the beginning of its first alert's id."""
WORST = ("alert", "denied", "done", "approved", "pending", "would", "refused", "unfinished", "failed")
"""Outcomes, the worst last."""
NOT_STOPPED = frozenset({"refused", "unfinished", "failed"})


class Cases:
    """The incidents of the period."""

    def __init__(self) -> None:
        self.count = 0
        self.evicted = 0
        """Alerts that were forgotten before the trail's end, and incidents that were cut short for room."""
        self._all: list[Incident] = []
        self._open: dict[str, Incident] = {}
        self._by_id: dict[str, Incident] = {}
        self._waiting: dict[str, Mapping[str, Any]] = {}
        """Event records whose verdict is to come, by alert."""
        self._outcomes: dict[int, dict[str, str]] = {}
        """The last outcome of each alert, by the incident's id()."""

    def event(self, alert: str, record: Mapping[str, Any]) -> None:
        """Of an alert whose verdict comes next."""
        if len(self._waiting) >= OPEN:
            self._waiting.clear()
        self._waiting[alert] = record

    def verdict(self, alert: str, record: Mapping[str, Any], known_ms: float | None) -> None:
        """Begins an incident or goes on with one, where it asks for an act or is grave enough."""
        event = self._waiting.pop(alert, None)
        incident = self._by_id.get(alert)
        if incident is None:
            if text(record, "action") in (None, "alert") and text(record, "level") not in ("high", "critical"):
                return
            incident = self._incident(alert, record, event or {})
            if not incident.alerts:
                incident.known_ms = known_ms
        incident.alerts += 1
        incident.last = max(incident.last, record["time"])
        level, title = text(record, "level"), text(record, "title") or text(record, "rule")
        if SEVERITY.get(level or "", 0) > SEVERITY[incident.level]:
            incident.level = str(level)
        if title and title not in incident.rules and len(incident.rules) < RULES:
            incident.rules.append(title)
        for one in (event, record) if event else (record,):
            self._step(incident, one)

    def more(self, ids: set[str], record: Mapping[str, Any]) -> Incident | None:
        """Whatever else was recorded of alerts or an incident: a step in its timeline. None: it is in none."""
        found = next((self._by_id[one] for one in sorted(ids) if one in self._by_id), None)
        if found is not None:
            self._step(found, record)
            if incident := text(record, "incident"):
                self._remember(incident, found)
        return found

    def outcome(self, alert: str, name: str, record: Mapping[str, Any], stopped_ms: float | None) -> None:
        """What became of the response to an alert; a later one takes the place of an earlier one."""
        incident = self._by_id.get(alert)
        if incident is None:
            return
        outcomes = self._outcomes.setdefault(id(incident), {})
        outcomes[alert] = name
        incident.outcome = max(outcomes.values(), key=WORST.index)
        incident.processes += count(record, "processes") or 0
        if stopped_ms is not None:
            incident.stopped_ms = max(stopped_ms, incident.stopped_ms or 0.0)

    def finish(self) -> list[Incident]:
        """The newest first."""
        self._trim(KEEP)
        return sorted(self._all, key=lambda one: (one.opened, one.id), reverse=True)

    def _incident(self, alert: str, record: Mapping[str, Any], event: Mapping[str, Any]) -> Incident:
        agent, cgroup = text(record, "agent"), text(mapping(event, "event"), "CgroupPath")
        given = text(record, "incident")
        key = f"incident {given}" if given else f"agent {agent}" if agent else f"cgroup {cgroup}"
        incident = self._open.get(key)
        if incident is None or abs(parse_rfc3339(record["time"]) - parse_rfc3339(incident.last)) > QUIET_NS:
            incident = Incident(
                id=alert,
                agent=agent,
                owner=text(record, "owner"),
                cgroup=cgroup,
                opened=record["time"],
                last=record["time"],
            )
            self.count += 1
            self._all.append(incident)
            self._outcomes[id(incident)] = {}
            if len(self._open) >= OPEN:
                del self._open[next(iter(self._open))]
                self.evicted += 1
            self._open.pop(key, None)
            self._open[key] = incident
            self._remember(alert[:ID_LENGTH], incident)
            if len(self._all) >= 3 * KEEP:
                self._trim(KEEP)
        self._remember(alert, incident)
        return incident

    def _remember(self, name: str, incident: Incident) -> None:
        if name not in self._by_id and len(self._by_id) >= KNOWN:
            del self._by_id[next(iter(self._by_id))]
            self.evicted += 1
        self._by_id[name] = incident

    def _trim(self, keep: int) -> None:
        grave = [one for one in self._all if one.outcome in NOT_STOPPED][-keep:]
        rest = [one for one in self._all if one.outcome not in NOT_STOPPED][-keep:]
        kept = {id(one) for one in (*grave, *rest)}
        self._all = [one for one in self._all if id(one) in kept]
        self._open = {key: one for key, one in self._open.items() if id(one) in kept}
        self._by_id = {name: one for name, one in self._by_id.items() if id(one) in kept}
        self._outcomes = {number: outcomes for number, outcomes in self._outcomes.items() if number in kept}

    @staticmethod
    def _step(incident: Incident, record: Mapping[str, Any]) -> None:
        if len(incident.steps) < STEPS:
            incident.steps.append(Step(record["time"], record["kind"], in_words(record)))
        else:
            incident.steps_left_out += 1
