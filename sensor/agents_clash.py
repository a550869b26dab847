"""Agents that would claim the same workload with equal right, as far as their files alone can tell.

What only turns up while the sensor runs, such as a container with the labels of two agents, is found by
`sensor.context.recognise`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from sensor.faults import Fault, printable
from sensor.globs import literal_length, plain_image, witness

_LITERAL = frozenset({"container_id", "container_label", "user"})


class Claim(NamedTuple):
    """One entry of an agent's `match`, and where it stands."""

    agent: str
    form: str
    pattern: str
    path: str
    line: int


def find_clashes(claims: Iterable[Claim]) -> list[Fault]:
    """A fault at each of two claims that are equally specific and that one workload can meet."""
    groups: dict[tuple[str, str, bool], list[Claim]] = {}
    for claim in claims:
        groups.setdefault(_rank(claim), []).append(claim)
    return [fault for group in groups.values() for pair in combinations(group, 2) for fault in _clash(*pair)]


def _rank(claim: Claim) -> tuple[str, str, bool]:
    """Claims with different ranks are not equal, or have nothing in common."""
    if claim.form in _LITERAL:
        return claim.form, claim.pattern, True
    text = _text(claim)
    literal = literal_length(text)
    return claim.form, text[:literal], literal == len(text)


def _text(claim: Claim) -> str:
    return plain_image(claim.pattern) if claim.form == "container_image" else claim.pattern


def _clash(one: Claim, other: Claim) -> Iterator[Fault]:
    if one.agent == other.agent:
        return
    if one.form in _LITERAL or _text(one) == _text(other):
        met = "" if re.search(r"[*?]", one.pattern) is None else f", such as {_met(one, other)!r}"
    elif (found := _met(one, other)) is not None:
        met = f", such as {found!r}"
    else:
        return
    for claim, rival in ((one, other), (other, one)):
        what = f"agent {claim.agent}: {claim.form} {claim.pattern!r} and {rival.pattern!r} of agent {rival.agent}"
        where = f"({rival.path}:{rival.line})"
        yield Fault(
            claim.path, claim.line, printable(f"{what} {where} match the same{met}, and neither is more specific")
        )


def _met(one: Claim, other: Claim) -> str | None:
    return witness(_text(one), _text(other), paths=one.form == "cgroup")
