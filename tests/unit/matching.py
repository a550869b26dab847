"""What the tests of `sensor.match` share: rules from a detection, events from a few fields."""

from __future__ import annotations

from typing import Any

from sensor.events import CLASSES, AnyEvent
from sensor.faults import Fault
from sensor.match import ir, sigma_file
from sensor.match.matcher import Matcher

HEADER = """\
title: A rule
id: 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a01
logsource: {{product: linux, category: {category}}}
"""


def parse(*texts: str) -> tuple[list[ir.Rule], list[Fault]]:
    """The rules and faults of files r0.yml, r1.yml, …"""
    files = [
        sigma_file.SourceFile(f"/rules/r{number}.yml", f"r{number}.yml", text.encode("utf-8", "surrogatepass"))
        for number, text in enumerate(texts)
    ]
    return sigma_file.parse(files)


def rule_of(detection: str, category: str = "process_creation") -> ir.Rule:
    """The rule with this `detection:` block (YAML at any indent of its own)."""
    indented = "".join(f"  {line}\n" for line in detection.strip("\n").splitlines())
    rules, faults = parse(HEADER.format(category=category) + "detection:\n" + indented)
    assert not faults, faults
    return rules[0]


def event_of(category: str = "process_creation", **fields: Any) -> AnyEvent:
    return CLASSES[category](time=0, **fields)


def fires(rule: ir.Rule, **fields: Any) -> bool:
    category = rule.category if rule.category in CLASSES else "process_creation"
    return bool(Matcher([rule]).match(event_of(category, **fields)))
