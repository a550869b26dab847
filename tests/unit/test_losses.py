"""Losses: what has grown since the last look, and the alert that says so."""

from __future__ import annotations

from collections import Counter

from sensor import wire
from sensor.losses import KERNEL_LOSSES, LOSS_RULE_ID, Losses, kernel_losses, loss_alert


def test_a_look_gives_what_has_grown_since_the_last() -> None:
    ring: Counter[str] = Counter()
    sink: Counter[str] = Counter()
    losses = Losses({"ring": lambda: ring, "sink": lambda: sink})
    assert losses.look() == {} and losses.total == {}
    ring["full"] = 3
    sink["ENOSPC"] = 0
    assert losses.look() == {"ring.full": 3} and losses.total == {"ring.full": 3}
    ring["full"], sink["ENOSPC"] = 5, 1
    assert losses.look() == {"ring.full": 2, "sink.ENOSPC": 1}
    assert losses.look() == {} and losses.total == {"ring.full": 5, "sink.ENOSPC": 1}


def test_of_the_kernels_counters_those_that_stand_for_a_loss() -> None:
    counters = {kind: {name: 10 + place for place, name in enumerate(wire.COUNTERS)} for kind in ("exec", "connect")}
    found = kernel_losses(counters)
    assert set(found) == {f"{kind}.{name}" for kind in counters for name in KERNEL_LOSSES}
    assert found["connect.lost_ring"] == counters["connect"]["lost_ring"]
    assert not [name for name in found if name.endswith((".sent", ".collapsed"))]


def test_the_alert_is_like_every_other() -> None:
    alert = loss_alert({"b.full": 2, "a.gone": 1}, "enforce", ("node-1", None))
    assert alert["event"]["reason"].endswith(": 1 by a.gone, 2 by b.full")
    assert (alert["event"]["kind"], alert["event"]["action"], alert["event"]["category"]) == ("alert", "loss", ["host"])
    assert alert["rule"] == {"id": LOSS_RULE_ID, "name": "Events were lost", "level": "high"}
    assert alert["host"] == {"name": "node-1"}
    assert alert["response"] == {"mode": "enforce", "action": "alert", "outcome": "none"}
    again = loss_alert({"b.full": 2}, "monitor", ("node-1", "0123"))
    assert again["event"]["id"] != alert["event"]["id"] and again["host"] == {"name": "node-1", "id": "0123"}
