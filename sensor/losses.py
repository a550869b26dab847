"""What was lost anywhere on the way, by place; a loss that grows is logged and alerted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sensor.events import rfc3339
from sensor.verdict import SEVERITY, Mode

CLASH_RULE_ID = "6f0e6a52-6f0e-4d1c-9d5b-6f4d0f1f7a11"
LOSS_RULE_ID = "6f0e6a52-6f0e-4d1c-9d5b-6f4d0f1f7a10"
KERNEL_LOSSES = ("lost_ring", "lost_scratch", "args_unreadable", "lost_policy", "evicted")

Source = Callable[[], dict[str, int]]
"""Counts by name, each growing only."""


class Losses:
    """Compares the sources' counts with the last look."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self._sources = sources
        self.total: dict[str, int] = {}
        """By "place.name", without the zeros."""

    def look(self) -> dict[str, int]:
        """What was lost since the last look."""
        now = {
            f"{place}.{name}": count
            for place, source in self._sources.items()
            for name, count in source().items()
            if count
        }
        grown = {name: count - self.total.get(name, 0) for name, count in now.items()}
        self.total = now
        return {name: count for name, count in grown.items() if count > 0}


def kernel_losses(counters: dict[str, dict[str, int]]) -> dict[str, int]:
    """The counters of the kernel side that stand for something lost: "exec.lost_ring" -> count."""
    return {f"{kind}.{name}": counts[name] for kind, counts in counters.items() for name in KERNEL_LOSSES}


def loss_alert(lost: Mapping[str, int], mode: Mode, host: tuple[str, str | None]) -> dict[str, Any]:
    """The alert that says so, in the form of every other."""
    what = ", ".join(f"{count} by {name}" for name, count in sorted(lost.items()))
    reason = f"The sensor lost something it should have judged or written: {what}"
    return _own_alert((LOSS_RULE_ID, "Events were lost"), "loss", reason, mode, host)


def clash_alert(agents: Sequence[str], cgroup: str, mode: Mode, host: tuple[str, str | None]) -> dict[str, Any]:
    """The alert that these agents claim the same workload with equal right."""
    names = ", ".join(agents)
    reason = f"Agents claim the same workload with equal right: {names}; taken as {agents[0]}'s: {cgroup}"
    alert = _own_alert((CLASH_RULE_ID, "Agents claim the same workload"), "clash", reason, mode, host)
    return alert | {"cgroup": {"path": cgroup}}


def _own_alert(
    rule: tuple[str, str], action: str, reason: str, mode: Mode, host: tuple[str, str | None]
) -> dict[str, Any]:
    now = rfc3339(time.time_ns())
    name, machine_id = host
    return {
        "@timestamp": now,
        "event": {
            "kind": "alert",
            "id": hashlib.sha256(f"{rule[0]}{machine_id}{now}{reason}".encode()).hexdigest()[:32],
            "category": ["host"],
            "action": action,
            "severity": SEVERITY["high"],
            "reason": reason,
        },
        "rule": {"id": rule[0], "name": rule[1], "level": "high"},
        "host": {"name": name, **({"id": machine_id} if machine_id else {})},
        "response": {"mode": mode, "action": "alert", "outcome": "none"},
    }
