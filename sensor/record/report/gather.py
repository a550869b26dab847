"""The audit trail -> a report. Reads files only, also while the sensor writes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sensor.agents_file import AgentFile
from sensor.events import RecordError, parse_rfc3339, rfc3339
from sensor.record.audit import layout
from sensor.record.audit.bundle import records
from sensor.record.audit.note import PublicKey
from sensor.record.audit.verify import verify_trail
from sensor.record.report.cases import KNOWN, Cases
from sensor.record.report.drills import LIMIT_DAYS, DrillBook
from sensor.record.report.fields import count, mapping, milliseconds, text
from sensor.record.report.model import Report, Trail
from sensor.record.report.tally import Key, Tally
from sensor.record.report.watch import Watching

FINDINGS = 20
LOSSES = 200
UNDER_WAY_NS = 60 * 10**9
"""What began less than a minute ago may still be under way."""
OUTCOMES = frozenset({"done", "pending", "would", "refused", "failed"})
_ASKS = re.compile(r"\bcase ([a-z]{5}): hostbrake approve \1\b")
_CASE = re.compile(r"case ([a-z]{5})")
"""What freezing to ask (`sensor.respond.approvals`) writes: the question's reason, and a decision's detail."""
_IDS = (("alert", "incident"), ("alerts", "incidents"))
_DAY_NS = 86_400 * 10**9


class Gathered:
    """Reads the trail's records in order; those before the period only for what is true at its beginning."""

    def __init__(self, since: str, until: str) -> None:
        self.tally = Tally()
        self.cases = Cases()
        self.drills = DrillBook(since, until)
        self.watching = Watching(since, until)
        self.losses: Counter[str] = Counter()
        self.crowded_out: Counter[str] = Counter()
        self.unreadable = 0
        self._since = since
        self._until = until
        self._alerts: dict[str, Key] = {}
        self._frozen: dict[str, Key] = {}
        """The alerts that wait for a decision. They were stopped when they were frozen, not when that came."""
        self._asked: dict[str, str] = {}
        """The alert that a case was opened for, by the case's id."""
        self._decided: dict[str, str | None] = {}
        """The alert that a decision is about, by the alert under which it is carried out."""
        self._intents: dict[int, tuple[str, Mapping[str, Any]]] = {}
        """Those without an action so far, by index."""

    def take(self, record: Mapping[str, Any]) -> None:
        try:
            record = {**record, "time": rfc3339(parse_rfc3339(record["time"]))}
        except (RecordError, ValueError, OverflowError):
            self.unreadable += 1
            return
        self.watching.take(record)
        if record["kind"] == "drill":
            self.drills.take(record)
        elif self._since <= record["time"] <= self._until and not self.drills.is_canary(record):
            self._read(record)

    def finish(self) -> None:
        """What was begun and not ended has its place, too."""
        for alert, record in self._intents.values():
            if parse_rfc3339(self._until) - parse_rfc3339(record["time"]) < UNDER_WAY_NS:
                continue
            self.tally.response(self._key(alert, record), "unfinished", None)
            self.cases.outcome(alert, "unfinished", {}, None)
        self.crowded_out.update(
            {
                "agents, owners and rules": self.tally.crowded_out,
                "incidents cut short": self.cases.evicted,
                "drilled agents": self.drills.crowded_out,
            }
        )

    def _read(self, record: Mapping[str, Any]) -> None:
        kind, alert = record["kind"], text(record, "alert")
        if kind == "verdict" and alert and (case := _CASE.fullmatch(text(record, "detail") or "")):
            self._decided[alert] = self._asked.get(case[1])
        if alert in self._decided:
            self._decision(self._decided[alert], record)
        elif kind == "loss":
            self._loss(record)
        elif kind == "event" and alert:
            self.cases.event(alert, record)
        elif kind == "verdict" and alert:
            self._verdict(alert, record)
        elif kind == "intent" and alert:
            self._intend(alert, record)
        elif kind == "action" and alert:
            self._action(alert, record)
        elif kind == "request":
            asked = self._asked.get(text(mapping(record, "arguments"), "id") or "")
            self.cases.more({asked} if asked else set(), record)
        else:
            self.cases.more(_ids(record), record)

    def _decision(self, asked: str | None, record: Mapping[str, Any]) -> None:
        """What is done when a case is closed. It stopped, or not, when it was frozen, so no time of this counts."""
        if record["kind"] == "action" and asked is not None:
            self._action(asked, record)
        elif record["kind"] == "intent" and asked is not None:
            self._intend(asked, record)
        elif record["kind"] == "action" and text(record, "outcome") == "failed":
            self.tally.response(self._key("", record), "failed", None)

    def _verdict(self, alert: str, record: Mapping[str, Any]) -> None:
        known_ms, times = milliseconds(record, "detect_ms"), count(record, "count")
        key = Key(*(text(record, name) for name in ("agent", "owner", "rule", "title", "action")))
        if times is not None:
            self.tally.alert(key, None, times)
            return
        if alert not in self._alerts:  # else the same once more, since a person decided
            self.tally.alert(key, known_ms)
            if len(self._alerts) >= KNOWN:
                oldest = next(iter(self._alerts))
                del self._alerts[oldest]
                self._frozen.pop(oldest, None)
                self.crowded_out["alerts, before their responses"] += 1
            self._alerts[alert] = key
        self.cases.verdict(alert, record, known_ms)

    def _intend(self, alert: str, record: Mapping[str, Any]) -> None:
        if len(self._intents) < KNOWN:
            self._intents[record["index"]] = alert, record
        self.cases.more({alert}, record)

    def _action(self, alert: str, record: Mapping[str, Any]) -> None:
        intent = record.get("intent")
        if isinstance(intent, int):
            self._intents.pop(intent, None)
        outcome = _outcome(record)
        key, before = self._key(alert, record), self._frozen.pop(alert, None)
        stopped_ms = milliseconds(record, "respond_ms") if outcome in ("done", "pending") and before is None else None
        if before is None:
            self.tally.response(key, outcome, stopped_ms)
        else:
            self.tally.correct(before, "pending", outcome)
            key = before
        if outcome == "pending":
            self._frozen[alert] = key
            if (case := _ASKS.search(text(record, "reason") or "")) and len(self._asked) < KNOWN:
                self._asked[case[1]] = alert
        self.cases.more({alert}, record)
        self.cases.outcome(alert, outcome, record, stopped_ms)

    def _loss(self, record: Mapping[str, Any]) -> None:
        what = text(record, "what") or "unnamed"
        found = {"missing": mapping(record, "why"), "lost": mapping(record, "lost")}.get(what)
        prefix = "records of this trail: " if what == "missing" else ""
        for name in found or {what: 1}:
            if len(self.losses) < LOSSES or prefix + name in self.losses:
                self.losses[prefix + name] += (count(found, name) or 1) if found else 1
            else:
                self.crowded_out["losses"] += 1

    def _key(self, alert: str, record: Mapping[str, Any]) -> Key:
        """The alert's, with the action that was taken."""
        known = self._alerts.get(alert) or Key(text(record, "agent"), text(record, "owner"))
        return known._replace(action=text(record, "action"))


def gather(
    directory: Path,
    keys: Sequence[PublicKey],
    elsewhere: Iterable[tuple[str, bytes]],
    since: int,
    until: int,
) -> tuple[Gathered, Trail]:
    """Verify the trail and read it; `since` and `until` in nanoseconds since the epoch. Raises nothing for what is
    not there or broken: `Trail.problem` and `Trail.findings` say so.
    """
    gathered, trail = Gathered(rfc3339(since), rfc3339(until)), Trail(str(directory))
    try:
        _verify(trail, directory, keys, elsewhere)
        for _, record in records(directory):
            gathered.take(record)
            if record["index"] == trail.signed - 1:
                trail.signed_until = record["time"]
        trail.set_aside = sorted(path.name for path in directory.iterdir() if path.name.startswith(("aside-", "torn-")))
    except OSError as error:
        trail.problem, trail.good = f"{error.filename or directory}: {error.strerror}", False
    gathered.finish()
    trail.unreadable = gathered.unreadable
    return gathered, trail


def _verify(trail: Trail, directory: Path, keys: Sequence[PublicKey], elsewhere: Iterable[tuple[str, bytes]]) -> None:
    if not layout.segments(directory):
        trail.problem = f"{directory} holds no audit trail"
        return
    if not keys:
        trail.problem = f"{directory} holds no key that the trail could be verified with"
        return
    found = verify_trail(directory, keys, elsewhere)
    trail.good, trail.records, trail.signed = found.is_good(), found.records, found.signed
    trail.first, trail.last = found.first, found.last
    trail.findings = [str(finding) for finding in found.findings[:FINDINGS]]
    trail.findings_in_all = len(found.findings) + found.more_findings


def make_report(
    gathered: Gathered,
    trail: Trail,
    *,
    agents: Sequence[AgentFile],
    agent_faults: Sequence[str],
    since: int,
    until: int,
) -> Report:
    """The report of the period, and whether the answer is good. Times in nanoseconds since the epoch."""
    tally = gathered.tally
    report = Report(
        made=rfc3339(until),
        since=rfc3339(since),
        until=rfc3339(until),
        trail=trail,
        watch=gathered.watching.finish(),
        overall=tally.overall(),
        agents=tally.by_agent(),
        owners=tally.by_owner(),
        rules=tally.by_rule(),
        actions=tally.by_action(),
        drills=gathered.drills.finish(agents, rfc3339(until - LIMIT_DAYS * _DAY_NS)),
        incidents=gathered.cases.finish(),
        incidents_in_all=gathered.cases.count,
        losses=dict(gathered.losses.most_common()),
        crowded_out={name: number for name, number in gathered.crowded_out.items() if number},
        agent_faults=list(agent_faults),
    )
    report.reasons = list(_reasons(report))
    report.good = not report.reasons
    return report


def _reasons(report: Report) -> Iterable[str]:
    trail, deeds = report.trail, report.overall.deeds
    if trail.problem:
        yield f"There is no record to report from: {trail.problem}."
    elif not trail.good:
        yield (
            f"The audit trail does not verify ({trail.findings_in_all:,} findings): "
            "nothing below is more trustworthy than that."
        )
    for number, what in (
        (deeds.failed, "failed"),
        (deeds.unfinished, "began, with no end on record"),
        (deeds.refused, "refused, since a guard protects what would have been stopped"),
    ):
        if number:
            yield f"{number:,} response{'' if number == 1 else 's'} {what}."
    states = Counter(one.state for one in report.drills.agents)
    late = states["never"] + states["overdue"]
    if late:
        yield f"{_agents(late)} without a drill in the last {LIMIT_DAYS} days."
    if states["failed"] + states["unfinished"]:
        yield f"{_agents(states['failed'] + states['unfinished'])} whose last drill did not pass."
    if report.agent_faults:
        yield "Files of agents have faults, so it is not known whether every agent was drilled."


def _agents(number: int) -> str:
    return f"{number:,} agent{'' if number == 1 else 's'}"


def _outcome(record: Mapping[str, Any]) -> str:
    """The name of one of `Deeds`' counts."""
    said, action = text(record, "outcome"), text(record, "action")
    if said in ("done", "none") and (text(record, "reason") or "").startswith("approved by "):
        return "approved"
    if said == "none":  # what was frozen to ask is gone
        return "done"
    if said == "done" and action == "deny" and not count(record, "processes"):
        return "denied"
    return said if said in OUTCOMES else "failed"


def _ids(record: Mapping[str, Any]) -> set[str]:
    one, many = _IDS
    found = [record.get(name) for name in one]
    for name in many:
        value = record.get(name)
        found += value if isinstance(value, list) else []
    return {item for item in found if isinstance(item, str)}
