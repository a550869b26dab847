"""The alerts of drills: one that did not pass, and one that is overdue."""

from __future__ import annotations

import time
import uuid
from typing import Any

from sensor.agents_file import AgentFile
from sensor.events import rfc3339
from sensor.node import host
from sensor.verdict import SEVERITY, Mode, RuleInfo

FAILED = RuleInfo(id="b0d1a7c2-5e7f-4c1b-9a53-7a9f0d6f1e01", title="A drill did not pass", level="high")
OVERDUE = RuleInfo(id="b0d1a7c2-5e7f-4c1b-9a53-7a9f0d6f1e02", title="A drill is overdue", level="medium")
_DAY_S = 86_400


def failed_alert(agent: AgentFile, drill: str, failed: list[str], mode: Mode) -> dict[str, Any]:
    """A drill found something that was not known or not stopped in time. This is no rehearsal: it is told as any."""
    reason = f"The drill of agent {agent.agent} did not pass: {'; '.join(failed)}"
    return _alert(agent, FAILED, reason, mode) | {"labels": {"failed_drill": drill}}


def overdue_alert(agent: AgentFile, passed: float | None, since: float, mode: Mode) -> dict[str, Any]:
    """`passed`: when its last drill passed; `since`: when the sensor first knew the agent; seconds since the epoch."""
    days = int((time.time() - (passed or since)) / _DAY_S)
    last = f"passed a drill {days} days ago" if passed else f"never passed a drill in {days} days"
    reason = f"Agent {agent.agent} {last}: run `hostbrake drill {agent.agent}`"
    return _alert(agent, OVERDUE, reason, mode)


def _alert(agent: AgentFile, rule: RuleInfo, reason: str, mode: Mode) -> dict[str, Any]:
    name, machine_id = host()
    return {
        "@timestamp": rfc3339(time.time_ns()),
        "event": {
            "kind": "alert",
            "id": uuid.uuid4().hex,
            "category": ["host"],
            "action": "drill",
            "severity": SEVERITY[rule.level],
            "reason": reason[:600],
        },
        "rule": {"id": rule.id, "name": rule.title, "level": rule.level},
        "host": {"name": name, **({"id": machine_id} if machine_id else {})},
        "workload": {"agent": agent.agent, "owner": agent.owner.name, "purpose": agent.purpose},
        "response": {"mode": mode, "action": "alert", "outcome": "none"},
    }
