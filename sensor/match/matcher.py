"""Which rules match an event: candidates from the index, then each candidate's condition.

Every rule that can be is filed under its anchors (`sensor.match.anchors`). An event's fields are looked up once
each, in a table of whole values and an Aho-Corasick automaton of parts, so the cost of an event that matches
nothing grows with its length and not with the number of rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ahocorasick

from sensor.events import CLASSES, AnyEvent
from sensor.match.anchors import Anchor, anchors
from sensor.match.correlate import Correlator, Targets
from sensor.match.ir import Rule
from sensor.match.predicates import Predicate, View, compile_node
from sensor.match.text import fold, text_forms
from sensor.verdict import RuleInfo, Verdict

_REMEMBERED = 1024
"""Values remembered per field, and their longest length: at most about 0.5 MiB per field."""
_REMEMBERED_LENGTH = 256


class Matcher:
    """All rules, ready to match. `match` never raises, whatever text an event holds."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Rules that never fire are left out. Raises RegexError for rules that `load_rules` would refuse."""
        used = [rule for rule in rules if rule.coverage.status != "never"]
        self._correlator = Correlator(rule for rule in used if rule.correlation is not None)
        by_category: dict[str, list[Rule]] = {category: [] for category in CLASSES}
        for rule in used:
            if rule.correlation is None:
                by_category[rule.category].append(rule)
        self._indexes = {CLASSES[category]: _Index(found, self._correlator) for category, found in by_category.items()}

    def match(self, event: AnyEvent) -> list[Verdict]:
        """The verdicts on `event`, in the order of the rules, and then those of correlations.

        Among the latter may be verdicts on events before this one, whose window is over now.
        """
        return self._indexes[type(event)].match(event)

    def advance(self, now: int) -> list[Verdict]:
        """The verdicts on correlation windows that are over `now`, a time as `sensor.events.kernel_time` gives it.

        To be called every few seconds, when all events before it have been matched.
        """
        return self._correlator.advance(now)

    def finish(self) -> list[Verdict]:
        """The verdicts on correlation windows that are still open, as if nothing more ever came; nothing may."""
        return self._correlator.finish()

    def losses(self) -> dict[str, int]:
        """What correlations could not count for want of time or room: "late", "evicted"."""
        return self._correlator.losses()


class _Index:
    """The rules of one category. A set of rules is an integer with one bit for each, in rule order."""

    def __init__(self, rules: list[Rule], correlator: Correlator) -> None:
        self._rules: list[tuple[RuleInfo, Predicate, bool, Targets]] = []
        self._correlator = correlator
        self._unanchored = 0
        fields: dict[str, _Field] = {}
        for number, rule in enumerate(rules):
            targets = correlator.targets(rule.info.id)
            self._rules.append((rule.info, compile_node(rule.condition), rule.silent, targets))
            found = anchors(rule.condition)
            if found is None:
                self._unanchored |= 1 << number
                continue
            for anchor in found:
                fields.setdefault(anchor.attribute, _Field()).add(anchor, 1 << number)
        for field in fields.values():
            field.finish()
        self._fields = [(attribute, field.remembered, field) for attribute, field in fields.items()]

    def match(self, event: AnyEvent) -> list[Verdict]:
        candidates = self._unanchored
        for attribute, remembered, field in self._fields:
            value = getattr(event, attribute)
            if value is None:
                continue
            if type(value) is str:
                hits = remembered.get(value)
                candidates |= field.look_up(value) if hits is None else hits
            else:
                for form in text_forms(value):
                    hits = remembered.get(form)
                    candidates |= field.look_up(form) if hits is None else hits
        return self._decide(event, candidates) if candidates else []

    def _decide(self, event: AnyEvent, candidates: int) -> list[Verdict]:
        view = View(event)
        verdicts: list[Verdict] = []
        fed: list[Targets] = []
        while candidates:
            bit = candidates & -candidates
            candidates ^= bit
            info, predicate, is_silent, targets = self._rules[bit.bit_length() - 1]
            if predicate(view):
                if not is_silent:
                    verdicts.append(Verdict(rule=info, event=event))
                if targets:
                    fed.append(targets)
        if fed:
            verdicts += self._correlator.take(event, fed)
        return verdicts


class _Field:
    """The anchors on one field, and the rules behind each."""

    def __init__(self) -> None:
        self.remembered: dict[str, int] = {}
        self._whole: dict[str, int] = {}
        self._parts: dict[str, int] = {}
        self._automaton: Any = None

    def add(self, anchor: Anchor, rule: int) -> None:
        table = self._whole if anchor.whole else self._parts
        table[anchor.literal] = table.get(anchor.literal, 0) | rule

    def finish(self) -> None:
        if not self._parts:
            return
        self._automaton = ahocorasick.Automaton()
        for literal, rules in self._parts.items():
            self._automaton.add_word(literal, rules)
        self._automaton.make_automaton()

    def look_up(self, text: str) -> int:
        """The rules that have an anchor in `text`."""
        folded = fold(text)
        rules = self._whole.get(folded, 0)
        if self._automaton is not None:
            for _, found in self._automaton.iter(folded):
                rules |= found
        if len(text) <= _REMEMBERED_LENGTH:
            if len(self.remembered) >= _REMEMBERED:
                self.remembered.clear()
            self.remembered[text] = rules
        return rules
