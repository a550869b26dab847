"""The report as one page of HTML that needs nothing else: no script, no network, no font.

All text in it goes through `printable` and is then escaped by the template engine; charts are drawn by the template,
too, so there is no other way in.
"""

from __future__ import annotations

import base64
from collections import Counter
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sensor.faults import printable
from sensor.record.report import charts
from sensor.record.report.answer import QUESTION, answer
from sensor.record.report.cases import NOT_STOPPED
from sensor.record.report.model import Incident, Report, Row
from sensor.record.report.words import duration

INCIDENTS = 100
"""How many have their timeline on the page."""
STEPS = 25
ROWS = 100
"""Of a table."""
TEXT = 300
_HERE = Path(__file__).parent
_WIDE, _NARROW = 1080.0, 360.0
_CHART = 520.0
_HISTOGRAM = 190.0


def render(report: Report, known: list[float], stopped: list[float]) -> str:
    """`known` and `stopped`: every measurement of the period, in milliseconds."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    every = [*known, *stopped]
    text = (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            answer=answer(report),
            question=QUESTION,
            style=Markup(style),
            policy=_policy(style),
            incidents=_chosen(report.incidents),
            steps=STEPS,
            rows=ROWS,
            tables=_tables(report),
            states=Counter(one.state for one in report.drills.agents),
            timelines=[("wide", charts.timeline(report, _WIDE, 6)), ("narrow", charts.timeline(report, _NARROW, 2))],
            histograms=[
                ("known", "Time to know", charts.histogram(known, every, _CHART, _HISTOGRAM)),
                ("stopped", "Time to stop", charts.histogram(stopped, every, _CHART, _HISTOGRAM)),
            ],
            ranges=charts.ranges(report.agents, _CHART),
            rule_ranges=charts.ranges([_titled(row) for row in report.rules], _CHART),
        )
    )
    return text.strip() + "\n"


def _policy(style: str) -> str:
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _chosen(incidents: list[Incident]) -> list[Incident]:
    """What was not stopped comes first, so that a thousand that were cannot hide it."""
    return sorted(incidents, key=lambda one: one.outcome not in NOT_STOPPED)[:INCIDENTS]


def _tables(report: Report) -> list[tuple[str, str, list[Row]]]:
    return [
        ("By agent", "Agent", report.agents),
        ("By owner", "Owner", report.owners),
        ("By rule", "Rule", [_titled(row) for row in report.rules]),
        ("By action", "Action", report.actions),
    ]


def _titled(row: Row) -> Row:
    """A rule under its title, which is what people know it by."""
    return Row(row.title or row.name, None, row.alerts, row.known, row.stopped, row.deeds)


def _environment() -> Environment:
    # autoescape for every template, whatever its name ends in; `finalize` sees each value before it is escaped.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = _duration
    environment.filters["stopped"] = _stopped
    environment.filters["time"] = _time
    environment.filters["short"] = _short
    return environment


def _harmless(value: object) -> object:
    """What acts on a reader (controls, bidirectional marks) as its escape; and nothing is without bound."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    cut = value if len(value) <= TEXT else f"{value[:TEXT]}…"
    return printable(cut)


def _duration(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else duration(milliseconds)


def _stopped(incident: Incident) -> str:
    """Where one response failed, another's time is no answer."""
    return "not stopped" if incident.outcome in NOT_STOPPED else _duration(incident.stopped_ms)


def _time(text: str | None) -> str:
    """To the second, as people read it; UTC."""
    return "-" if not text else f"{text[:10]} {text[11:19]}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
