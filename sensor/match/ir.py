"""Rules as plain data: what pySigma's objects are translated to, what the cache keeps, what the matcher compiles.

A condition is a tree of `All`, `AnyOf` and `Not` over predicates on one attribute of an event. Text predicates
also stand for equal numbers and booleans: a value's text form (`sensor.match.text.text_forms`) is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import msgspec

from sensor.verdict import RuleInfo

SCHEMA = 4
"""Raise it whenever a change here, in translation or in folding gives an old cache another meaning."""

ONE = 0
"""The wildcard ?: exactly one character."""
MANY = 1
"""The wildcard *: any number of characters, none and newlines included."""

Status = Literal["full", "degraded", "never"]
Comparison = Literal["lt", "lte", "gt", "gte"]
CountComparison = Literal["lt", "lte", "gt", "gte", "eq", "neq"]
CorrelationType = Literal[
    "event_count",
    "value_count",
    "temporal",
    "temporal_ordered",
    "value_sum",
    "value_avg",
    "value_percentile",
    "value_median",
]


class _Node(msgspec.Struct, frozen=True, tag=True):
    pass


class All(_Node, frozen=True):
    """Every one of `nodes`; true where there are none."""

    nodes: tuple[Node, ...]


class AnyOf(_Node, frozen=True):
    """At least one of `nodes`; false where there are none."""

    nodes: tuple[Node, ...]


class Not(_Node, frozen=True):
    node: Node


class Constant(_Node, frozen=True):
    value: bool


class Missing(_Node, frozen=True):
    """A predicate that this sensor cannot decide; it counts as `value`, and `reason` says why."""

    reason: str
    value: bool = False


class Text(_Node, frozen=True):
    """The attribute's text equals `parts`: literals, `ONE` and `MANY`; case-insensitive unless `cased`."""

    attribute: str
    parts: tuple[str | int, ...]
    cased: bool = False


class Regex(_Node, frozen=True):
    """A regular expression is found in the attribute's text; `flags` are letters of "ims"."""

    attribute: str
    pattern: str
    flags: str = ""
    from_start: bool = False
    to_end: bool = False


class Cidr(_Node, frozen=True):
    """The attribute is an IP address in `network`."""

    attribute: str
    network: str


class Compare(_Node, frozen=True):
    """The attribute is a number, or the text of one, that compares so with `number`."""

    attribute: str
    comparison: Comparison
    number: int | float


class Exists(_Node, frozen=True):
    """The attribute is there (`exists`) or absent."""

    attribute: str
    exists: bool


class FieldRef(_Node, frozen=True):
    """The attribute equals, starts with, ends with or (both set) contains the text of `other`."""

    attribute: str
    other: str
    starts_with: bool = False
    ends_with: bool = False


Node: TypeAlias = All | AnyOf | Not | Constant | Missing | Text | Regex | Cidr | Compare | Exists | FieldRef


class Coverage(msgspec.Struct, frozen=True):
    """Whether this sensor can decide a rule: fully, with gaps ("degraded"), or not at all ("never" fires)."""

    status: Status
    reasons: tuple[str, ...] = ()
    broader: bool = False
    """What it excludes cannot be told, so it matches more than its author meant."""


class Feed(msgspec.Struct, frozen=True):
    """A rule whose verdicts a correlation takes, and where it reads in their events.

    A place is an attribute; of a correlation's verdict it may also be a position in that correlation's own group.
    """

    rule: str
    """Its id."""
    group: tuple[str | int, ...]
    """One place for each field of group-by."""
    value: tuple[str | int, ...] = ()
    """The places of the condition's field or fields."""


class Alternative(msgspec.Struct, frozen=True):
    """One way to satisfy a temporal condition: all of `needs` (in this order, where order counts), none of `without`.

    Both are positions in `Correlation.feeds`.
    """

    needs: tuple[int, ...]
    without: tuple[int, ...] = ()


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """A correlation's condition, with nothing left in it that this sensor lacks."""

    type: CorrelationType
    feeds: tuple[Feed, ...]
    timespan: int
    """Nanoseconds."""
    comparison: CountComparison = "gte"
    number: int | float = 1
    """What is counted or computed compares so with `number`; without meaning where there are `alternatives`."""
    percentile: int | None = None
    alternatives: tuple[Alternative, ...] = ()
    order: tuple[int, ...] = ()
    """temporal_ordered with a count: the positions in `feeds` in the rule's order."""

    @property
    def grows(self) -> bool:
        """More events can only make it true, never false."""
        if self.alternatives:
            return not any(alternative.without for alternative in self.alternatives)
        counts = ("event_count", "value_count", "value_sum", "temporal")
        return self.type in counts and self.comparison in ("gt", "gte")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One Sigma rule. `condition` holds no `Missing`; it is `Constant(False)` where the rule never fires."""

    info: RuleInfo
    category: str
    """The Sigma log source category; "" where the rule names none."""
    condition: Node
    coverage: Coverage
    line: int = 1
    """Where the rule begins in its file."""
    correlation: Correlation | None = None
    """For a correlation rule that may fire; it has no category, and its `condition` is without meaning."""
    silent: bool = False
    """It only feeds correlations, without verdicts of its own."""


class RuleSet(msgspec.Struct, frozen=True, kw_only=True):
    """All rules, in the order of their paths and ids: the order of verdicts too."""

    rules: tuple[Rule, ...]
    cache: str = "off"
    """What became of the cache: "off", "used", "written" or "not written: REASON"."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def summary(self) -> dict[str, int]:
        """How many rules are decided fully, with gaps and never."""
        count = Counter(rule.coverage.status for rule in self.rules)
        return {status: count[status] for status in get_args(Status)}

    def limited(self) -> str:
        """How many are not decided fully, in words; "" where there are none."""
        summary = self.summary()
        said = {
            f"{summary['degraded']} degraded": summary["degraded"],
            f"{summary['never']} never fire{'s' if summary['never'] == 1 else ''}": summary["never"],
        }
        return ", ".join(text for text, number in said.items() if number)
