"""What correlations keep of an event: as little as decides, and bounded whatever the event holds."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

from sensor.events import AnyEvent
from sensor.match import ir
from sensor.match.predicates import number_in

_HELD_LENGTH = 64
Number: TypeAlias = int | Fraction
Group: TypeAlias = tuple[Hashable, ...]

COMPARISONS: dict[ir.CountComparison, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "eq": operator.eq,
    "neq": operator.ne,
}


class Occurrence(NamedTuple):
    """A rule's verdict on an event, as correlations take it."""

    time: int
    """The kernel's, nanoseconds."""
    number: int
    """The event's, counted in the order of arrival."""
    event: AnyEvent
    repeats: int = 0
    """How many further events, equal to this one, it stands for."""
    group: Group = ()
    """Where the rule is a correlation: the group that it fired for."""


class Entry(NamedTuple):
    """One occurrence in a window. Entries sort by the kernel's time, then by arrival."""

    time: int
    arrival: int
    """Of this entry alone."""
    event: int
    """The event's number: one event may leave several entries."""
    key: Hashable
    """What is told apart: a value, or a position in the correlation's feeds."""
    weight: Number


def group_of(feed: ir.Feed, occurrence: Occurrence) -> Group | None:
    """The group that the occurrence belongs to; None where it lacks a field, and so belongs to none."""
    group = tuple([_held(_read(place, occurrence)) for place in feed.group])
    return None if None in group else group


def values_of(feed: ir.Feed, occurrence: Occurrence) -> Sequence[Hashable]:
    """The distinct values in the condition's field; of several fields, their combination. None where one lacks."""
    found = [_read(place, occurrence) for place in feed.value]
    if len(found) == 1 and isinstance(found[0], list):
        return list(dict.fromkeys(map(_held, found[0])))
    held = [_held(value) for value in found]
    return () if None in held else held if len(held) == 1 else (tuple(held),)


def number_of(feed: ir.Feed, occurrence: Occurrence) -> Number | None:
    """The number in the condition's field, exact; None where there is none."""
    value = _read(feed.value[0], occurrence)
    if isinstance(value, str):
        value = number_in(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value
    return Fraction(value) if math.isfinite(value) else None


def _read(place: str | int, occurrence: Occurrence) -> Any:
    return occurrence.group[place] if isinstance(place, int) else getattr(occurrence.event, place, None)


def _held(value: Any) -> Hashable:
    """Equal for equal values; what is long is kept as a digest, so that hostile names cannot fill the memory."""
    if isinstance(value, str):
        return value if len(value) <= _HELD_LENGTH else _digest(value)
    if isinstance(value, list):
        return _digest(repr(value))
    return value  # type: ignore[no-any-return]  # a number, a boolean, None, or held already


def _digest(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
