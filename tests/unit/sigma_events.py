"""Events made from a rule's own values: ones that should match it, and the same with one thing changed.

Everything is derived from pySigma's view of the rule, so that what `sensor.match` makes of it has no part in which
events it is tried on.
"""

# ruff: noqa: RUF001 (letters that only look alike are what this is about)

from __future__ import annotations

import ipaddress
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from regex_text import text_for
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.rule import SigmaRule
from sigma.types import (
    SigmaBool,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SpecialChars,
)
from sigma_oracle import kind_of

from sensor.events import CLASSES, AnyEvent, fields_of

ODD = [
    *"*?%_\\'\"`[]^-;:/.x0Kks \t\n",
    *("é", "É", "ß", "ẞ", "İ", "ı", "Σ", "σ", "ς", "\N{KELVIN SIGN}", "ſ", "–", "\u202e", "\U0001f600", "\u2028"),
    *("e\u0301", "ß\n", "\v", "\f", "\r", "\x85", "\u00a0", "\x1f", "\x7f"),
]
"""What means something to Sigma, SQL, regular expressions, case folding or a terminal."""
ODD_CHARACTERS = [odd for odd in ODD if len(odd) == 1]
FILLING = ["", "", "x", " ", "a b", "\n", "%", "_", "*", "é", "/usr/", "--", "İß"]
"""What the wildcard * may stand for."""
DIGITS = ["0", "1", "7"]

Fields = dict[str, Any]
"""By Sigma field name; text where the field holds something else is converted at the end."""


class Wish(NamedTuple):
    """A comparison that should hold, or should not."""

    field: str | None
    value: Any
    holds: bool


class Generator:
    """Events for one rule; equal seeds give equal events."""

    def __init__(self, rule: SigmaRule, category: str, seed: str) -> None:
        self._conditions = [condition.parsed for condition in rule.detection.parsed_condition]
        self._attributes = fields_of(category)
        self._kinds = {name: kind_of(category, attribute) for name, attribute in self._attributes.items()}
        self._texts = [name for name, kind in self._kinds.items() if kind is str and name != "Argv"]
        self._class = CLASSES[category]
        self._random = Random(seed)
        self._taken: Counter[int] = Counter()

    def events(self, most: int, mutations: int) -> Iterator[AnyEvent]:
        """For each comparison (up to `most`) an event that holds by it and one that fails by it, and near misses."""
        alternatives = sum(1 for condition in self._conditions for _ in _leaves(condition))
        for number in range(max(6, min(alternatives, most))):
            condition = self._conditions[number % len(self._conditions)]
            fields = self._fields(self._wishes(condition, holds=True))
            yield self._event(fields)
            yield self._event(self._fields(self._wishes(condition, holds=False)))
            for _ in range(mutations):
                yield self._event(self._mutated(fields))

    def _wishes(self, node: Any, holds: bool) -> list[Wish]:
        """What makes `node` hold, or fail by as little as possible; each time by the reason least used so far."""
        if isinstance(node, ConditionNOT):
            return self._wishes(node.args[0], not holds)
        if isinstance(node, ConditionAND | ConditionOR):
            needs_all = isinstance(node, ConditionAND)
            if needs_all == holds:
                return [wish for arg in node.args for wish in self._wishes(arg, holds)]
            least = min(self._taken[id(arg)] for arg in node.args)
            reason = self._random.choice([arg for arg in node.args if self._taken[id(arg)] == least])
            self._taken[id(reason)] += 1
            others = [arg for arg in node.args if needs_all and arg is not reason]
            return [wish for arg in others for wish in self._wishes(arg, True)] + self._wishes(reason, holds)
        keyword = isinstance(node, ConditionValueExpression)
        return [Wish(None if keyword else node.field, node.value, holds)]

    def _fields(self, wishes: list[Wish]) -> Fields:
        wanted: dict[str, list[Any]] = defaultdict(list)
        fields: Fields = {}
        for wish in wishes:
            field = self._random.choice(self._texts) if wish.field is None else wish.field
            if field not in self._attributes:
                continue
            value = self._random.choice(wish.value.values) if isinstance(wish.value, SigmaExpansion) else wish.value
            absent = isinstance(value, SigmaNull) or (isinstance(value, SigmaExists) and not value.exists)
            if wish.holds != absent:
                wanted[field].append(value if wish.holds else SigmaExists(True))
            elif wish.field is not None:
                fields.setdefault(field, None if absent else self._miss(value))
        references_last = sorted(wanted, key=lambda name: any(isinstance(v, SigmaFieldReference) for v in wanted[name]))
        for field in references_last:
            kind, values = self._kinds[field], wanted[field]
            if kind is list:
                fields[field] = [self._text([value], kind, fields) for value in values]
            else:
                fields[field] = self._text(values, kind, fields)
        return fields

    def _miss(self, value: Any) -> str | None:
        """Something that `value` is not satisfied with; for a network an address in the one beside it."""
        if isinstance(value, SigmaCIDRExpression) and value.network.prefixlen:
            network = value.network
            beside = int(network.network_address) ^ 1 << (network.max_prefixlen - network.prefixlen)
            return str(type(network.network_address)(beside + self._random.randrange(min(network.num_addresses, 99))))
        return self._random.choice([None, None, "", "benign", "1"])

    def _text(self, values: list[Any], kind: type, fields: Fields) -> str:
        """One text for all of `values`, as far as that can be: a whole one alone, else starts, middles and ends."""
        starts: list[str] = []
        middles: list[str] = []
        ends: list[str] = []
        for value in values:
            text, open_start, open_end = self._piece(value, kind, fields)
            if not open_start and not open_end:
                return text
            (middles if open_start and open_end else ends if open_start else starts).append(text)
        self._random.shuffle(middles)
        space = "" if kind is int else self._random.choice(["", " ", "x"])
        return space.join([*sorted(starts, key=len)[-1:], *middles, *sorted(ends, key=len)[-1:]])

    def _piece(self, value: Any, kind: type, fields: Fields) -> tuple[str, bool, bool]:
        """A text that satisfies `value`, and whether more may stand before and after it."""
        choice = self._random.choice
        if isinstance(value, SigmaString):
            return self._filled(value, DIGITS if kind is int else FILLING, DIGITS if kind is int else ODD_CHARACTERS)
        if isinstance(value, SigmaRegularExpression):
            pattern = str(value.regexp)
            open_start, open_end = not re.match(r"(\(\?\w+\))?(\^|\\A)", pattern), not pattern.endswith("$")
            return text_for(pattern, self._random), open_start, open_end
        if isinstance(value, SigmaCIDRExpression):
            network = ipaddress.ip_network(value.cidr)
            return str(network[self._random.randrange(min(network.num_addresses, 1 << 62))]), False, False
        if isinstance(value, SigmaCompareExpression):
            return str(value.number.number + choice([-1, 0, 1])), False, False
        if isinstance(value, SigmaFieldReference):
            other = fields.setdefault(value.field, choice(DIGITS if kind is int else ["/usr/bin/a%b", "Tést", "x_y"]))
            return str(other), value.ends_with, value.starts_with
        if isinstance(value, SigmaNumber | SigmaBool):
            return str(value).lower(), False, False
        assert isinstance(value, SigmaExists), value
        return choice(["x", "benign", "1", "true"]), True, True

    def _filled(self, value: SigmaString, many: list[str], one: list[str]) -> tuple[str, bool, bool]:
        parts = [part for part in value.s if part != ""]
        fillers = {SpecialChars.WILDCARD_MULTI: many, SpecialChars.WILDCARD_SINGLE: one}
        text = "".join(part if isinstance(part, str) else self._random.choice(fillers[part]) for part in parts)
        multi = SpecialChars.WILDCARD_MULTI
        return text, bool(parts) and parts[0] == multi, bool(parts) and parts[-1] == multi

    def _mutated(self, fields: Fields) -> Fields:
        """The same with one change."""
        changed = dict(fields)
        choice = self._random.choice
        names = [name for name, value in fields.items() if value is not None]
        if not names or self._random.random() < 0.04:
            changed[choice(list(self._attributes))] = choice(["benign", "", "1", "true", *ODD])
            return changed
        name = choice(names)
        roll = self._random.random()
        if roll < 0.06:
            changed[name] = None
        elif roll < 0.1:
            other = choice(list(self._attributes))
            changed[name], changed[other] = fields.get(other), fields[name]
        elif isinstance(fields[name], list):
            changed[name] = self._mutated_list(fields[name])
        else:
            changed[name] = self._mutated_text(str(fields[name]))
        return changed

    def _mutated_list(self, elements: list[str]) -> list[str]:
        if not elements or self._random.random() < 0.15:
            return [*elements, self._random.choice(ODD)]
        position = self._random.randrange(len(elements))
        kept = [self._mutated_text(elements[position])] if self._random.random() < 0.8 else []
        return [*elements[:position], *kept, *elements[position + 1 :]]

    def _mutated_text(self, text: str) -> str:
        choice = self._random.choice
        if self._random.random() < 0.5 and (neighbour := self._neighbour(text)):
            return neighbour
        at = self._random.randrange(len(text) + 1)
        odd = choice(ODD)
        before, here, after = text[:at], text[at : at + 1], text[at + 1 :]
        return choice(
            [
                before + after,
                before + odd + after,
                before + odd + here + after,
                before + here.swapcase() + after,
                text.swapcase(),
                text.upper(),
                odd + text,
                text + odd,
                text + "\n",
                text.strip(),
                "",
                str(int(text) + choice([-1, 1])) if re.fullmatch("-?[0-9]{1,15}", text) else text * 2,
            ]
        )

    def _neighbour(self, text: str) -> str | None:
        """Another address, where `text` is one: a bit or a digit away."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
        number = self._random.choice(
            [int(address) ^ 1 << self._random.randrange(address.max_prefixlen), int(address) >> 4]
        )
        return str(type(address)(number))

    def _event(self, fields: Fields) -> AnyEvent:
        attributes: dict[str, Any] = {}
        for field, value in fields.items():
            if field in self._attributes and field != "Argv":
                attributes[self._attributes[field]] = _typed(self._kinds[field], value)
        if fields.get("Argv"):
            attributes["args"] = [*str(fields["Argv"]).removesuffix("\0").split("\0"), *(attributes.get("args") or [])]
        return self._class(time=0, **attributes)


def comparisons(rule: SigmaRule) -> Iterator[tuple[str | None, Any]]:
    """The fields (None: a keyword) and values that the rule's conditions compare."""
    for condition in rule.detection.parsed_condition:
        for leaf in _leaves(condition.parsed):
            field = None if isinstance(leaf, ConditionValueExpression) else leaf.field
            values = leaf.value.values if isinstance(leaf.value, SigmaExpansion) else [leaf.value]
            yield from ((field, value) for value in values)


def _leaves(node: Any) -> Iterator[ConditionFieldEqualsValueExpression | ConditionValueExpression]:
    if isinstance(node, ConditionAND | ConditionOR | ConditionNOT):
        for arg in node.args:
            yield from _leaves(arg)
    else:
        yield node


def _typed(kind: type, value: Any) -> Any:
    """`value` as an event holds it; None where it cannot. NUL is left out: SQLite's LIKE takes it for the end."""
    if value is None:
        return None
    texts = [str(each).replace("\0", "") for each in (value if isinstance(value, list) else [value])]
    if kind is list:
        return texts
    text = " ".join(texts)
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    number = re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,6})?", text)
    return kind(text) if number and not (kind is int and number[1]) else None
