"""What a report says of a trail: numbers, drills, incidents, and that none of them flatters."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from auditing import rewrite
from reporting import HOSTILE, NOW, SINCE, Story, declared, eventful, report_of, story

from sensor.events import rfc3339
from sensor.record.audit import layout
from sensor.record.report import cases, drills
from sensor.record.report.answer import answer
from sensor.record.report.charts import LogAxis, decade_label, histogram, ranges, timeline
from sensor.record.report.model import Deeds, Latency, Report, latency
from sensor.record.report.words import duration


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., Report]:
    """A report of what a function did to a trail."""

    def make(fill: Callable[[Story], object], *agents: str) -> Report:
        with story(tmp_path) as told:
            told.at(0.5)
            fill(told)
        return report_of(tmp_path, declared(*agents))[0]

    return make


def test_latency_is_median_p99_by_nearest_rank_and_worst() -> None:
    assert latency([]) == Latency(0, None, None, None)
    assert latency([3.0]) == Latency(1, 3.0, 3.0, 3.0)
    assert latency([4.0, 1.0, 2.0, 3.0]) == Latency(4, 2.5, 4.0, 4.0)
    assert latency([float(n) for n in range(100, 0, -1)]) == Latency(100, 50.5, 99.0, 100.0)
    assert latency([float(n) for n in range(1, 201)]).p99_ms == 198.0


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0, "0 ms"),
        (0.042, "0.04 ms"),
        (3.46, "3.5 ms"),
        (99.94, "99.9 ms"),
        (999.4, "999 ms"),
        (999.6, "1 s"),
        (12_340, "12.3 s"),
        (245_000, "4 min 5 s"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_durations_in_words(milliseconds: float, words: str) -> None:
    assert duration(milliseconds) == words


def test_times_by_agent_owner_rule_and_action(tell: Callable[..., Report]) -> None:
    def fill(told: Story) -> None:
        told.start()
        told.respond(known_ms=1.0, stopped_ms=10.0)
        told.respond(known_ms=3.0, stopped_ms=30.0, rule="r-miner", title="Miner")
        told.respond(known_ms=2.0, stopped_ms=500.0, agent="evals", owner="Bo Example", action="freeze")
        told.verdict(known_ms=9.0, level="low", action="alert", agent=None, owner=None)

    report = tell(fill)
    assert report.overall.known == Latency(4, 2.5, 9.0, 9.0) and report.overall.stopped == Latency(
        3, 30.0, 500.0, 500.0
    )
    assert [(row.name, row.title, row.alerts) for row in report.agents] == [
        ("rome-rl", "Ada Example", 2),
        ("evals", "Bo Example", 1),
        (None, None, 1),
    ]
    assert report.agents[0].stopped == Latency(2, 20.0, 30.0, 30.0)
    assert {row.name: row.stopped.worst_ms for row in report.owners} == {
        "Ada Example": 30.0,
        "Bo Example": 500.0,
        None: None,
    }
    assert {(row.name, row.title): row.deeds.done for row in report.rules} == {
        ("r-tunnel", "SSH client asks for a remote forward"): 2,
        ("r-miner", "Miner"): 1,
    }
    assert {row.name: row.deeds.done for row in report.actions} == {"kill": 2, "freeze": 1, "alert": 0}
    assert answer(report).sentence == "Known after 2.5 ms, stopped after 30 ms"
    assert report.good and report.trail.good


def test_what_was_not_stopped_is_in_no_average(tell: Callable[..., Report]) -> None:
    """A denial's zero, a failure's and a refusal's times would make the rest look better."""

    def fill(told: Story) -> None:
        told.start()
        told.respond(stopped_ms=40.0)
        told.respond(action="deny", stopped_ms=0.0)
        told.respond(outcome="failed", stopped_ms=0.1)
        told.respond(outcome="refused", stopped_ms=0.1)
        told.respond(outcome="would", stopped_ms=0.1)
        told.respond(outcome="what is this", stopped_ms=0.1)
        alert = told.verdict()
        told.audit.append("intent", alert=alert, agent="rome-rl", action="kill")

    report = tell(fill)
    assert report.overall.stopped == Latency(1, 40.0, 40.0, 40.0)
    assert report.overall.deeds == Deeds(done=1, denied=1, would=1, refused=1, failed=2, unfinished=1)
    assert not report.good and len(report.reasons) == 3
    assert [one.outcome for one in report.incidents] == ["failed"], "the worst of them"


def test_what_began_just_now_is_under_way(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.now = NOW - 5 * 10**9
        told.audit.append("intent", alert=told.verdict(), action="kill")
    assert report_of(tmp_path)[0].overall.deeds == Deeds()
    assert report_of(tmp_path, until=NOW + 100 * 10**9)[0].overall.deeds == Deeds(unfinished=1)


@pytest.mark.parametrize(
    ("how", "outcome", "becomes"),
    [
        ("deny", "done", "done"),
        ("deny", "failed", "failed"),
        ("approve", "done", "approved"),
        ("approve", "none", "approved"),
    ],
)
def test_frozen_to_ask_is_stopped_when_it_was_frozen(
    tell: Callable[..., Report], how: str, outcome: str, becomes: str
) -> None:
    def fill(told: Story) -> None:
        told.start()
        _, case = told.asks()
        told.now += 900 * 10**9
        told.decides(case, how, outcome)
        told.decides("zofus", how, outcome)

    report = tell(fill)
    assert report.overall.stopped == Latency(1, 2.2, 2.2, 2.2) and report.overall.alerts == 1
    others = {"failed": 2} if becomes == "failed" else {becomes: 1}
    assert report.overall.deeds == Deeds(**others), "of a case that nobody knows only a failure counts"
    (incident,) = report.incidents
    assert (incident.outcome, incident.stopped_ms, incident.alerts) == (becomes, 2.2, 1)
    kinds = [step.kind for step in incident.steps]
    assert kinds == ["event", "verdict", "intent", "action", "request", "intent", "action"]
    assert incident.steps[4].text == f"ada asked to {how}: done"


def test_nobody_has_decided_yet(tell: Callable[..., Report]) -> None:
    report = tell(lambda told: told.asks())
    assert report.overall.deeds == Deeds(pending=1) and report.overall.stopped.worst_ms == 2.2
    assert "1 frozen and waiting for a decision." in answer(report).caveats
    assert report.incidents[0].outcome == "pending"


def test_an_incident_is_one_workload_within_ten_minutes(tell: Callable[..., Report]) -> None:
    def fill(told: Story) -> None:
        told.start()
        first = told.respond()
        told.now += 599 * 10**9
        told.respond(level="high", title="Another", stopped_ms=9.0)
        told.respond(agent="evals", owner="Bo Example")
        told.now += 601 * 10**9
        told.respond()
        told.verdict(level="low", action="alert", agent="quiet")
        told.verdict(level="high", action="alert", agent=None, owner=None, cgroup="/other")
        told.audit.append("notification", what="sent", incidents=[first[:10]])
        told.audit.append("notification", what="sent", incident="of nobody")

    report = tell(fill)
    assert report.incidents_in_all == 4
    joined = report.incidents[-1]
    assert (joined.agent, joined.owner, joined.alerts, joined.level) == ("rome-rl", "Ada Example", 2, "critical")
    assert joined.rules == ["SSH client asks for a remote forward", "Another"] and joined.stopped_ms == 9.0
    assert joined.steps[-1].kind == "notification"
    told_only = next(one for one in report.incidents if one.agent is None)
    assert (told_only.outcome, told_only.cgroup) == ("alert", "/other")


def test_only_the_period_counts(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.at(-2).start(mode="monitor")
        told.drill("rome-rl")
        told.respond(stopped_ms=9000.0)
        told.at(1).respond(stopped_ms=5.0)
        told.audit.append("loss", what="missing", missing=3, why={"ENOSPC": 3}, since=rfc3339(SINCE))
        told.at(40).respond(stopped_ms=9000.0)
    report = report_of(tmp_path, declared("rome-rl"))[0]
    assert report.overall.stopped.worst_ms == 5.0 and report.incidents_in_all == 1
    assert report.losses == {"records of this trail: ENOSPC": 3} and report.drills.runs == []
    assert report.drills.agents[0].state == "overdue" and report.drills.agents[0].last is not None
    assert answer(report).sentence.endswith("not stopped: the sensor only watches (monitor mode)")
    assert report.watch.gaps == []


def test_drills(tell: Callable[..., Report]) -> None:
    def fill(told: Story) -> None:
        told.start()
        told.drill("rome-rl", passed=False)
        told.at(10).drill("rome-rl")
        told.drill("evals", passed=False)
        told.audit.append("drill", agent="crawler", behaviour="miner", passed=True, known_ms=1.0, stopped_ms=2.0)
        for number in range(2):
            told.audit.append("drill", drill=f"{number}", agent="both", behaviour="miner", passed=not number)
        for number in range(2):
            told.audit.append("drill", drill=f"{number}", agent="both", passed=not number, behaviours=1, summary=True)
        told.audit.append("drill", agent="lies", behaviour="miner", passed=False)
        told.audit.append("drill", agent="lies", passed=True, behaviours=1, summary=True)
        told.audit.append("drill", agent="short", passed=True, behaviours=5, summary=True)
        told.audit.append("drill", agent=["?"], behaviour={}, passed="yes", known_ms="fast", summary=None)

    report = tell(fill, "rome-rl", "evals", "crawler", "both", "lies", "short", "never")
    states = {one.agent: one.state for one in report.drills.agents}
    assert states == {
        "rome-rl": "ok",
        "evals": "failed",
        "crawler": "unfinished",
        "both": "failed",
        "lies": "failed",
        "short": "failed",
        "never": "never",
    }
    assert report.drills.runs_in_all == 9 and report.drills.known.count == 5 + 4 + 4 + 1
    assert answer(report).basis == "Medians of 14 measurements in drills."
    assert not report.good and "1 agent without a drill in the last 31 days." in report.reasons
    failed = report.drills.runs[-1].behaviours[1]
    assert (failed.name, failed.passed, failed.error) == ("miner", False, "nothing was seen of it")


def test_a_drill_that_broke_off_is_not_continued_by_the_next(tell: Callable[..., Report]) -> None:
    def fill(told: Story) -> None:
        told.audit.append("drill", agent="a", behaviour="miner", passed=False)
        told.at(20).drill("a")

    report = tell(fill, "a")
    assert [run.passed for run in report.drills.runs] == [True, None] and report.drills.agents[0].state == "ok"


def test_a_canary_is_no_incident(tell: Callable[..., Report]) -> None:
    def fill(told: Story) -> None:
        told.start()
        who = {"alert": "a" * 32, "agent": "rome-rl", "drill": True}
        told.audit.append("verdict", **who, rule="r", title="T", level="critical", action="kill", detect_ms=1.0)
        told.audit.append("action", **who, action="kill", outcome="failed")
        told.respond(agent="rome-rl~0123456789ab", outcome="failed")

    report = tell(fill)
    assert report.incidents == [] and report.overall.alerts == 0


def test_times_without_a_sensor(tell: Callable[..., Report]) -> None:
    def fill(told: Story) -> None:
        told.at(2).start()
        told.at(5).audit.append("stop", pid=1)
        told.at(6).start()
        told.at(8).audit.append("request", command="status", answer="done")
        told.at(9).start()
        told.at(29).audit.append("stop", pid=1)

    report = tell(fill)
    gaps = [(gap.start[8:10], gap.end[8:10], gap.why) for gap in report.watch.gaps]
    assert gaps == [
        ("31", "02", "unrecorded"),
        ("05", "06", "stopped"),
        ("08", "09", "ended"),
        ("29", "30", "stopped"),
    ]
    assert report.watch.unwatched_s == 5 * 86400
    assert answer(report).caveats[:1] == ["No sensor ran 4 times in this period, 5 d in all."]


def test_an_empty_period_and_no_trail(tell: Callable[..., Report], tmp_path: Path) -> None:
    report = tell(lambda told: told.at(-1).start())
    assert report.good and report.incidents == [] and report.overall.stopped.count == 0
    said = answer(report)
    assert said.sentence == "Nothing shows when we would know, and nothing shows when it would be stopped"
    nothing = report_of(tmp_path / "nowhere")[0]
    assert not nothing.good and "No such file" in str(nothing.trail.problem) and nothing.watch.gaps_in_all == 1
    (tmp_path / "empty/audit").mkdir(parents=True)
    assert "holds no audit trail" in str(report_of(tmp_path / "empty")[0].trail.problem)
    (tmp_path / "audit" / layout.PUBLIC_KEY).unlink()
    assert "holds no key" in str(report_of(tmp_path)[0].trail.problem)


def test_a_broken_trail_says_so_and_is_reported_all_the_same(tmp_path: Path) -> None:
    with story(tmp_path / "a") as told:
        eventful(told)
    whole = report_of(tmp_path / "a")[0]
    assert whole.trail.good and whole.trail.signed == whole.trail.records and whole.trail.signed_until
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    rewrite(tmp_path / "b/audit", lambda lines: [*lines[:9], b'{"index": 9, rubbish\n', b"\xff\xfe\n", *lines[11:]])
    (tmp_path / "b/audit/aside-1").mkdir()
    broken = report_of(tmp_path / "b")[0]
    assert not broken.trail.good and not broken.good and "does not verify" in broken.reasons[0]
    assert "trail-000000000000.jsonl:10" in broken.trail.findings[0] and broken.trail.set_aside == ["aside-1"]
    assert broken.overall.deeds.done >= whole.overall.deeds.done - 2


def test_whatever_the_records_hold(tell: Callable[..., Report]) -> None:
    wrong = [None, True, -1, 1e999, 1 << 80, "x", [], {}, [None], {"a": None}, HOSTILE]
    kinds = (
        "start",
        "stop",
        "reload",
        "event",
        "verdict",
        "intent",
        "action",
        "approval",
        "notification",
        "drill",
        "loss",
    )

    def fill(told: Story) -> None:
        for value in wrong:
            names = "alert agent owner rule title level action outcome cgroup count detect_ms respond_ms processes what"
            names += (
                " why lost intent event mode host incident alerts incidents behaviour behaviours limit_ms reason detail"
            )
            for kind in kinds:
                told.audit.append(kind, **dict.fromkeys(names.split(), value))
                told.audit.append(
                    kind, **dict.fromkeys(names.split(), value) | {"alert": "a", "event": {"time": value}}
                )

    report = tell(fill)
    assert report.trail.records == len(wrong) * len(kinds) * 2


def test_tables_are_bounded(tell: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "KEEP", 10)
    monkeypatch.setattr(cases, "OPEN", 8)
    monkeypatch.setattr(cases, "KNOWN", 20)
    monkeypatch.setattr(cases, "STEPS", 5)
    monkeypatch.setattr("sensor.record.report.tally.CELLS", 5)
    monkeypatch.setattr("sensor.record.report.gather.KNOWN", 20)
    monkeypatch.setattr(drills, "AGENTS", 3)

    def fill(told: Story) -> None:
        told.start()
        for number in range(100):
            told.respond(agent=f"agent-{number}", outcome="failed" if number == 1 else "done")
            told.audit.append("drill", agent=f"agent-{number}", behaviour="x", passed=True)
        for _ in range(9):
            told.respond(agent="agent-0")

    report = tell(fill)
    assert report.incidents_in_all >= 100 and len(report.incidents) == 11
    assert [one.agent for one in report.incidents if one.outcome == "failed"] == ["agent-1"]
    assert max(len(one.steps) for one in report.incidents) == 5 and any(one.steps_left_out for one in report.incidents)
    assert len(report.agents) <= 6 and report.overall.deeds == Deeds(done=108, failed=1), "none is uncounted"
    assert report.crowded_out and all(report.crowded_out.values())


def test_the_log_axis_and_the_plots() -> None:
    axis = LogAxis([0.3, 45.0], 0, 300)
    assert [tick.label for tick in axis.ticks()] == ["0.1 ms", "1 ms", "10 ms", "100 ms"]
    assert axis.x(1) == 100 and axis.x(10) == 200 and axis.x(1e9) == 300 and axis.x(0) == 0
    assert decade_label(-2) == "0.01 ms" and decade_label(3) == "1 s" and decade_label(6) == "1,000 s"
    plot = histogram([0.0, 1.0, 1.1, 99.0, 1e14], [0.0, 1e14], 300, 100)
    assert plot is not None and sum(bar.count for bar in plot.bars) == 5
    assert histogram([], [1.0], 300, 100) is None and ranges([], 300) is None


def test_the_timeline_has_a_lane_for_the_busiest_and_one_for_the_rest(tell: Callable[..., Report]) -> None:
    def fill(told: Story) -> None:
        told.start()
        for number in range(15):
            told.at(number).respond(agent=f"agent-{number:02}")
        told.at(1.5).respond(agent="agent-14", outcome="failed")

    plot = timeline(tell(fill), 600, 3)
    names = [lane.name for lane in plot.lanes]
    assert len(names) == 12 and names[0] == "agent-14" and names[-1] == "other agents"
    assert sum(int(re.match(r"\d+", mark.words)[0]) for mark in plot.marks) == 16  # type: ignore[index]
    assert [mark.outcome for mark in plot.marks].count("failed") == 1
    assert all(0 <= mark.x <= 600 for mark in plot.marks) and plot.gaps
