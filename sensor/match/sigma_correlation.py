"""Correlation rules: what they refer to, and their translation to `sensor.match.ir`.

References are by id or name, as in pySigma. What the specification leaves open is settled in docs/RULES.md.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sigma.correlations import SigmaCorrelationRule, SigmaExtendedCorrelationCondition
from sigma.rule import SigmaRule

from sensor.events import fields_of
from sensor.faults import Fault
from sensor.match import ir
from sensor.match.correlate import MOST_VALUES
from sensor.match.correlate_entry import COMPARISONS
from sensor.match.coverage import held_to_alert
from sensor.match.sigma_alternatives import TooManyError, alternatives_of, excludes
from sensor.match.sigma_documents import Entry

_SECOND = 1_000_000_000
_LONGEST_S = 100 * 366 * 86_400
_INT64 = 1 << 63


class Source(msgspec.Struct, eq=False):
    """A rule or correlation rule, and what became of it so far."""

    entry: Entry
    sigma: SigmaRule | SigmaCorrelationRule
    rule: ir.Rule
    refers_to: dict[str, Source] = {}
    """What a correlation's references stand for."""

    @property
    def title(self) -> str:
        return f"`{self.rule.info.title}`"

    def set(self, coverage: ir.Coverage, correlation: ir.Correlation | None = None) -> None:
        self.rule = held_to_alert(
            msgspec.structs.replace(self.rule, condition=ir.Constant(False), coverage=coverage, correlation=correlation)
        )


def join(sources: Sequence[Source], faulty: Sequence[Entry] = ()) -> list[Fault]:
    """Give each correlation rule its condition, and silence the rules that only feed correlations.

    What is wrong with references and conditions comes back; the rules are of use only where that is nothing, and no
    rule is `faulty`: those are known, but cannot be correlated.
    """
    known = _by_reference(sources)
    for entry in faulty:
        for key in ("id", "name"):
            known.setdefault(_canonical(entry.data.get(key)), [])
    correlations = [source for source in sources if isinstance(source.sigma, SigmaCorrelationRule)]
    faults = [fault for source in correlations for fault in _faults_of(source, known)]
    ordered = _inner_first(correlations, faults)
    if faults or faulty:
        return faults
    for source in ordered:
        _Translation(source).apply()
    _silence(sources, ordered)
    return []


def _by_reference(sources: Sequence[Source]) -> dict[str, list[Source]]:
    known: dict[str, list[Source]] = {}
    for source in sources:
        for reference in {source.sigma.id, source.sigma.name} - {None}:
            known.setdefault(_canonical(reference), []).append(source)
    return known


def _canonical(reference: object) -> str:
    try:
        return str(UUID(str(reference)))
    except ValueError:
        return str(reference)


def _references(source: Source) -> list[tuple[tuple[Hashable, ...], Any]]:
    """Where a rule refers to another, and the reference."""
    sigma: Any = source.sigma
    if sigma.rules is None:
        return [(("condition",), reference) for reference in sigma.condition.get_referenced_rules()]
    return [(("rules", position), each.reference) for position, each in enumerate(sigma.rules)]


def _faults_of(source: Source, known: dict[str, list[Source]]) -> Iterator[Fault]:
    """Also fills in `refers_to`."""
    source.refers_to = {}
    references = _references(source)
    if not references:
        yield source.entry.fault("a correlation needs `rules` to correlate", "correlation", "rules")
    aliases = source.entry.data["correlation"].get("aliases") or {}
    in_aliases = [(("aliases", alias, name), name) for alias, mapping in aliases.items() for name in mapping]
    for at, reference in [*references, *in_aliases]:
        what = _wrong_with(reference, known)
        if what:
            yield source.entry.fault(what, "correlation", *at)
        elif known[_canonical(reference)]:
            source.refers_to[reference] = known[_canonical(reference)][0]
    yield from _faults_of_fields(source)
    yield from _faults_of_condition(source)


def _wrong_with(reference: str, known: dict[str, list[Source]]) -> str | None:
    found = known.get(_canonical(reference))
    if found is None:
        return f"no rule has the id or name `{reference}`"
    if len({each.rule.info.id for each in found}) > 1:
        places = ", ".join(f"{each.entry.path}:{each.entry.line()}" for each in found)
        return f"`{reference}` is the name of several rules: {places}"
    return None


def _faults_of_fields(source: Source) -> Iterator[Fault]:
    section = source.entry.data["correlation"]
    for alias, mapping in (section.get("aliases") or {}).items():
        for reference, field in mapping.items():
            if not isinstance(field, str):
                yield source.entry.fault(
                    "an alias stands for a field's name", "correlation", "aliases", alias, reference
                )
    if not isinstance(source.entry.data.get("generate", False), bool):
        yield source.entry.fault("`generate` must be true or false", "generate")


def _faults_of_condition(source: Source) -> Iterator[Fault]:
    sigma: Any = source.sigma
    kind = sigma.type.name.lower()
    if sigma.timespan.seconds > _LONGEST_S:
        yield source.entry.fault("a timespan of more than a hundred years", "correlation", "timespan")
    if isinstance(sigma.condition, SigmaExtendedCorrelationCondition) or not kind.startswith("value_"):
        return
    fields, percentile = sigma.condition.fieldref, sigma.condition.percentile
    at = ("correlation", "condition")
    listed = fields if isinstance(fields, list) else [fields]
    if not listed or not all(isinstance(field, str) for field in listed):
        yield source.entry.fault("`field` must be a field's name", *at, "field")
    elif len(listed) > 1 and kind != "value_count":
        yield source.entry.fault(f"{kind} takes one field", *at, "field")
    if kind == "value_percentile" and percentile is None:
        yield source.entry.fault("value_percentile needs a `percentile`", *at)
    elif kind == "value_percentile" and not 0 <= percentile <= 100:
        yield source.entry.fault(f"percentile {percentile} is not between 0 and 100", *at, "percentile")


def _inner_first(correlations: list[Source], faults: list[Fault]) -> list[Source]:
    """Each after those that it refers to. One that refers to itself in the end is a fault."""
    done: dict[int, Source] = {}
    above: list[Source] = []

    def place(source: Source) -> None:
        if source in above:
            names = [each.title for each in [*above[above.index(source) :], source]]
            faults.append(source.entry.fault(f"refers to itself: {' -> '.join(names)}", "correlation", "rules"))
        elif id(source) not in done:
            above.append(source)
            for inner in source.refers_to.values():
                place(inner)
            above.pop()
            done[id(source)] = source

    for source in correlations:
        place(source)
    return [source for source in done.values() if isinstance(source.sigma, SigmaCorrelationRule)]


def _silence(sources: Sequence[Source], ordered: list[Source]) -> None:
    """A rule that a correlation refers to raises no alert of its own, unless that correlation generates it."""
    fed: dict[int, Source] = {}
    for outer in ordered:
        if not (getattr(outer.sigma, "generate", False) or outer.entry.data.get("generate") is True):
            for _, reference in _references(outer):
                fed[id(outer.refers_to[reference])] = outer
    inner = [source for source in sources if not isinstance(source.sigma, SigmaCorrelationRule)]
    taken: set[str] = set()
    for source in [*reversed(ordered), *inner]:  # outer first
        by = fed.get(id(source))
        if by is not None and source.rule.coverage.status != "never":
            source.rule = msgspec.structs.replace(source.rule, silent=True)
            if source.rule.info.id not in taken:
                why = "never fires" if by.rule.coverage.status == "never" else "cannot use its events"
                source.set(ir.Coverage("never", (f"it only feeds correlation rule {by.title}, which {why}",)))
        if source.rule.correlation is not None:
            taken.update(feed.rule for feed in source.rule.correlation.feeds)


class _Translation:
    """One correlation rule, with the reasons for what it lacks."""

    def __init__(self, source: Source) -> None:
        self._source = source
        sigma: Any = source.sigma
        self._sigma = sigma
        self._kind: ir.CorrelationType = sigma.type.name.lower()
        self._aliases: dict[str, dict[str, str]] = {
            alias: {source.refers_to[name].rule.info.id: field for name, field in mapping.items()}
            for alias, mapping in (source.entry.data["correlation"].get("aliases") or {}).items()
        }
        self._is_broader = False
        self._lacks: list[str] = []
        self._feeds: list[ir.Feed] = []
        self._places: dict[str, int] = {}
        """Reference -> position in `_feeds`, for what can be used."""

    def apply(self) -> None:
        for _, reference in _references(self._source):
            self._add(reference, self._source.refers_to[reference])
        condition = self._condition() if self._feeds else None
        reasons = tuple(dict.fromkeys(self._lacks))
        if condition is None:
            self._source.set(ir.Coverage("never", reasons))
        else:
            # What is missing makes fewer events; where fewer may be what it asks for, it holds more often.
            grows = condition.grows and not self._excludes()
            broader = self._is_broader or (bool(reasons) and not grows)
            self._source.set(ir.Coverage("degraded" if reasons else "full", reasons, broader), condition)

    def _excludes(self) -> bool:
        condition = self._sigma.condition
        return isinstance(condition, SigmaExtendedCorrelationCondition) and excludes(condition.parsed)

    def _add(self, reference: str, inner: Source) -> None:
        coverage = inner.rule.coverage
        reasons = "; ".join(coverage.reasons)
        if coverage.status == "never":
            self._lacks.append(f"rule {inner.title} never fires: {reasons}")
            return
        fields = self._sigma.condition.fieldref if self._kind.startswith("value_") else []
        values = [fields] if isinstance(fields, str) else fields
        feed = ir.Feed(
            inner.rule.info.id,
            tuple(self._read(inner, self._sigma.group_by or [])),
            tuple(self._read(inner, values)),
        )
        if None in feed.group or None in feed.value:
            return
        if coverage.status == "degraded":
            self._lacks.append(f"rule {inner.title} is decided only in part: {reasons}")
            self._is_broader |= coverage.broader
        if feed not in self._feeds:
            self._feeds.append(feed)
        self._places[reference] = self._feeds.index(feed)

    def _read(self, inner: Source, names: Sequence[str]) -> Iterator[Any]:
        """Where each field is read in the events of `inner`; None where it is not."""
        for name in names:
            field = self._aliases.get(name, {}).get(inner.rule.info.id, name)
            group = getattr(inner.sigma, "group_by", None) or []
            categories = _categories(inner)
            found = [fields_of(category)[field] for category in categories if field in fields_of(category)]
            if field in group:
                yield group.index(field)
            elif found:
                yield found[0]
            else:
                events = " and ".join(sorted(categories))
                self._lacks.append(f"rule {inner.title} is of no use here: {events} events have no field `{field}`")
                yield None

    def _condition(self) -> ir.Correlation | None:
        condition = self._sigma.condition
        base = ir.Correlation(
            type=self._kind, feeds=tuple(self._feeds), timespan=self._sigma.timespan.seconds * _SECOND
        )
        if isinstance(condition, SigmaExtendedCorrelationCondition):
            return self._with_alternatives(base, condition)
        number = condition.count if abs(condition.count) < _INT64 else float(condition.count)
        base = msgspec.structs.replace(
            base, comparison=condition.op.name.lower(), number=number, percentile=condition.percentile
        )
        if self._kind == "temporal_ordered":
            return self._ordered(base)
        most = len(self._feeds) if self._kind == "temporal" else None
        counts = self._kind in ("temporal", "event_count", "value_count")
        return self._possible(base, most) if counts else base

    def _ordered(self, base: ir.Correlation) -> ir.Correlation | None:
        references = [reference for _, reference in _references(self._source)]
        order = tuple(self._places[reference] for reference in references if reference in self._places)
        if self._possible(base, len(order)) is None:
            return None
        needs_all = not any(_holds(base)(count) for count in range(1, len(order))) and _holds(base)(len(order))
        if needs_all:
            return msgspec.structs.replace(base, alternatives=(ir.Alternative(order),))
        return msgspec.structs.replace(base, order=order)

    def _possible(self, base: ir.Correlation, most: int | None) -> ir.Correlation | None:
        """`base`, unless no count of at least one, and at most `most`, satisfies it."""
        if base.type == "value_count" and base.number > MOST_VALUES:
            self._lacks.append(f"it asks for more than {MOST_VALUES} distinct values, more than this sensor keeps")
            return None
        counts = range(1, most + 1) if most else [1, *range(max(1, int(base.number)), max(1, int(base.number)) + 2)]
        if any(map(_holds(base), counts)):
            return base
        self._lacks.append("its condition holds for no count" + (f" of up to {most} rules" if most else " of events"))
        return None

    def _with_alternatives(
        self, base: ir.Correlation, condition: SigmaExtendedCorrelationCondition
    ) -> ir.Correlation | None:
        try:
            found = alternatives_of(condition.parsed, self._places, is_ordered=self._kind == "temporal_ordered")
        except TooManyError as error:
            self._lacks.append(str(error))
            return None
        if not found:
            self._lacks.append("its condition never holds without what is missing")
            return None
        return msgspec.structs.replace(base, alternatives=found)


def _holds(condition: ir.Correlation) -> Callable[[int], bool]:
    return lambda count: COMPARISONS[condition.comparison](count, condition.number)


def _categories(source: Source) -> set[str]:
    """Of the events that a rule's verdicts may be on."""
    if isinstance(source.sigma, SigmaRule):
        return {source.rule.category}
    return {category for inner in source.refers_to.values() for category in _categories(inner)}
