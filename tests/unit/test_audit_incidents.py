"""What the pipeline and the control socket leave in the trail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from auditing import check, lines_of
from matching import HEADER, event_of, parse, rule_of
from test_pipeline import lines

from sensor.match.matcher import Matcher
from sensor.pipeline import Pipeline
from sensor.record.audit import requests
from sensor.record.audit.incidents import Incidents
from sensor.record.audit.line import parse_line
from sensor.record.audit.requests import Requests
from sensor.record.audit.trail import Audit
from sensor.record.sink import Sink
from sensor.respond.rehearsal import rehearsal
from sensor.verdict import Outcome, RuleInfo, Verdict


def recorded(place: Path) -> list[dict[str, Any]]:
    return [parse_line(line[:-1]) for line in lines_of(place / "audit")]


@pytest.mark.parametrize("window_s", [0, 60])
def test_equal_alerts_are_one_verdict_with_a_count(tmp_path: Path, window_s: int) -> None:
    """As in the alerts, so that a workload cannot fill the disk with what is only told."""
    audit = Audit(tmp_path)
    judging = Pipeline(
        matcher=Matcher([rule_of("a: {Image|endswith: /miner}\ncondition: a", "process_creation")]),
        executor=rehearsal(),
        alerts=Sink(str(tmp_path / "alerts")),
        alert_window_s=window_s,
        incidents=Incidents(audit),
    )
    for second in range(5):
        event = event_of(image="/bin/miner", agent="rome-rl", agent_owner="Ada Example")
        event.time = (1000 + second) * 10**9
        judging.judge(event)
    judging.close()
    audit.close()
    found = recorded(tmp_path)
    alerts = [alert["event"]["id"] for alert in lines(tmp_path / "alerts")]
    if window_s:
        assert [record["kind"] for record in found] == ["event", "verdict", "verdict"]
        assert (found[2]["count"], found[2]["agent"]) == (4, "rome-rl") and len(alerts) == 2
    else:
        assert [record["kind"] for record in found] == ["event", "verdict"] * 5
    assert list(dict.fromkeys(record["alert"] for record in found)) == alerts
    assert found[0]["event"]["Image"] == "/bin/miner" and found[1]["owner"] == "Ada Example"
    assert check(tmp_path / "audit").is_good()


def test_what_monitor_mode_would_have_done(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    text = HEADER.format(category="process_creation") + "response: {action: kill}\n"
    rules, _ = parse(text + "detection: {a: {Image|endswith: /miner}, condition: a}\n")
    judging = Pipeline(
        matcher=Matcher(rules),
        executor=rehearsal(),
        alerts=Sink(str(tmp_path / "alerts")),
        incidents=Incidents(audit),
    )
    judging.judge(event_of(image="/bin/miner", cgroup_path="/rome/job", cgroup_id=7))
    judging.close()
    audit.close()
    event, verdict, action = recorded(tmp_path)
    assert (event["kind"], verdict["kind"], action["kind"]) == ("event", "verdict", "action")
    assert (action["outcome"], action["action"], action["cgroup"]) == ("would", "kill", "/rome/job")
    report = check(tmp_path / "audit")
    assert report.is_good() and report.responses == 0


def test_what_the_kernel_denied_needs_no_intent(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    incidents = Incidents(audit)
    verdict = Verdict(rule=RuleInfo(id="r", title="Limits", action="deny"), event=event_of(image="/bin/ssh"))
    incidents.ended(verdict, Outcome(mode="enforce", action="deny", outcome="done"), merged=False)
    audit.close()
    assert (recorded(tmp_path)[-1]["by"], "intent" in recorded(tmp_path)[-1]) == ("kernel", False)
    report = check(tmp_path / "audit")
    assert report.is_good() and (report.by_kernel, report.responses) == (1, 0)


def test_requests_that_only_look_are_counted_together(tmp_path: Path) -> None:
    audit, now = Audit(tmp_path), [0.0]
    asked = Requests(audit, clock=lambda: now[0])
    for pid in range(5):
        asked.note("status", "done", (pid, 0, 0), looks=True)
    asked.note("status", "done", (9, 1000, 1000), looks=True)
    for _ in range(2):
        asked.note("kill", "done", (5, 0, 0), looks=False)
    asked.note("status", "refused", None, looks=True)
    asked.tick()
    now[0] += requests.TOGETHER_S
    asked.tick()
    asked.note("status", "done", (10, 0, 0), looks=True)
    asked.tick(at_once=True)
    audit.close()
    said = [(r["command"], r.get("pid"), r.get("uid"), r.get("count", 1)) for r in recorded(tmp_path)]
    assert said == [
        ("status", 0, 0, 1),
        ("status", 9, 1000, 1),
        ("kill", 5, 0, 1),
        ("kill", 5, 0, 1),
        ("status", None, None, 1),
        ("status", 4, 0, 4),
        ("status", 10, 0, 1),
    ]


def test_many_askers_are_bounded_and_none_is_forgotten(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    asked = Requests(audit)
    for _ in range(2):
        for uid in range(requests.LIMIT * 2):
            asked.note("status", "refused", (1, uid, uid), looks=True)
    assert len(asked._repeats) == requests.LIMIT
    asked.tick(at_once=True)
    audit.close()
    assert sum(record.get("count", 1) for record in recorded(tmp_path)) == requests.LIMIT * 4
