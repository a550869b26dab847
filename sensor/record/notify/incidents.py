"""Alerts of one workload that follow each other are one incident. Pure: time, in seconds since the epoch, is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from sensor.faults import printable

INCIDENTS = 512
"""How many are remembered at most; then the oldest goes, one that is over first."""
KEEP_S = 86_400
"""How long an incident that nobody acknowledged is remembered after its last alert."""
ID_LENGTH = 10
NOBODY = "nobody"
_RULES = 5
_DEEDS = 3
_LENGTH = 600
_ACTS = {"isolate", "freeze", "kill", "deny"}
_ACTED = {"done": 1, "pending": 2, "failed": 2}


class Told(msgspec.Struct, frozen=True):
    """How far an incident had come when an address was told, or when somebody acknowledged it."""

    severity: int = 0
    acted: int = 0
    waiting: int = 0
    count: int = 0
    at: float = 0

    def is_behind(self, incident: Incident) -> bool:
        """Worse things have happened since."""
        return incident.severity > self.severity or incident.acted > self.acted or incident.waiting > self.waiting


class Incident(msgspec.Struct, kw_only=True):
    """What is known of one. Text in it is printable and bounded."""

    id: str
    """The beginning of the first alert's `event.id`."""
    key: str
    agent: str | None
    owner: str | None
    cgroup: str | None
    opened: float
    last: float
    severity: int = 0
    level: str = ""
    acted: int = 0
    """0: nothing was done; 1: it was; 2: it failed, or waits for a decision."""
    waiting: int = 0
    """Alerts that wait for a decision."""
    count: int = 0
    rules: dict[str, int] = {}
    """Alerts by rule, the first few rules."""
    rule: str = ""
    reason: str = ""
    """The gravest alert's, as `rule` and `level` are."""
    deeds: list[str] = []
    """The last things done, in words."""
    acknowledged: Told | None = None
    by: str | None = None
    told: dict[str, Told] = {}
    """By lane: which address of which step."""

    def state(self, now: float) -> Told:
        return Told(self.severity, self.acted, self.waiting, self.count, now)


def concerns(alert: Mapping[str, Any], severity: int) -> bool:
    """Whether anybody is to be told: from `severity` on, or where something was done.

    An alert whose `labels` say `page: nobody` (a drill) pages nobody.
    """
    if alert.get("labels", {}).get("page") == NOBODY:
        return False
    response = alert.get("response", {})
    acted = response.get("action") in _ACTS and response.get("outcome") in _ACTED
    return acted or alert["event"]["severity"] >= severity


class Incidents:
    """Those of late, by id."""

    def __init__(self, quiet_s: float) -> None:
        """An incident is over when no alert came for `quiet_s`."""
        self.all: dict[str, Incident] = {}
        self.evicted: Counter[str] = Counter()
        self._quiet_s = quiet_s
        self._open: dict[str, str] = {}

    def restore(self, incidents: list[Incident]) -> None:
        """Those of an earlier run, oldest first."""
        for incident in incidents[-INCIDENTS:]:
            self.all[incident.id] = incident
            self._open[incident.key] = incident.id

    def take(self, alert: Mapping[str, Any], now: float) -> Incident:
        """Count an alert in its incident."""
        workload, cgroup = alert.get("workload", {}), alert.get("cgroup", {})
        agent = workload.get("agent")
        path = cgroup.get("path")
        key = f"agent {agent}" if agent else f"cgroup {path or cgroup.get('id')}" if cgroup else "node"
        incident = self.all.get(self._open.get(key, ""))
        if incident is None or self.is_over(incident, now):
            incident = Incident(
                id=self._id(alert["event"]["id"]),
                key=key,
                agent=agent,
                owner=_short(workload.get("owner")),
                cgroup=_short(path),
                opened=now,
                last=now,
            )
            self._make_room(now)
            self.all[incident.id] = incident
            self._open[key] = incident.id
        _count(incident, alert, now)
        return incident

    def is_over(self, incident: Incident, now: float) -> bool:
        return now - incident.last > self._quiet_s

    def forget(self, incident: Incident) -> None:
        del self.all[incident.id]
        if self._open.get(incident.key) == incident.id:
            del self._open[incident.key]

    def acknowledge(self, incident_id: str, who: str, now: float) -> Incident | None:
        """None where there is no such incident. The first who does is remembered."""
        incident = self.all.get(incident_id)
        if incident is not None:
            incident.acknowledged = incident.state(now)
            incident.by = incident.by or _short(who)
        return incident

    def _id(self, event_id: str) -> str:
        return next(
            found
            for length in range(ID_LENGTH, ID_LENGTH + INCIDENTS + 1)
            if (found := event_id.ljust(length, "0")[:length]) not in self.all
        )

    def _make_room(self, now: float) -> None:
        if len(self.all) < INCIDENTS:
            return
        settled = (incident for incident in self.all.values() if self.is_over(incident, now) and incident.acknowledged)
        oldest = next(settled, None) or next(iter(self.all.values()))
        self.evicted["acknowledged" if oldest.acknowledged else "unacknowledged"] += 1
        self.forget(oldest)


def _count(incident: Incident, alert: Mapping[str, Any], now: float) -> None:
    event, rule, response = alert["event"], alert["rule"], alert.get("response", {})
    # The summary of equal alerts stands for those alone that came after the first.
    incident.count += event.get("count", 1)
    incident.last = max(incident.last, now)
    name = _short(rule.get("name")) or "?"
    if name in incident.rules or len(incident.rules) < _RULES:
        incident.rules = incident.rules | {name: incident.rules.get(name, 0) + event.get("count", 1)}
    acted = _ACTED.get(response.get("outcome"), 0) if response.get("action") in _ACTS else 0
    if not incident.rule or (event["severity"], acted) > (incident.severity, incident.acted):
        incident.rule, incident.level = name, rule.get("level", "")
        incident.reason = printable(event.get("reason", ""))[:_LENGTH]
    incident.severity = max(incident.severity, event["severity"])
    incident.acted = max(incident.acted, acted)
    if acted and response["outcome"] == "pending":
        incident.waiting += 1
    deed = deed_in_words(response)
    if deed not in incident.deeds:
        incident.deeds = [*incident.deeds, deed][-_DEEDS:]


_DONE = {
    "kill": "killed",
    "freeze": "frozen",
    "isolate": "cut off from network and GPUs",
    "deny": "denied by the kernel",
}
_TO_DO = {"kill": "kill", "freeze": "freeze", "isolate": "isolate", "deny": "deny"}


def deed_in_words(response: Mapping[str, Any]) -> str:
    """What the response came to, in a few printable words."""
    action, outcome = response.get("action", "alert"), response.get("outcome", "none")
    if action not in _DONE or outcome == "none":
        return "nothing but this alert"
    where = f" {_short(response['cgroup'])}" if response.get("cgroup") else ""
    why = f": {printable(response['reason'])[:200]}" if response.get("reason") else ""
    if outcome == "done":
        count = response.get("processes")
        processes = "" if count is None else " (1 process)" if count == 1 else f" ({count} processes)"
        after = f", verified after {response['respond_ms']} ms" if "respond_ms" in response else ""
        return f"{_DONE[action]}{where}{processes}{after}{why}"
    if outcome == "would":
        return f"nothing: in monitor mode; in enforce mode it would have been {_DONE[action]}{where}"
    if outcome == "pending":
        return (
            f"{_DONE[action]}{where}, waiting for a decision{why}" if action == "freeze" else f"{action} under way{why}"
        )
    return (
        f"FAILED to {_TO_DO[action]}{where}{why}" if outcome == "failed" else f"refused to {_TO_DO[action]}{where}{why}"
    )


def _short(text: str | None) -> str | None:
    return printable(text)[:200] if text else None
