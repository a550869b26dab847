"""What a rule says of an event, and what came of it: the words that match, respond and record share."""

from __future__ import annotations

from typing import Literal

import msgspec

from sensor.events import AnyEvent

Action = Literal["alert", "isolate", "freeze", "kill", "deny"]
Scope = Literal["process", "cgroup", "agent"]
Mode = Literal["monitor", "enforce"]
OutcomeName = Literal["none", "would", "done", "pending", "refused", "failed"]
Level = Literal["informational", "low", "medium", "high", "critical"]

SEVERITY: dict[str, int] = {"informational": 1, "low": 21, "medium": 47, "high": 73, "critical": 99}
"""event.severity by Sigma level; the numbers are those of Elastic's own rules."""


class RuleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert says of its rule, and what the rule asks for."""

    id: str
    title: str
    level: Level = "medium"
    techniques: tuple[str, ...] = ()
    """ATT&CK technique ids, from the tags attack.tNNNN: ("T1572",)."""
    kinds: tuple[str, ...] = ()
    """What an agent's `approve` may name, from the tags hostbrake.KIND: ("billing",)."""
    action: Action = "alert"
    scope: Scope = "cgroup"
    path: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One rule matched one event."""

    rule: RuleInfo
    event: AnyEvent
    detail: str | None = None
    """What the event alone does not show, in a few words; part of the alert's reason."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the response came to: the alert's `response` object."""

    mode: Mode
    action: Action
    outcome: OutcomeName
    reason: str | None = None
    scope: Scope | None = None
    cgroup: str | None = None
    processes: int | None = None
    detect_ms: float | None = None
    respond_ms: float | None = None
