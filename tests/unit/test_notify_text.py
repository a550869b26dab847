"""Messages are plain, short, and nothing in them acts on the telephone, whatever a workload is called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notifying import alert

from sensor.record.notify.incidents import Incidents, deed_in_words
from sensor.record.notify.text import message

T = 1_700_000_000.0


def told(*alerts: dict[str, Any], unanswered_s: float | None = None) -> Any:
    incidents = Incidents(600)
    for found in alerts:
        incidents.take(found, T)
    return message(list(incidents.all.values()), "node1", unanswered_s)


@pytest.mark.parametrize(
    ("response", "says"),
    [
        ({"action": "alert", "outcome": "none"}, "nothing but this alert"),
        (
            {"action": "kill", "outcome": "done", "cgroup": "/a", "processes": 4, "respond_ms": 3.5},
            "killed /a (4 processes), verified after 3.5 ms",
        ),
        (
            {"action": "kill", "outcome": "would", "cgroup": "/a"},
            "nothing: in monitor mode; in enforce mode it would have been killed /a",
        ),
        (
            {"action": "freeze", "outcome": "pending", "cgroup": "/a"},
            "frozen /a, waiting for a decision",
        ),
        ({"action": "kill", "outcome": "pending"}, "kill under way"),
        ({"action": "kill", "outcome": "failed", "reason": "1 survived"}, "FAILED to kill: 1 survived"),
        ({"action": "kill", "outcome": "refused", "reason": "protected"}, "refused to kill: protected"),
        ({"action": "deny", "outcome": "done"}, "denied by the kernel"),
        ({"action": "isolate", "outcome": "done"}, "cut off from network and GPUs"),
    ],
)
def test_what_was_done(response: dict[str, Any], says: str) -> None:
    assert deed_in_words(response) == says


def test_what_waits_for_a_decision_names_the_commands() -> None:
    body = told(alert(action="freeze", outcome="pending")).body
    assert "  hostbrake pending    (then: hostbrake approve ID, or hostbrake deny ID)\n  hostbrake kill rome" in body


def test_a_stray_workload_and_the_sensor_itself() -> None:
    assert "hostbrake kill --cgroup /stray/job" in told(alert(None)).body
    hostile = alert(None, cgroup={"path": "/x; rm -rf /"})
    assert "hostbrake kill" not in told(hostile).body
    loss = alert(None, action="alert", outcome="none", severity=73)
    del loss["cgroup"]
    assert told(loss).title == "Hostbrake on node1: the sensor: Cryptocurrency miner by its name"


def test_the_gravest_rule_names_the_incident_and_all_are_counted() -> None:
    scan = alert(severity=47, action="alert", outcome="none", rule={"name": "Scan", "level": "medium"})
    found = told(scan, scan, alert(number=2), scan)
    assert found.title.endswith("agent rome: Cryptocurrency miner by its name") and found.level == "critical"
    assert "Rules: Scan (3), Cryptocurrency miner by its name (1)" in found.body
    assert "Done: nothing but this alert; killed" in found.body


def test_summaries_of_equal_alerts_count_as_many() -> None:
    summary = alert()
    summary["event"]["count"] = 41
    assert "42 alerts so far" in told(alert(), summary).body


HOSTILE = st.text(max_size=4000) | st.sampled_from(
    ["@everyone <!channel> http://evil.example/x", "`code`\n\nhostbrake approve 1", "\x1b[2J\u202e\0", "[x](http://a)"]
)


@given(HOSTILE, HOSTILE, HOSTILE, st.integers(1, 30))
def test_nothing_that_a_workload_chose_acts_on_the_telephone(name: str, path: str, why: str, count: int) -> None:
    alerts = []
    for number in range(count):
        response = {"action": "kill", "outcome": "failed", "cgroup": path, "reason": why}
        found = alert(None, number=number + 1, cgroup={"path": f"{number}{path}"}, response=response)
        found["rule"]["name"] = found["event"]["reason"] = name
        alerts.append(found)
    title, body, _ = told(*alerts, unanswered_s=901)
    assert len(title) <= 120 and title.isprintable()
    assert len(body) <= 4000 and all(line.isprintable() for line in body.split("\n"))
    for harmful in "@<>`":
        assert harmful not in title + body
    assert "://" not in title + body
    starts = (
        "What:",
        "Rules:",
        "Level:",
        "Who:",
        "When:",
        "Done:",
        "Incident:",
        "On node1:",
        "  hostbrake ",
        "You are",
    )
    for line in body.split("\n"):
        assert not line or line.startswith(("and ", *starts)), line
    assert body.count("\n  hostbrake ack ") == min(count, 5)
