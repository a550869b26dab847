"""How much of a rule this sensor can decide, and the condition that remains of it.

A predicate on what is missing (a field, a placeholder's values) cannot hold, so it is false. Then constants are
folded: a condition that has become false never fires. One that has become true would fire on every event of its
category; that is not what its author meant, so it never fires either. One that has become broader, since what it
excludes cannot be told, may tell of more than its author meant, but not stop it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sensor.match import ir


def assess(condition: ir.Node) -> tuple[ir.Node, ir.Coverage]:
    """The condition without `Missing`, and the rule's coverage."""
    gaps = list(dict.fromkeys(_gaps(condition, excluding=False)))
    reduced = simplify(condition)
    if isinstance(reduced, ir.Constant):
        reasons = [reason for reason, _ in gaps] or ["its condition is the same for every event"]
        if reduced.value and gaps:
            reasons.append("without that it would match every event")
        return ir.Constant(False), ir.Coverage("never", tuple(dict.fromkeys(reasons)))
    if gaps:
        reasons = [f"{reason}: {effect}" for reason, effect in gaps]
        broader = any(effect != _NARROWER for _, effect in gaps)
        return reduced, ir.Coverage("degraded", tuple(reasons), broader)
    return reduced, ir.Coverage("full")


def held_to_alert(rule: ir.Rule) -> ir.Rule:
    """The rule as it may be used: one that is broader than its author meant only alerts."""
    action = rule.info.action
    if not rule.coverage.broader or action == "alert":
        return rule
    reasons = (*rule.coverage.reasons, f"it could `{action}` what it should exclude, so it only alerts")
    return msgspec.structs.replace(
        rule,
        info=msgspec.structs.replace(rule.info, action="alert"),
        coverage=msgspec.structs.replace(rule.coverage, reasons=reasons),
    )


_NARROWER = "what needs it never matches"


def _effect(missing: ir.Missing, *, excluding: bool) -> str:
    if missing.value == excluding:
        return _NARROWER
    return "nothing is excluded by it" if excluding else "it counts as absent from every event"


def _gaps(node: ir.Node, *, excluding: bool) -> Iterator[tuple[str, str]]:
    """Each missing thing's reason, and what that makes of the rule; `excluding`: under an odd number of negations."""
    if isinstance(node, ir.Missing):
        yield node.reason, _effect(node, excluding=excluding)
    elif isinstance(node, ir.Not):
        yield from _gaps(node.node, excluding=not excluding)
    elif isinstance(node, (ir.All, ir.AnyOf)):
        for child in node.nodes:
            yield from _gaps(child, excluding=excluding)


def simplify(node: ir.Node) -> ir.Node:
    """An equal condition without `Missing`, nested equal operators, double negation and avoidable constants."""
    if isinstance(node, ir.Missing):
        return ir.Constant(node.value)
    if isinstance(node, ir.Not):
        inner = simplify(node.node)
        if isinstance(inner, ir.Constant):
            return ir.Constant(not inner.value)
        return inner.node if isinstance(inner, ir.Not) else ir.Not(inner)
    if isinstance(node, (ir.All, ir.AnyOf)):
        return _simplify_list(node)
    return node


def _simplify_list(node: ir.All | ir.AnyOf) -> ir.Node:
    neutral = isinstance(node, ir.All)
    kept: list[ir.Node] = []
    for child in map(simplify, node.nodes):
        if isinstance(child, ir.Constant):
            if child.value is not neutral:
                return child
        elif type(child) is type(node):
            kept.extend(child.nodes)
        else:
            kept.append(child)
    if not kept:
        return ir.Constant(neutral)
    return kept[0] if len(kept) == 1 else type(node)(tuple(kept))
