"""Rules of the kind that people publish load unmodified, and each is worth what it can be here.

`sigma/*.yml` holds them, written for this test: every construct that the public rules for Linux use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.events import from_record
from sensor.match.ir import Rule
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.yamlfile import read

DIRECTORY = Path(__file__).parent / "sigma"
WRITTEN: dict[str, dict[str, Any]] = {
    document.data["id"]: document.data for path in sorted(DIRECTORY.glob("*.yml")) for document in read(path)[0]
}
RULES = {rule.info.id: rule for rule in load_rules([DIRECTORY])}
CASES = [pytest.param(rule, WRITTEN[number]["expect"], id=rule.info.title) for number, rule in RULES.items()]


def test_none_is_lost() -> None:
    assert RULES.keys() == WRITTEN.keys() and len(RULES) > 25


@pytest.mark.parametrize(("rule", "expect"), CASES)
def test_coverage_and_its_reasons(rule: Rule, expect: dict[str, Any]) -> None:
    expected = expect.get("reasons", [])
    assert rule.coverage.status == expect["status"]
    assert len(rule.coverage.reasons) == len(expected)
    for reason, told in zip(rule.coverage.reasons, expected, strict=True):
        assert told in reason
    assert rule.info.action == expect.get("action", "alert")


@pytest.mark.parametrize(("rule", "expect"), CASES)
def test_what_it_matches(rule: Rule, expect: dict[str, Any]) -> None:
    if rule.coverage.status != "never":
        assert expect["match"], "a rule that can fire is shown to"
    alone, among_all = Matcher([rule]), Matcher(RULES.values())
    for wanted in ("match", "no_match"):
        for fields in expect.get(wanted, []):
            event = from_record({"category": rule.category, **fields})
            assert bool(alone.match(event)) == (wanted == "match"), fields
            assert any(verdict.rule == rule.info for verdict in among_all.match(event)) == (wanted == "match"), fields
