"""Correlation rules as they are loaded: references, coverage, faults with their places, and the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from correlating import A, B, base, connect, correlation, rules_of, verdicts
from matching import parse

from sensor.match.load import load_rules

COUNT = {"gte": 2}
FOREIGN = "title: foreign\nname: foreign\nlogsource: {product: windows}\ndetection: {s: {EventID: 1}, condition: s}\n"
PARTIAL = base("partial").replace("s: {}", "s: [{DestinationPort: 1}, {NoSuchField: x}]")
BROADER = (
    base("broader")
    .replace("s: {}", "s: {DestinationPort: 1}\n  t: {NoSuchField: x}")
    .replace("condition: s", "condition: s and not t")
)


def coverage(*texts: str, title: str = "x") -> tuple[str, str]:
    (rule,) = [rule for rule in rules_of(*texts) if rule.info.title == title]
    return rule.coverage.status, "; ".join(rule.coverage.reasons)


def test_rules_are_referred_to_by_name_or_id_across_files() -> None:
    identified = A.replace("name: a", "id: 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a02")
    rule = correlation("x", "temporal", ["5BA2A9C8-5d4c-4f1c-9c8b-0d3c0b1f6a02", "b"])
    rules, faults = parse(rule, identified, B)
    assert not faults
    assert [v.rule.title for v in verdicts(rules, [connect(1), connect(2, 2)])] == ["x"]


@pytest.mark.parametrize(
    ("texts", "status", "says"),
    [
        ((A, correlation("x", "event_count", ["a"], condition=COUNT)), "full", ""),
        ((FOREIGN, correlation("x", "event_count", ["foreign"], condition=COUNT)), "never", "`foreign` never fires"),
        ((A, FOREIGN, correlation("x", "event_count", ["a", "foreign"], condition=COUNT)), "degraded", "`foreign`"),
        ((A, FOREIGN, correlation("x", "temporal", ["a", "foreign"])), "never", "`foreign` never fires"),
        ((A, B, FOREIGN, correlation("x", "temporal", ["a", "b", "foreign"], condition=COUNT)), "degraded", "foreign"),
        ((A, FOREIGN, correlation("x", "temporal_ordered", ["a", "foreign"])), "never", "`foreign` never fires"),
        ((A, FOREIGN, correlation("x", "temporal", None, condition="a and foreign")), "never", "`foreign`"),
        ((A, FOREIGN, correlation("x", "temporal", None, condition="a or foreign")), "degraded", "`foreign`"),
        ((A, FOREIGN, correlation("x", "temporal", None, condition="a and not foreign")), "degraded", "`foreign`"),
        ((A, FOREIGN, correlation("x", "temporal", None, condition="not foreign")), "never", "`foreign`"),
        ((PARTIAL, correlation("x", "event_count", ["partial"], condition=COUNT)), "degraded", "NoSuchField"),
        ((A, correlation("x", "event_count", ["a"], condition=COUNT, group="Nope")), "never", "no field `Nope`"),
        ((A, correlation("x", "value_sum", ["a"], condition={**COUNT, "field": "Nope"})), "never", "no field `Nope`"),
        ((A, correlation("x", "event_count", ["a"], condition={"lt": 1})), "never", "holds for no count"),
        ((A, B, correlation("x", "temporal", ["a", "b"], condition={"gte": 3})), "never", "holds for no count"),
        ((A, correlation("x", "event_count", ["a"], condition={"gte": 10**30})), "full", ""),
        (
            (A, correlation("x", "value_count", ["a"], condition={"gte": 20_000, "field": "User"})),
            "never",
            "more than 16384 distinct values",
        ),
        (
            (A, FOREIGN, correlation("y", "temporal", ["a", "foreign"]), correlation("x", "temporal", ["y", "a"])),
            "never",
            "`y` never fires: rule `foreign` never fires: ",
        ),
    ],
)
def test_coverage_follows_from_the_base_rules(texts: tuple[str, ...], status: str, says: str) -> None:
    found, reasons = coverage(*texts)
    assert found == status and says in reasons
    assert bool(reasons) == (status != "full")


def test_a_rule_that_only_feeds_a_correlation_that_never_fires_says_so() -> None:
    texts = A, FOREIGN, correlation("x", "temporal", ["a", "foreign"])
    status, reasons = coverage(*texts, title="a")
    assert status == "never" and "it only feeds correlation rule `x`, which never fires" in reasons
    generated = correlation("x", "temporal", ["a", "foreign"], generate=True)
    assert coverage(A, FOREIGN, generated, title="a")[0] == "full"


@pytest.mark.parametrize(
    ("inner", "more", "action"),
    [
        (A, {"condition": {"gte": 2}}, "kill"),
        (PARTIAL, {"condition": {"gte": 2}}, "kill"),
        (PARTIAL, {"condition": {"lt": 2}}, "alert"),
        (BROADER, {"condition": {"gte": 2}}, "alert"),
    ],
)
def test_a_correlation_that_is_broader_than_was_meant_only_alerts(inner: str, more: Any, action: str) -> None:
    name = inner.split("name: ")[1].split(maxsplit=1)[0]
    response = {"action": "kill"}
    rules = rules_of(inner, correlation("x", "event_count", [name], rule_response=response, **more))
    assert [rule.info.action for rule in rules if rule.info.title == "x"] == [action]


def test_what_cannot_be_excluded_is_not_killed_for() -> None:
    for condition, action in (("a and not foreign", "alert"), ("a and not b", "kill"), ("a or foreign", "kill")):
        rule = correlation("x", "temporal", None, condition=condition, rule_response={"action": "kill"})
        (found,) = [each for each in rules_of(A, B, FOREIGN, rule) if each.info.title == "x"]
        assert found.info.action == action


GOOD = correlation("x", "event_count", ["a"], condition=COUNT)
VALUES = correlation("x", "value_percentile", ["a"], condition={"gte": 2, "field": "DestinationPort", "percentile": 90})


def line_of(text: str, key: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if key in line)


@pytest.mark.parametrize(
    ("text", "old", "new", "key", "says"),
    [
        (GOOD, "- a\n", "- nobody\n", "- nobody", "no rule has the id or name `nobody`"),
        (GOOD, "- a\n", "- 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6aff\n", "- 5ba2", "no rule has the id or name"),
        (GOOD, "- a\n", "- 7\n", "- 7", "the id or name of a rule must be text"),
        (GOOD, "- a\n", "- x\n", "rules:", "refers to itself: `x` -> `x`"),
        (GOOD, "rules:\n  - a\n", "rules: []\n", "rules:", "needs `rules`"),
        (GOOD, "10s", "10", "timespan", "Timespan '10' is invalid"),
        (GOOD, "10s", "0s", "timespan", "greater than zero"),
        (GOOD, "10s", "9999999999999y", "timespan", "more than a hundred years"),
        (GOOD, "event_count", "event_sum", "type", "no valid Sigma correlation type"),
        (GOOD, "gte: 2", "gte: many", "condition", "no valid Sigma correlation condition count"),
        (GOOD, "gte: 2", "gte: 2\n    lt: 5", "condition", "exactly one condition item"),
        (GOOD, "type:", "generate: perhaps\n  type:", "correlation", "generate"),
        (GOOD, "title:", "generate: perhaps\ntitle:", "generate", "must be true or false"),
        (GOOD, "type:", "aliases: {u: {nobody: User}}\n  type:", "aliases", "no rule has the id or name `nobody`"),
        (GOOD, "type:", "aliases: {u: {a: 7}}\n  type:", "aliases", "an alias stands for a field's name"),
        (GOOD, "event_count", "value_count", "correlation", "without field reference"),
        (VALUES, "    percentile: 90\n", "", "condition", "needs a `percentile`"),
        (VALUES, "percentile: 90", "percentile: 101", "percentile:", "not between 0 and 100"),
        (VALUES, "DestinationPort", "[A, B]", "field", "takes one field"),
        (VALUES, "DestinationPort", "7", "field", "must be a field's name"),
        (
            correlation("x", "temporal", None, condition="a and nobody"),
            "10s",
            "10s",
            "condition",
            "no rule has the id or name `nobody`",
        ),
        (correlation("x", "temporal", None, condition="a and ("), "10s", "10s", "condition", "Failed to parse"),
        (GOOD, "title:", "response: {action: explode}\ntitle:", "response", "'explode' is unknown"),
    ],
)
def test_faults_have_a_place(text: str, old: str, new: str, key: str, says: str) -> None:
    broken = text.replace(old, new)
    _, faults = parse(A, broken)
    (fault,) = faults
    assert says in fault.what
    assert (fault.path, fault.line) == ("/rules/r1.yml", line_of(broken, key))


def test_every_fault_of_a_correlation_is_told_at_once() -> None:
    text = correlation("x", "value_count", ["a"], condition={"gte": 2}, rule_level="bad").replace("10s", "soon")
    _, faults = parse(A, text)
    assert len(faults) == 3, faults


def test_cycles_and_ambiguous_names() -> None:
    one, two = (
        correlation(*names, condition=COUNT) for names in (("p", "event_count", ["q"]), ("q", "event_count", ["p"]))
    )
    _, faults = parse(one, two)
    assert [fault.what for fault in faults] == ["refers to itself: `p` -> `q` -> `p`"]
    _, faults = parse(A, A.replace("title: a", "title: another"), GOOD)
    assert len(faults) == 1 and "`a` is the name of several rules: /rules/r0.yml:1, /rules/r1.yml:1" in faults[0].what


def test_a_reference_to_a_faulty_rule_is_no_fault_of_its_own() -> None:
    _, faults = parse(A.replace("title: a", "title: a\nlevel: terrible"), GOOD)
    assert [fault.path for fault in faults] == ["/rules/r0.yml"]


def test_the_cache_keeps_correlations(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    both = {"who": {"a": "DestinationIp", "b": "SourceIp"}}
    texts = [
        A,
        B,
        correlation("x", "temporal_ordered", ["a", "b"], group="who", aliases=both),
        correlation("y", "value_percentile", ["b"], condition={"gt": 1.5, "field": "DestinationPort", "percentile": 9}),
        correlation("z", "temporal", None, condition="x and not b or y", timespan="1h"),
        correlation("w", "temporal_ordered", ["a", "b"], condition={"gte": 1}),
    ]
    (tmp_path / "rules" / "all.yml").write_text("---\n".join(texts))
    first = load_rules([tmp_path / "rules"], cache=tmp_path / "cache")
    again = load_rules([tmp_path / "rules"], cache=tmp_path / "cache")
    assert (first.cache, again.cache) == ("written", "used")
    assert again.rules == first.rules
    events = [connect(1, destination_ip="h"), connect(2, 2, source_ip="h"), connect(90)]
    found = [(v.rule, v.event.boottime) for v in verdicts(again, events)]
    assert found == [(v.rule, v.event.boottime) for v in verdicts(first, events)] != []
