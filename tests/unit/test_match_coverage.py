"""What this sensor cannot decide is loaded, never fires or says what it misses, and is no fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from matching import fires, parse, rule_of

from sensor.match.load import load_rules

NO_HASHES = "process_creation events have no field `Hashes`"

CASES = [
    ("sel: {Image: /a}", "sel", "full", []),
    ("sel: {Image: /a, Hashes: x}", "sel", "never", [NO_HASHES]),
    ("sel: {Hashes|contains|all: [x, y]}", "sel", "never", [NO_HASHES]),
    ("sel: {Hashes|exists: true}", "sel", "never", [NO_HASHES]),
    ("a: {Image: /a}\nb: {Hashes: x}", "a or b", "degraded", [f"{NO_HASHES}: what needs it never matches"]),
    ("a: {Image: /a}\nb: {Hashes: x}", "1 of them", "degraded", [f"{NO_HASHES}: what needs it never matches"]),
    ("a: {Image: /a}\nb: {Hashes: x}", "all of them", "never", [NO_HASHES]),
    ("a: {Image: /a}\nb: {Hashes: x}", "a and not b", "degraded", [f"{NO_HASHES}: nothing is excluded by it"]),
    ("a: {Image: /a, Hashes|neq: x}", "a", "degraded", [f"{NO_HASHES}: nothing is excluded by it"]),
    ("a: {Image: /a, Hashes: null}", "a", "degraded", [f"{NO_HASHES}: it counts as absent from every event"]),
    ("a: {Image: /a}\nb: {Hashes: null}", "a and not b", "never", [NO_HASHES]),
    ("a: {Hashes: x}", "not a", "never", [NO_HASHES, "without that it would match every event"]),
    ("a: {Image|fieldref: Hashes}", "a", "never", [NO_HASHES]),
    ("a: {User|expand: '%admins%'}", "a", "never", ["placeholder `%admins%` has no values here"]),
    ("a: {User|re|expand: '%admins%.*'}", "a", "never", ["placeholder `%admins%` has no values here"]),
    ("a: {UserId|hour: 3}", "a", "never", ["field `UserId` is no time, of which `hour` could be taken"]),
]


@pytest.mark.parametrize(("detections", "condition", "status", "reasons"), CASES)
def test_fields(detections: str, condition: str, status: str, reasons: list[str]) -> None:
    rule = rule_of(f"{detections}\ncondition: {condition}")
    assert (rule.coverage.status, list(rule.coverage.reasons)) == (status, reasons)
    assert fires(rule, image="/a") is (status != "never")


def test_null_of_a_field_that_no_event_has_holds() -> None:
    rule = rule_of("a: {Image: /a, Hashes: null}\ncondition: a")
    assert fires(rule, image="/a")
    assert not fires(rule, image="/b")


KILL = """
title: T
logsource: {category: process_creation}
detection: %s
response: {action: %s, scope: process}
"""
HELD = [
    ("{a: {Image: /a}, b: {Hashes: x}, condition: a and not b}", True),
    ("{a: {Image: /a}, b: {Hashes: x}, condition: a and not 1 of b*}", True),
    ("{a: {Image: /a, Hashes|neq: x}, condition: a}", True),
    ("{a: {Image: /a, Hashes: null}, condition: a}", True),
    ("{a: {Image: /a}, b: {Hashes: x}, condition: a or b}", False),
    ("{a: {Image: /a}, b: {User: us, Hashes: x}, c: {User: us}, condition: a and not b and not c}", True),
    ("{a: {Image: /a}, b: {User: us}, condition: a and not b}", False),
]


@pytest.mark.parametrize(("detection", "held"), HELD)
@pytest.mark.parametrize("action", ["kill", "freeze", "isolate", "deny"])
def test_a_rule_whose_exclusions_cannot_be_told_only_alerts(detection: str, held: bool, action: str) -> None:
    (rule,), faults = parse(KILL % (detection, action))
    assert not faults
    assert fires(rule, image="/a")
    assert (rule.info.action, rule.info.scope) == ("alert" if held else action, "process")
    told = f"it could `{action}` what it should exclude, so it only alerts"
    assert (told in rule.coverage.reasons) is held


def test_the_cache_holds_it_to_alert_too(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(KILL % (HELD[0][0], "kill"))
    for cache in ("written", "used"):
        rules = load_rules([tmp_path], cache=tmp_path / "state" / "cache")
        assert rules.cache == cache
        assert [(rule.info.action, rule.coverage.broader) for rule in rules] == [("alert", True)]


LOG_SOURCES = [
    ("{product: linux, category: process_creation}", None),
    ("{product: Linux, category: network_connection}", None),
    ("{category: device_open}", None),
    ("{product: windows, category: process_creation}", "log source product `windows` is another system"),
    ("{product: linux, service: auditd}", "log source service `auditd` is not read by this sensor"),
    ("{product: linux, category: process_creation, service: sshd}", "log source service `sshd` is not read"),
    ("{product: linux, category: file_event}", "this sensor has no file_event events"),
    ("{product: linux}", "the log source names no category"),
]


@pytest.mark.parametrize(("log_source", "reason"), LOG_SOURCES)
def test_log_sources(log_source: str, reason: str | None) -> None:
    text = f"title: T\nlogsource: {log_source}\ndetection:\n  sel: {{Image: /a}}\n  condition: sel\n"
    (rule,), faults = parse(text)
    assert not faults
    if reason is None:
        assert rule.coverage.status == "full"
        assert fires(rule, image="/a")
    else:
        assert rule.coverage.status == "never"
        assert rule.coverage.reasons[0].startswith(reason)
        assert not fires(rule, image="/a")


def test_rules_see_only_their_category() -> None:
    rule = rule_of("sel: {Image: /a}\ncondition: sel", "device_open")
    assert fires(rule, image="/a")
    from matching import event_of

    from sensor.match.matcher import Matcher

    assert not Matcher([rule]).match(event_of("process_creation", image="/a"))


BASE = """
title: Base
id: 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a02
name: base
logsource: {category: process_creation}
detection: {sel: {Image: /a}, condition: sel}
"""
CORRELATION = """
title: Many
id: 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a03
correlation:
  type: event_count
  rules: [base]
  group-by: [User]
  timespan: 1m
  condition: {gte: 10}
"""


def test_correlation_rules_and_what_only_feeds_them_never_fire() -> None:
    rules, faults = parse(BASE, CORRELATION)
    assert not faults
    assert {rule.info.title: rule.coverage.status for rule in rules} == {"Base": "never", "Many": "never"}
    assert rules[1].coverage.reasons == ("correlation rules are not supported yet",)
    assert "`Many`" in rules[0].coverage.reasons[0]
    rules, _ = parse(BASE, CORRELATION.replace("correlation:", "correlation:\n  generate: true"))
    assert fires(rules[0], image="/a")
    rules, _ = parse(BASE)
    assert fires(rules[0], image="/a")


FILTER = """
title: Not ours
logsource: {category: process_creation}
filter:
  rules: [5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a02]
  ours: {User: us}
  condition: not ours
"""


def test_sigma_filters_narrow_the_rules_they_name() -> None:
    rules, faults = parse(BASE, FILTER)
    assert not faults
    assert [rule.info.title for rule in rules] == ["Base"]
    assert fires(rules[0], image="/a", user="root")
    assert not fires(rules[0], image="/a", user="us")
    rules, _ = parse(BASE, FILTER.replace("6a02", "6aff"))
    assert fires(rules[0], image="/a", user="us")
