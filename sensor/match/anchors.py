"""What an event must contain for a rule to have a chance: the literals that the index looks up.

`anchors(condition)` is a set of which at least one member is in every event that the condition can match, or
None where there is no such set. Literals are folded, so they also serve case-sensitive patterns.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from sensor.match import ir
from sensor.match.text import fold


class Anchor(msgspec.Struct, frozen=True):
    """The attribute's folded text is `literal` (`whole`) or contains it."""

    attribute: str
    literal: str
    whole: bool


Anchors: TypeAlias = frozenset[Anchor]

_COARSE = {
    "access", "agent_egress", "agent_gpu", "application_protocol", "denied", "destination_scope", "device_class",
    "fileless", "http_method", "initiated", "left_agent", "protocol", "query_type", "stdio_socket", "tls_ech",
    "truncated", "user", "user_id", "would_deny",
}  # fmt: skip
"""Attributes with few values: poor to choose among rules by."""


def anchors(node: ir.Node) -> Anchors | None:
    """See above. The choice among several possible sets affects the cost of matching, never a verdict."""
    if isinstance(node, ir.Text):
        anchor = _of_text(node)
        return None if anchor is None else frozenset({anchor})
    if isinstance(node, ir.All):
        possible = [found for child in node.nodes if (found := anchors(child)) is not None]
        return max(possible, key=_selectivity, default=None)
    if isinstance(node, ir.AnyOf):
        return _of_any(node)
    if isinstance(node, (ir.Constant, ir.Missing)) and not node.value:
        return frozenset()
    return None


def _of_any(node: ir.AnyOf) -> Anchors | None:
    union: set[Anchor] = set()
    for child in node.nodes:
        if isinstance(child, ir.Text):  # lists of values make thousands of these
            anchor = _of_text(child)
            if anchor is None:
                return None
            union.add(anchor)
            continue
        found = anchors(child)
        if found is None:
            return None
        union |= found
    return frozenset(union)


def _of_text(node: ir.Text) -> Anchor | None:
    parts = node.parts
    literals = [part for part in parts if isinstance(part, str)]
    if not literals:
        return None if parts else Anchor(node.attribute, "", True)
    literal = literals[0] if len(literals) == 1 else max(literals, key=len)
    return Anchor(node.attribute, fold(literal), len(parts) == 1)


def _selectivity(found: Anchors) -> tuple[int, int]:
    """The weight of the weakest anchor, then fewer rather than more."""
    return min((_weight(anchor) for anchor in found), default=1 << 16), -len(found)


def _weight(anchor: Anchor) -> int:
    if anchor.attribute in _COARSE:
        return 0
    return len(anchor.literal) + (16 if anchor.whole else 0)
