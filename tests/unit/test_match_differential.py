"""The same rules and events through pySigma's SQLite backend on SQLite, an independent Sigma engine: equal verdicts.

The rules are the shipped ones, those in `sigma` and `sigma_corpus` (every construct that the public collection uses
for Linux) and, where SIGMA_RULES names a checkout of it, the public collection itself. Each rule is tried on the
events that `sigma_events` makes from its own values and on those of every other rule of its category. SIGMA_SEED
(default 0) chooses other events.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

pytest.importorskip("sigma.backends.sqlite", reason="pysigma-backend-sqlite is not installed (it needs Python 3.11)")

from sigma.modifiers import modifier_mapping
from sigma.rule import SigmaRule
from sigma.types import (
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaFieldReference,
    SigmaRegularExpression,
    SigmaString,
)
from sigma_events import Generator, comparisons
from sigma_oracle import Oracle, rules_of

from sensor.config import shipped_rules_dir
from sensor.events import CLASSES, AnyEvent, fields_of, to_record
from sensor.match import ir
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.match.text import text_forms

HERE = Path(__file__).parent
CORPUS = HERE / "sigma_corpus"
DIRECTORIES = (Path(shipped_rules_dir()), HERE / "sigma", CORPUS)
SEED = os.environ.get("SIGMA_SEED", "0")
PUBLIC = os.environ.get("SIGMA_RULES")
PUBLIC_CATEGORIES = ("process_creation", "network_connection", "dns_query")


class Facts:
    """What the exclusions ask of a rule."""

    def __init__(self, sigma: SigmaRule) -> None:
        found = list(comparisons(sigma))
        values = [value for _, value in found]
        self.has_reference = any(isinstance(value, SigmaFieldReference) for value in values)
        networks = [(field, value.network) for field, value in found if isinstance(value, SigmaCIDRExpression)]
        self.fields_in_networks = {field for field, _ in networks if field}
        self.has_uneven_network = any(n.version == 6 and n.prefixlen % 16 and n.prefixlen < 128 for _, n in networks)
        self.expressions = [value for value in values if isinstance(value, SigmaRegularExpression)]
        texts = [
            value for value in values if isinstance(value, SigmaString) and not isinstance(value, SigmaCasedString)
        ]
        self.has_letters_beyond_ascii = any(_has_case_beyond_ascii(str(text)) for text in texts)
        self.ignores_case_by_expression = any("(?i" in str(e.regexp) or e.flags for e in self.expressions)


class Exclusion(NamedTuple):
    why: str
    applies: Callable[[Facts, AnyEvent], bool]
    """Asks of the rule and the event alone, never of the verdicts."""


def _texts(event: AnyEvent) -> Iterable[str]:
    return (form for name in fields_of(event.CATEGORY).values() for form in text_forms(getattr(event, name)))


def _has_case_beyond_ascii(text: str) -> bool:
    return any(not c.isascii() and (c.lower() != c or c.upper() != c) for c in text)


def _folds_beyond_ascii(facts: Facts, event: AnyEvent) -> bool:
    if not any(_has_case_beyond_ascii(text) for text in _texts(event)):
        return False
    sensitive = facts.has_letters_beyond_ascii or facts.has_reference or facts.ignores_case_by_expression
    return sensitive or any("\N{KELVIN SIGN}" in text for text in _texts(event))


def _addresses(facts: Facts, event: AnyEvent) -> Iterable[str]:
    attributes = fields_of(event.CATEGORY)
    return (text for field in facts.fields_in_networks for text in text_forms(getattr(event, attributes[field])))


def _is_no_canonical_address(facts: Facts, event: AnyEvent) -> bool:
    return any(_canonical(text) != text for text in _addresses(facts, event))


def _has_uneven_network(facts: Facts, event: AnyEvent) -> bool:
    return facts.has_uneven_network and any(":" in text for text in _addresses(facts, event))


def _canonical(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _has_vertical_tab(facts: Facts, event: AnyEvent) -> bool:
    return any("\\s" in str(e.regexp).lower() for e in facts.expressions) and any(
        "\v" in text for text in _texts(event)
    )


def _ends_in_line_end(facts: Facts, event: AnyEvent) -> bool:
    return any("$" in str(e.regexp) for e in facts.expressions) and any(text.endswith("\n") for text in _texts(event))


EXCLUSIONS = {
    "letters beyond ASCII": Exclusion(
        "SQLite's LIKE and NOCASE know capitals of ASCII alone, and so does the test's REGEXP; Sigma compares all text "
        "without case, and here every letter is folded, the Kelvin sign to k included. Left out where the event has "
        "such a letter and the rule one too, or a reference or an expression that ignores case.",
        _folds_beyond_ascii,
    ),
    "what is no address": Exclusion(
        "The backend turns a network into the ways its addresses may begin, so '10.0.0.1é' is in 10.0.0.0/8 for it; "
        "here only an address is in a network. Left out where the field is not an address as RFC 5952 writes it.",
        _is_no_canonical_address,
    ),
    "IPv6 networks that end within a group": Exclusion(
        "An IPv6 address leaves out the zeros that a group begins with, which the backend's patterns do not know: "
        "for it 'ff0::1' is in ff00::/8.",
        _has_uneven_network,
    ),
    "vertical tab": Exclusion(
        "The vertical tab is white space (\\s) for Python's re, not for RE2, to which pySigma holds expressions too.",
        _has_vertical_tab,
    ),
    "final line end": Exclusion(
        "The test's REGEXP is Python's re, whose $ also stands before a final line end; RE2's stands at the end alone.",
        _ends_in_line_end,
    ),
}

UNCOMPARED = {
    "beyond RE2": "Expressions that only a backtracking engine understands are not run here, as a hostile text could "
    "stall it; Python's re runs them.",
    "without that it would match every event": "What is left of a rule that only excludes by a field which events here "
    "do not have is true of every event; SQLite finds them all, here it never fires.",
    "has no values here": "The backend refuses a rule with a placeholder, as nobody gave it the values.",
}
"""Rules that are not compared, by what `rules coverage` says of them."""


class Comparison(NamedTuple):
    events: list[AnyEvent]
    own: dict[str, range]
    """Rule id -> which of the events were made for it."""
    rules: dict[str, tuple[SigmaRule, ir.Rule]]
    theirs: dict[str, set[int]]

    def differences(self, rules: Iterable[ir.Rule]) -> Iterator[tuple[str | None, str]]:
        """Verdicts of `rules` that differ from SQLite's: the exclusion that leaves it out, and the verdict in words."""
        given = {rule.info.id: rule for rule in rules}
        matcher = Matcher(given.values())
        ours: dict[str, set[int]] = defaultdict(set)
        for position, event in enumerate(self.events):
            for verdict in matcher.match(event):
                ours[verdict.rule.id].add(position)
        for number in self.rules.keys() & given.keys():
            sigma, rule = self.rules[number]
            facts = Facts(sigma)
            for position in sorted(ours[number] ^ self.theirs[number]):
                event = self.events[position]
                reason = next((name for name, each in EXCLUSIONS.items() if each.applies(facts, event)), None)
                who = "Hostbrake" if position in ours[number] else "SQLite"
                yield reason, f"only {who} matches {rule.info.path}: {rule.info.title}: {to_record(event)}"

    def one_sided(self) -> set[str]:
        """Titles of rules of whose own events SQLite matches none, or all."""
        return {
            rule.info.title
            for number, (_, rule) in self.rules.items()
            if rule.coverage.status != "never"
            and not 0 < len(self.theirs[number].intersection(self.own[number])) < len(self.own[number])
        }


def compare(category: str, sigma_rules: Iterable[SigmaRule], rules: Iterable[ir.Rule], most: int) -> Comparison:
    by_id = {rule.info.id: rule for rule in rules}
    pairs = {
        str(sigma.id): (sigma, by_id[str(sigma.id)])
        for sigma in sigma_rules
        if _is_of(sigma, category) and not _is_uncompared(by_id[str(sigma.id)])
    }
    events: list[AnyEvent] = []
    own: dict[str, range] = {}
    for number, (sigma, _) in pairs.items():
        start = len(events)
        events += Generator(sigma, category, f"{SEED} {number}").events(most, mutations=12)
        own[number] = range(start, len(events))
    oracle = Oracle(category, events)
    return Comparison(events, own, pairs, {number: oracle.matches(sigma) for number, (sigma, _) in pairs.items()})


def _is_of(sigma: SigmaRule, category: str) -> bool:
    source = sigma.logsource
    return source.category == category and source.product in (None, "linux") and source.service is None


def _is_uncompared(rule: ir.Rule) -> bool:
    return any(part in reason for part in UNCOMPARED for reason in rule.coverage.reasons)


def _files(directories: Iterable[Path]) -> list[Path]:
    found = [path for top in directories for path in sorted(top.rglob("*.yml"))]
    # Samples and lists are no rules; what a list stands for is known to our loader alone, so such rules are left out.
    rules = [path for path in found if not {"samples", "data"} & set(path.parts)]
    return [path for path in rules if "tests" in path.parts or "|expand" not in path.read_text()]


@cache
def our_rules() -> tuple[ir.Rule, ...]:
    return load_rules(DIRECTORIES).rules


@cache
def comparison(category: str) -> Comparison:
    return compare(category, rules_of(path.read_text() for path in _files(DIRECTORIES)), our_rules(), most=40)


@cache
def differences(category: str) -> list[tuple[str | None, str]]:
    return list(comparison(category).differences(our_rules()))


def unexplained(found: Iterable[tuple[str | None, str]]) -> str:
    """The first of the differences that nothing excludes; "" where there is none."""
    return "\n".join(islice((text for reason, text in found if reason is None), 20))


CATEGORIES = sorted({rule.category for rule in our_rules()} & CLASSES.keys())


@pytest.mark.parametrize("category", CATEGORIES)
def test_equal_verdicts(category: str) -> None:
    assert unexplained(differences(category)) == ""


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_rule_is_tried_on_both_sides(category: str) -> None:
    assert comparison(category).one_sided() == set()


def test_what_is_left_out_is_little_and_each_reason_needed() -> None:
    excluded = [reason for category in CATEGORIES for reason, _ in differences(category)]
    matches = sum(len(found) for category in CATEGORIES for found in comparison(category).theirs.values())
    assert set(excluded) == set(EXCLUSIONS)
    assert len(excluded) < 0.03 * matches
    for part in UNCOMPARED:
        assert sum(any(part in reason for reason in rule.coverage.reasons) for rule in our_rules()) in (1, 2)


OF_TIMES = {"minute", "hour", "day", "week", "month", "year"}
"""Modifiers of fields that hold a time, which no field of these events does."""


def test_the_rules_use_every_modifier() -> None:
    keys = re.findall(r"\|([\w|]+)'?:", "".join(path.read_text() for path in _files(DIRECTORIES)))
    assert set(modifier_mapping) - {name for key in keys for name in key.split("|")} == OF_TIMES


def rewritten(node: ir.Node, change: Callable[[ir.Node], ir.Node]) -> ir.Node:
    if isinstance(node, ir.All | ir.AnyOf):
        node = type(node)(tuple(rewritten(each, change) for each in node.nodes))
    elif isinstance(node, ir.Not):
        node = ir.Not(rewritten(node.node, change))
    return change(node)


def _with_parts(change: Callable[[tuple[str | int, ...]], tuple[str | int, ...]]) -> Callable[[ir.Node], ir.Node]:
    return lambda node: replace(node, parts=change(node.parts)) if isinstance(node, ir.Text) else node


def _with(kind: type[ir.Node], **values: Any) -> Callable[[ir.Node], ir.Node]:
    return lambda node: replace(node, **values) if isinstance(node, kind) else node


DEFECTS: dict[str, Callable[[ir.Node], ir.Node]] = {
    "case matters": _with(ir.Text, cased=True),
    "cased is lost": _with(ir.Text, cased=False),
    "? is any number": _with_parts(lambda parts: tuple(ir.MANY if part == ir.ONE else part for part in parts)),
    "an escaped * is a wildcard": _with_parts(lambda parts: tuple(ir.MANY if part == "*" else part for part in parts)),
    "backslashes are lost": _with_parts(lambda ps: tuple(p.replace("\\", "") if isinstance(p, str) else p for p in ps)),
    "contains is endswith": _with_parts(lambda parts: parts[:-1] if parts[-1:] == (ir.MANY,) else parts),
    "all is any": lambda node: ir.AnyOf(node.nodes) if isinstance(node, ir.All) else node,
    "the last of a list is lost": lambda node: ir.AnyOf(node.nodes[:-1]) if isinstance(node, ir.AnyOf) else node,
    "not of an absent field is unknown": lambda node: (
        ir.All((ir.Exists(node.node.attribute, True), node))
        if isinstance(node, ir.Not) and isinstance(node.node, ir.Text)
        else node
    ),
    "null is empty": lambda node: (
        ir.Text(node.attribute, ()) if isinstance(node, ir.Exists) and not node.exists else node
    ),
    "expressions ignore case": _with(ir.Regex, flags="i"),
    "expressions are anchored": _with(ir.Regex, from_start=True),
    "networks are twice as large": lambda node: (
        replace(node, network=str(ipaddress.ip_network(node.network).supernet())) if isinstance(node, ir.Cidr) else node
    ),
    "gt is gte": lambda node: (
        replace(node, comparison="gte") if isinstance(node, ir.Compare) and node.comparison == "gt" else node
    ),
    "references are equality": _with(ir.FieldRef, starts_with=False, ends_with=False),
}
"""Ways to get Sigma wrong."""


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_wrong_matcher_would_be_found(defect: str) -> None:
    for category in CATEGORIES:
        wrong = [replace(rule, condition=rewritten(rule.condition, DEFECTS[defect])) for rule in our_rules()]
        changed = [rule for rule, right in zip(wrong, our_rules(), strict=True) if rule.condition != right.condition]
        compared = [rule for rule in changed if rule.category == category]
        if compared and unexplained(comparison(category).differences(compared)):
            return
    pytest.fail("no difference was found")


@cache
def public() -> tuple[tuple[SigmaRule, ...], tuple[ir.Rule, ...]]:
    """The public collection's rules for Linux, as pySigma and as this sensor read them."""
    assert PUBLIC is not None
    sigma: list[SigmaRule] = []
    files: list[Path] = []
    for path in sorted(Path(PUBLIC).glob("rules*/**/*.yml")):
        text = path.read_text()
        found = rules_of([text]) if "product: linux" in text else []
        wanted = [rule for rule in found if any(_is_of(rule, category) for category in PUBLIC_CATEGORIES)]
        if wanted:
            sigma += wanted
            files.append(path)
    return tuple(sigma), load_rules(files).rules


needs_public = pytest.mark.skipif(not PUBLIC, reason="SIGMA_RULES names no checkout of the public Sigma collection")


@needs_public
def test_every_public_rule_loads_and_lacks_known_fields_alone() -> None:
    sigma, rules = public()
    assert len(sigma) > 100 and {str(rule.id) for rule in sigma} <= {rule.info.id for rule in rules}
    lacks = [reason for rule in rules for reason in rule.coverage.reasons]
    assert [reason for reason in lacks if not re.search(r"have no field `LogonId`", reason)] == []


@needs_public
@pytest.mark.parametrize("category", PUBLIC_CATEGORIES)
def test_equal_verdicts_on_public_rules(category: str) -> None:
    compared = compare(category, *public(), most=12)
    assert unexplained(compared.differences(public()[1])) == ""
    assert compared.one_sided() == set()
