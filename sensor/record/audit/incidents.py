"""Verdicts and responses -> records of the trail: event, verdict, intent and action, tied by the alert's id.

Equal alerts that the sensor merges (`sensor.record.noise`) and that ask for no act are one verdict with a count here
too, so that no workload can fill the disk with them. Whatever is acted on is recorded one by one.
"""

from __future__ import annotations

from typing import Any

from sensor.events import to_record
from sensor.record.alerts import alert_id
from sensor.record.audit.trail import Audit
from sensor.verdict import Outcome, Verdict


class Incidents:
    """Writes what the pipeline tells it."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._begun: dict[int, tuple[Verdict, int | None]] = {}
        """The intents whose action is to come, by the verdict's id(), which holds as long as it is here."""

    def intend(self, verdict: Verdict, outcome: Outcome) -> None:
        """Before anything is done: `outcome` says what is planned, and to whom."""
        self._verdict(verdict, outcome)
        intent = self._audit.append(
            "intent",
            **_who(verdict),
            action=outcome.action,
            scope=outcome.scope,
            cgroup=outcome.cgroup,
            process=verdict.event.process_guid,
            reason=outcome.reason,
        )
        self._begun[id(verdict)] = verdict, intent

    def ended(self, verdict: Verdict, outcome: Outcome, merged: bool) -> None:
        """What came of it; `merged`: its alert was counted in an equal one."""
        begun = self._begun.pop(id(verdict), None)
        if begun is None and merged:
            return
        if begun is None:
            self._verdict(verdict, outcome)
        if outcome.action == "alert":
            return
        said = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
        if begun is not None:
            said["intent"] = begun[1]
        elif outcome.outcome == "done":  # by limits that the kernel had before
            said["by"] = "kernel"
        self._audit.append("action", **_who(verdict), **_without_nothing(said))

    def summary(self, alert: dict[str, Any]) -> None:
        """An alert that stands for several equal ones was written."""
        event, workload = alert["event"], alert.get("workload", {})
        self._audit.append(
            "verdict",
            alert=event["id"],
            agent=workload.get("agent"),
            rule=alert["rule"]["id"],
            title=alert["rule"]["name"],
            count=event["count"],
            first=event["start"],
            last=event["end"],
        )

    def _verdict(self, verdict: Verdict, outcome: Outcome) -> None:
        rule = verdict.rule
        self._audit.append("event", **_who(verdict), event=to_record(verdict.event))
        self._audit.append(
            "verdict",
            **_who(verdict),
            **_without_nothing(
                {
                    "rule": rule.id,
                    "title": rule.title,
                    "level": rule.level,
                    "action": rule.action,
                    "scope": rule.scope,
                    "detail": verdict.detail,
                    "detect_ms": outcome.detect_ms,
                }
            ),
        )


def _who(verdict: Verdict) -> dict[str, Any]:
    event = verdict.event
    return _without_nothing({"alert": alert_id(verdict), "agent": event.agent, "owner": event.agent_owner})


def _without_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
