"""An incident in plain language, for a telephone. What a workload chose itself is printable, bounded and defused."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from sensor.duration import in_words
from sensor.faults import printable
from sensor.record.notify.incidents import Incident

TITLE_LENGTH = 120
ALONE, TOGETHER = 600, 100
"""How long a line may be that a workload has a say in; several incidents have to share a body of about 4,000."""
IN_ONE = 5
"""How many incidents one message describes; further ones are named by their number."""
_SAFE_PATH = re.compile(r"/[A-Za-z0-9_./@:+-]{1,150}")


class Message(NamedTuple):
    title: str
    body: str
    level: str


def message(incidents: Sequence[Incident], host: str, unanswered_s: float | None = None) -> Message:
    """Of one incident or of several, gravest first; `unanswered_s`: nobody acknowledged for so long."""
    ranked = sorted(incidents, key=lambda incident: (-incident.severity, incident.opened))
    first = ranked[0]
    what = f"{_who(first)}: {first.rule}"
    more = f" (and {len(ranked) - 1} more)" if len(ranked) > 1 else ""
    late = f"not acknowledged for {in_words(unanswered_s)}: " if unanswered_s is not None else ""
    title = f"Hostbrake on {host}: {late}{what}{more}"
    width = ALONE if len(ranked) == 1 else TOGETHER
    parts = [_describe(incident, host, width) for incident in ranked[:IN_ONE]]
    if len(ranked) > IN_ONE:
        parts.append(f"and {len(ranked) - IN_ONE} more incidents: hostbrake ack lists them")
    if unanswered_s is not None:
        parts.insert(0, "You are told because nobody has acknowledged this.")
    return Message(_cut(harmless(title), TITLE_LENGTH), "\n\n".join(parts), first.level)


def trial(whom: str, host: str) -> Message:
    """What `hostbrake notify` sends."""
    title = f"Hostbrake on {host}: a test"
    return Message(title, f"This is a test of how to reach the {harmless(whom)}. Nothing has happened.", "low")


def harmless(text: str) -> str:
    """Printable, and in no service a mention, a link or markup that a workload could have written."""
    text = printable(text).replace("@", "(at)").replace("://", "[:]//")
    return text.translate({ord("<"): "(", ord(">"): ")", ord("`"): "'", ord("|"): "/"})


def _describe(incident: Incident, host: str, width: int) -> str:
    """`width`: of each line that a workload has a say in; the commands below them are whole."""
    rules = ", ".join(f"{name} ({count})" for name, count in incident.rules.items())
    alerts = "1 alert" if incident.count == 1 else f"{incident.count} alerts"
    until = f" to {_time(incident.last)}" if incident.last > incident.opened else ""
    lines = [
        _cut(f"What: {harmless(incident.reason)}", width),
        _cut(f"Rules: {harmless(rules)}", width) if len(incident.rules) > 1 else "",
        f"Level: {incident.level}, {alerts} so far",
        _cut(harmless(f"Who: {_who(incident)}{f', owner {incident.owner}' if incident.owner else ''}"), width),
        f"When: {_time(incident.opened)}{until}",
        _cut(f"Done: {harmless('; '.join(incident.deeds))}", width),
        f"Incident: {incident.id}",
        f"On {host}:",
        *(f"  {command}" for command in _commands(incident)),
    ]
    return "\n".join(filter(None, lines))


def _commands(incident: Incident) -> list[str]:
    commands = [f"hostbrake ack {incident.id}"]
    if incident.waiting:
        commands.append("hostbrake pending    (then: hostbrake approve ID, or hostbrake deny ID)")
    if incident.agent:
        commands.append(f"hostbrake kill {incident.agent}")
    elif incident.cgroup and _SAFE_PATH.fullmatch(incident.cgroup):
        commands.append(f"hostbrake kill --cgroup {incident.cgroup}")
    return commands


def _who(incident: Incident) -> str:
    if incident.agent:
        return f"agent {incident.agent}"
    return f"no agent, cgroup {incident.cgroup}" if incident.cgroup else "the sensor"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
