"""Extended correlation conditions (`a and (b or not c)`) as the ways to satisfy them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from sigma.correlations import (
    CorrelationConditionItem,
    CorrelationConditionNOT,
    CorrelationConditionOR,
    SigmaRuleReference,
)

from sensor.match import ir

MOST = 64

_Way: TypeAlias = tuple[tuple[str, ...], frozenset[str]]
"""What must be there, in the order of the condition, and what must not."""


class TooManyError(Exception):
    """The condition has more alternatives than are tried."""


def alternatives_of(
    parsed: CorrelationConditionItem | SigmaRuleReference, places: Mapping[str, int], *, is_ordered: bool
) -> tuple[ir.Alternative, ...]:
    """The ways that are left with the references in `places`: what needs another is none, and no other excludes."""
    found: dict[ir.Alternative, None] = {}
    for needs, without in _ways(parsed, is_negated=False):
        if not places.keys() >= set(needs) or not without.isdisjoint(needs):
            continue
        needed = tuple(places[name] for name in (needs if is_ordered else dict.fromkeys(needs)))
        excluded = tuple(sorted(places[name] for name in without if name in places))
        if needed or excluded:
            found[ir.Alternative(needed, excluded)] = None
    return tuple(found)


def excludes(node: CorrelationConditionItem | SigmaRuleReference) -> bool:
    """There is a `not` in it."""
    if isinstance(node, SigmaRuleReference):
        return False
    return isinstance(node, CorrelationConditionNOT) or any(map(excludes, node.args))


def _ways(node: CorrelationConditionItem | SigmaRuleReference, *, is_negated: bool) -> list[_Way]:
    """Disjunctive normal form."""
    if isinstance(node, SigmaRuleReference):
        return [((), frozenset({node.reference}))] if is_negated else [((node.reference,), frozenset())]
    if isinstance(node, CorrelationConditionNOT):
        return _ways(node.args[0], is_negated=not is_negated)
    each = [_ways(argument, is_negated=is_negated) for argument in node.args]
    if isinstance(node, CorrelationConditionOR) is not is_negated:
        ways = [way for found in each for way in found]
    else:
        ways = [((), frozenset())]
        for found in each:
            ways = [(needs + more, without | others) for needs, without in ways for more, others in found]
            _check(ways)
    _check(ways)
    return ways


def _check(ways: list[_Way]) -> None:
    if len(ways) > MOST:
        raise TooManyError(f"its condition has more than {MOST} alternatives")
