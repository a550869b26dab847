"""A report on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sensor.faults import printable
from sensor.record.report.answer import QUESTION, answer
from sensor.record.report.cases import NOT_STOPPED
from sensor.record.report.model import Incident, Latency, Report, Row
from sensor.record.report.words import duration

ROWS = 15
INCIDENTS = 15
_WIDE = 200
"""How wide lines are where no terminal is."""
_BAD = "bold red"


def show(report: Report, page: Path | None) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    _answer(console, report)
    for title, rows in (
        ("action", report.actions),
        ("agent", report.agents),
        ("owner", report.owners),
        (
            "rule",
            [Row(row.title or row.name, *(getattr(row, f) for f in Row.__struct_fields__[1:])) for row in report.rules],
        ),
    ):
        if rows:
            console.print(_deeds(title, rows))
    _drills(console, report)
    _incidents(console, report)
    _trail(console, report)
    if page is not None:
        console.print(Text(f"\nthe page: {printable(str(page))}"))


def _answer(console: Console, report: Report) -> None:
    said = answer(report)
    console.print(Text(f"{report.since[:19]}Z to {report.until[:19]}Z", style="dim"))
    console.print(Text(f"{QUESTION}:"))
    console.print(Text(f"  {said.sentence}.", style="bold"))
    console.print(Text(f"  {said.basis}"))
    for reason in report.reasons:
        console.print(Text(f"  NO: {printable(reason)}", style=_BAD))
    for caveat in said.caveats:
        console.print(Text(f"  {caveat}", style="yellow"))


def _deeds(title: str, rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=None)
    for name in (f"\n{title}", "\nalerts", "known\nmedian", "\np99", "\nworst", "stopped\nmedian", "\np99", "\nworst"):
        table.add_column(name, justify="left" if title in name else "right", overflow="fold")
    for name in ("done", "denied", "waiting", "allowed", "monitor", "refused", "failed", "no end"):
        table.add_column(f"\n{name}", justify="right")
    for row in rows[:ROWS]:
        deeds = row.deeds
        numbers = (deeds.done, deeds.denied, deeds.pending, deeds.approved, deeds.would)
        bad = (deeds.refused, deeds.failed, deeds.unfinished)
        table.add_row(
            Text(printable(row.name or "none named")),
            f"{row.alerts:,}",
            *_times(row.known),
            *_times(row.stopped),
            *(f"{number:,}" for number in numbers),
            *(Text(f"{number:,}", style=_BAD if number else "") for number in bad),
        )
    if len(rows) > ROWS:
        table.add_row(f"and {len(rows) - ROWS:,} more: --json or --html")
    return table


def _times(one: Latency) -> tuple[str, str, str]:
    values = (one.median_ms, one.p99_ms, one.worst_ms)
    first, second, third = ("-" if value is None else duration(value) for value in values)
    return first, second, third


def _drills(console: Console, report: Report) -> None:
    drills = report.drills
    states = Counter(one.state for one in drills.agents)
    console.print(
        Text(f"\ndrills: {states['ok']:,} of {len(drills.agents):,} agents passed one in {drills.limit_days} days")
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    late = [one for one in drills.agents if one.state != "ok"]
    for one in late[:ROWS]:
        when = f"last {one.last[:10]}" if one.last else ""
        table.add_row(Text(printable(one.agent)), Text(printable(one.owner)), Text(one.state, style=_BAD), when)
    if late:
        console.print(table)
    for run in drills.runs[:ROWS]:
        result = "passed" if run.passed else "came to no end" if run.passed is None else "did NOT pass"
        failed = ", ".join(one.name for one in run.behaviours if not one.passed)
        known = max((one.known_ms for one in run.behaviours if one.known_ms is not None), default=None)
        stopped = max((one.stopped_ms for one in run.behaviours if one.stopped_ms is not None), default=None)
        times = "" if known is None else f", known within {duration(known)}"
        times += "" if stopped is None else f", stopped within {duration(stopped)}"
        line = f"  {run.time[:19]}Z {run.agent or 'node'} {result}{f': {failed}' if failed else ''}{times}"
        console.print(Text(printable(line), style="" if run.passed else _BAD))
    for fault in report.agent_faults[:ROWS]:
        console.print(Text(f"  {printable(fault)}", style=_BAD))


def _incidents(console: Console, report: Report) -> None:
    console.print(Text(f"\nincidents: {report.incidents_in_all:,}"))
    if not report.incidents:
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for one in report.incidents[:INCIDENTS]:
        table.add_row(*(Text(printable(cell)) for cell in _incident(one)))
    console.print(table)
    if report.incidents_in_all > INCIDENTS:
        console.print(Text(f"  and {report.incidents_in_all - INCIDENTS:,} earlier: --html"))


def _incident(one: Incident) -> tuple[str, ...]:
    times = "" if one.known_ms is None else f"known {duration(one.known_ms)}"
    times += "" if one.stopped_ms is None or one.outcome in NOT_STOPPED else f", stopped {duration(one.stopped_ms)}"
    rule = (one.rules[0] if one.rules else "an alert") + (f" and {len(one.rules) - 1} more" if one.rules[1:] else "")
    return (
        f"{one.opened[:19]}Z",
        one.agent or one.cgroup or "no agent",
        one.owner or "no owner",
        rule,
        one.outcome,
        times,
    )


def _trail(console: Console, report: Report) -> None:
    trail = report.trail
    losses = ", ".join(f"{number:,} {printable(what)}" for what, number in report.losses.items())
    console.print(Text(f"\nlosses: {losses or 'none on record'}", style="yellow" if losses else ""))
    if trail.problem:
        console.print(Text(f"audit trail: not read: {printable(trail.problem)}", style=_BAD))
        return
    signed = f"checkpoint over {trail.signed:,} of {trail.records:,} records"
    signed += f", until {printable(trail.signed_until[:19])}Z" if trail.signed_until else ""
    state = "verifies" if trail.good else f"does NOT verify, {trail.findings_in_all:,} findings"
    console.print(Text(f"audit trail: {state}; {signed}", style="" if trail.good else _BAD))
    for finding in trail.findings:
        console.print(Text(f"  {printable(finding)}", style=_BAD))
