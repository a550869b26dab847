"""The index never changes a verdict: random rules and events, against a plain reading of every rule."""

# ruff: noqa: RUF001 (letters that only look alike are what folding is about)

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matching import rule_of

from sensor.events import NetworkConnection, ProcessCreation
from sensor.match import ir
from sensor.match.anchors import anchors
from sensor.match.matcher import Matcher
from sensor.match.predicates import View, compile_node
from sensor.match.text import fold, glob
from sensor.verdict import RuleInfo

ALPHABET = "aAbB/-.*?\\\n\0 \N{LATIN CAPITAL LETTER I WITH DOT ABOVE}i\N{COMBINING DOT ABOVE}ΣσςßẞKk\N{KELVIN SIGN}"
texts = st.text(ALPHABET, max_size=8)
literals = st.text(ALPHABET, min_size=1, max_size=4)
TEXT_FIELDS = ("image", "command_line", "user", "ancestors")


def plain_fold(text: str) -> str:
    """One character at a time, so that no character's surroundings can matter."""
    return "".join({"ς": "σ"}.get(lower, lower) if len(lower := char.lower()) == 1 else char for char in text)


def plain_forms(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [str(each).lower() if isinstance(each, bool) else str(each) for each in values]


def plain(node: ir.Node, event: Any) -> bool:
    match node:
        case ir.All(nodes):
            return all(plain(child, event) for child in nodes)
        case ir.AnyOf(nodes):
            return any(plain(child, event) for child in nodes)
        case ir.Not(child):
            return not plain(child, event)
        case ir.Constant(value) | ir.Missing(_, value):
            return value
        case ir.Exists(attribute, exists):
            return (getattr(event, attribute) is not None) == exists
        case ir.Text(attribute, parts, cased):
            case_of = str if cased else plain_fold
            wild = {ir.ONE: ".", ir.MANY: ".*"}
            pattern = "".join(re.escape(case_of(p)) if isinstance(p, str) else wild[p] for p in parts)
            forms = map(case_of, plain_forms(getattr(event, attribute)))
            return any(re.fullmatch(pattern, form, re.DOTALL) for form in forms)
    raise AssertionError(node)


def normal(parts: list[str | int]) -> tuple[str | int, ...]:
    """As translation leaves them: no two literals and no two `*` in a row."""
    result: list[str | int] = []
    for part in parts:
        if result and isinstance(part, str) and isinstance(result[-1], str):
            result[-1] += part
        elif part != ir.MANY or result[-1:] != [ir.MANY]:
            result.append(part)
    return tuple(result)


patterns = st.lists(st.one_of(literals, st.sampled_from([ir.ONE, ir.MANY])), max_size=5).map(normal)
leaves: st.SearchStrategy[ir.Node] = st.one_of(
    st.builds(ir.Text, st.sampled_from((*TEXT_FIELDS, "user_id", "fileless")), patterns, st.booleans()),
    st.builds(ir.Text, st.just("user_id"), st.sampled_from([("1",), ("12",), ("1", ir.MANY)])),
    st.builds(ir.Text, st.just("fileless"), st.sampled_from([("true",), ("false",)])),
    st.builds(ir.Exists, st.sampled_from(TEXT_FIELDS), st.booleans()),
    st.builds(ir.Constant, st.booleans()),
    st.builds(ir.Missing, st.just("missing"), st.booleans()),
)
nodes: st.SearchStrategy[ir.Node] = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.builds(ir.Not, below),
        st.builds(ir.All, st.lists(below, max_size=4).map(tuple)),
        st.builds(ir.AnyOf, st.lists(below, max_size=4).map(tuple)),
    ),
    max_leaves=12,
)
optional_text = st.none() | texts
events = st.builds(
    ProcessCreation,
    time=st.just(0),
    image=optional_text,
    command_line=optional_text,
    user=optional_text,
    ancestors=st.none() | st.lists(texts, max_size=3),
    user_id=st.none() | st.sampled_from([0, 1, 12]),
    fileless=st.none() | st.booleans(),
)


def numbered(conditions: list[ir.Node]) -> list[ir.Rule]:
    return [
        ir.Rule(
            info=RuleInfo(id=str(number), title="T"),
            category="process_creation",
            condition=condition,
            coverage=ir.Coverage("full"),
        )
        for number, condition in enumerate(conditions)
    ]


@settings(max_examples=400, deadline=None)
@given(st.lists(nodes, max_size=8), st.lists(events, min_size=1, max_size=4))
def test_index_and_plain_reading_agree(conditions: list[ir.Node], some: list[ProcessCreation]) -> None:
    matcher = Matcher(numbered(conditions))
    for event in [*some, *some]:  # the second time from what the index remembers
        expected = [str(number) for number, node in enumerate(conditions) if plain(node, event)]
        assert [verdict.rule.id for verdict in matcher.match(event)] == expected
        assert all(verdict.event is event for verdict in matcher.match(event))


@settings(max_examples=400, deadline=None)
@given(patterns, texts, st.booleans())
@example(("ab", ir.MANY, "bc"), "abc", False)
@example((ir.MANY, "ab", ir.ONE), "ababx", False)
def test_patterns(pattern: tuple[str | int, ...], text: str, cased: bool) -> None:
    node = ir.Text("image", pattern, cased)
    event = ProcessCreation(time=0, image=text)
    assert compile_node(node)(View(event)) is plain(node, event)


@given(texts, texts)
def test_folding_goes_character_by_character(one: str, two: str) -> None:
    assert fold(one + two) == fold(one) + fold(two) == plain_fold(one + two)
    assert fold(fold(one)) == fold(one)


def test_folding_of_all_of_unicode() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert fold(everything) == plain_fold(everything)
    assert len(fold(everything)) == len(everything)


def test_patterns_take_time_linear_in_the_text() -> None:
    """A regular expression with these wildcards takes hours for this text."""
    matches = glob([ir.MANY, *["a", ir.MANY] * 12, "b"])
    assert not matches("a" * 4000)
    assert matches("a" * 4000 + "b")


def test_values_beyond_what_is_remembered_are_still_decided() -> None:
    matcher = Matcher([rule_of("sel: {Image|endswith: '/x7', UserId: 7}\ncondition: sel")])
    for _ in range(2):
        hits = [n for n in range(5000) if matcher.match(ProcessCreation(time=0, image=f"/{'y' * 300}/x{n}", user_id=7))]
        assert hits == [7]
        hits = [n for n in range(5000) if matcher.match(ProcessCreation(time=0, image=f"/x{n}", user_id=n))]
        assert hits == [7]
    fields = [field for _, _, field in matcher._indexes[ProcessCreation]._fields]
    assert all(0 < len(field.remembered) <= 1024 for field in fields)
    assert max(len(text) for field in fields for text in field.remembered) <= 256


@pytest.mark.parametrize(
    ("detection", "expected"),
    [
        ("sel: {Image|endswith: /ssh, CommandLine|contains: ' -R'}", {("image", "/ssh", False)}),
        ("sel: {Image: /a, CommandLine|contains: abcdef}", {("image", "/a", True)}),
        ("sel: {CommandLine|contains: [abc, DEF]}", {("command_line", "abc", False), ("command_line", "def", False)}),
        ("sel: {CommandLine|cased: '*A?BCD*'}", {("command_line", "bcd", False)}),
        ("sel: [{Image: /a}, {CommandLine|re: x}]", None),
        ("sel: {CommandLine: '*'}", None),
    ],
)
def test_rules_are_filed_under_what_they_need(detection: str, expected: set[tuple[str, str, bool]] | None) -> None:
    found = anchors(rule_of(f"{detection}\ncondition: sel").condition)
    assert (None if found is None else {(a.attribute, a.literal, a.whole) for a in found}) == expected


def test_only_candidates_are_evaluated() -> None:
    """Forty rules on ports: an event's work does not touch the others."""
    rules = [rule_of(f"sel: {{DestinationPort: {port}}}\ncondition: sel", "network_connection") for port in range(40)]
    matcher = Matcher(rules)
    index = matcher._indexes[NetworkConnection]
    evaluated: list[int] = []

    def watched(number: int, predicate: Any) -> Any:
        return lambda view: evaluated.append(number) or predicate(view)

    index._rules = [(rule[0], watched(place, rule[1]), *rule[2:]) for place, rule in enumerate(index._rules)]
    assert len(matcher.match(NetworkConnection(time=0, destination_port=22))) == 1
    assert matcher.match(NetworkConnection(time=0, destination_port=4000)) == []
    assert evaluated == [22]


def test_verdicts_come_in_the_order_of_the_rules() -> None:
    conditions: list[ir.Node] = [
        ir.Not(ir.Exists("user", True)),
        ir.Text("image", ("/a",)),
        ir.Text("command_line", (ir.MANY, "b")),
        ir.Constant(True),
    ]
    verdicts = Matcher(numbered(conditions)).match(ProcessCreation(time=0, image="/A", command_line="ab"))
    assert [verdict.rule.id for verdict in verdicts] == ["0", "1", "2", "3"]
