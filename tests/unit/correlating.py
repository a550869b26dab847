"""What the tests of correlations share: rules from a few words, events at seconds, and who fires when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from matching import parse

from sensor.events import AnyEvent, NetworkConnection
from sensor.match.ir import Rule
from sensor.match.matcher import Matcher
from sensor.verdict import Verdict

SECOND = 1_000_000_000


def base(name: str, category: str = "network_connection", **selection: Any) -> str:
    """A rule of this name on events with these field values."""
    detection = {"s": {key.replace("__", "|"): value for key, value in selection.items()}, "condition": "s"}
    data = {"title": name, "name": name, "detection": detection}
    return yaml.safe_dump({**data, "logsource": {"product": "linux", "category": category}})


def correlation(title: str, kind: str, rules: Sequence[str] | None, timespan: str = "10s", **more: Any) -> str:
    """A correlation rule; `group` is group-by; what begins with `rule_` is the rule's own, not its section's."""
    section: dict[str, Any] = {"type": kind, "timespan": timespan}
    if rules is not None:
        section["rules"] = list(rules)
    own = {key.removeprefix("rule_"): more.pop(key) for key in list(more) if key.startswith("rule_")}
    section |= {key.replace("group", "group-by"): value for key, value in more.items()}
    return yaml.safe_dump({"title": title, "name": title, **own, "correlation": section})


A, B, C = (base(name, DestinationPort=port) for name, port in (("a", 1), ("b", 2), ("c", 3)))
"""Connections to the ports 1, 2 and 3."""


def rules_of(*texts: str) -> list[Rule]:
    rules, faults = parse("---\n".join(texts))
    assert not faults, [str(fault) for fault in faults]
    return rules


def connect(seconds: float, port: int = 1, **fields: Any) -> NetworkConnection:
    given = {"process_guid": "p", "destination_ip": "192.0.2.1"} | fields
    return NetworkConnection(time=0, boottime=int(seconds * SECOND), destination_port=port, **given)


def fired(rules: Iterable[Rule], events: Iterable[AnyEvent], title: str | None = None) -> list[float]:
    """The seconds of the events that correlations fired on (those of this title alone)."""
    return [
        verdict.event.boottime / SECOND for verdict in verdicts(rules, events) if title in (None, verdict.rule.title)
    ]


def verdicts(rules: Iterable[Rule], events: Iterable[AnyEvent]) -> list[Verdict]:
    matcher = Matcher(rules)
    found = [verdict for event in events for verdict in matcher.match(event)]
    return found + matcher.finish()
