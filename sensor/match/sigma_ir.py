"""From pySigma's rule objects to `sensor.match.ir`.

Works on detection items, not on pySigma's post-processed conditions: those no longer know an item's modifiers,
and `re|startswith` differs from `re` only by them. Importing pySigma takes 0.1 s and 13 MB, so this module and
`sensor.match.sigma_file` are only imported where rules have to be read anew.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import chain, product
from math import prod
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from sigma.conditions import (
    ConditionAND,
    ConditionIdentifier,
    ConditionItem,
    ConditionNOT,
    ConditionOR,
    ConditionSelector,
    SigmaCondition,
    unwrap_parse_result_operand,
)
from sigma.exceptions import SigmaConditionError, SigmaError, SigmaTypeError
from sigma.modifiers import (
    SigmaCaseSensitiveModifier,
    SigmaContainsModifier,
    SigmaEndswithModifier,
    SigmaStartswithModifier,
)
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaDetections
from sigma.types import (
    Placeholder,
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
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
)

from sensor.events import CLASSES, fields_of
from sensor.match import ir
from sensor.match.lists import Lists
from sensor.match.regex import BeyondRe2Error, compile_regex

_WILDCARDS = {SpecialChars.WILDCARD_MULTI: ir.MANY, SpecialChars.WILDCARD_SINGLE: ir.ONE}
_POSITIONS = {SigmaContainsModifier, SigmaStartswithModifier, SigmaEndswithModifier}
_Parts: TypeAlias = list[str | SpecialChars]
_MOST_PATTERNS = 100_000
"""That the placeholders of one value may stand for."""


class Translator:
    """Translates the conditions of rules of one category; `lists` has the values of placeholders."""

    def __init__(self, category: str, lists: Lists) -> None:
        self._category = category
        self._lists = lists
        self._attributes = fields_of(category)
        hints = get_type_hints(CLASSES[category])
        self._text_attributes = [name for name in self._attributes.values() if _holds_text(hints.get(name))]

    def condition(self, condition: SigmaCondition, detections: SigmaDetections) -> ir.Node:
        """Raises SigmaError where the condition or a value in it makes no sense."""
        return self._tree(condition.parse(postprocess=False), detections)

    def _tree(self, item: Any, detections: SigmaDetections) -> ir.Node:
        item = unwrap_parse_result_operand(item)
        if isinstance(item, ConditionIdentifier):
            try:
                return self.detection(detections[item.identifier])
            except KeyError:
                raise SigmaConditionError(f"detection {item.identifier!r} is not defined") from None
        if isinstance(item, ConditionSelector):
            names = item.resolve_referenced_detections(detections)
            if not names:
                raise SigmaConditionError(f"`{' of '.join(item.args)}` refers to no detection")
            found = tuple(self._tree(name, detections) for name in names)
            return ir.All(found) if item.cond_class is ConditionAND else ir.AnyOf(found)
        if not isinstance(item, ConditionItem):
            raise SigmaConditionError("the condition is not understood")
        nodes = tuple(self._tree(arg, detections) for arg in item.args)
        if isinstance(item, ConditionNOT):
            return ir.Not(nodes[0])
        return ir.AnyOf(nodes) if isinstance(item, ConditionOR) else ir.All(nodes)

    def detection(self, detection: SigmaDetection) -> ir.Node:
        nodes = tuple(
            self.detection(item) if isinstance(item, SigmaDetection) else self.item(item)
            for item in detection.detection_items
        )
        return ir.AnyOf(nodes) if detection.item_linking is ConditionOR else ir.All(nodes)

    def item(self, item: SigmaDetectionItem) -> ir.Node:
        values: list[SigmaType] = item.value or [SigmaNull()]
        nodes = tuple(self._value(item, value) for value in values)
        node = ir.All(nodes) if item.value_linking is ConditionAND else ir.AnyOf(nodes)
        return ir.Not(node) if item.negated else node

    def _value(self, item: SigmaDetectionItem, value: SigmaType) -> ir.Node:
        if isinstance(value, SigmaExpansion):
            return ir.AnyOf(tuple(self._value(item, each) for each in value.values))
        if item.field is None:
            return self._keyword(item, value)
        attribute = self._attributes.get(item.field)
        if attribute is not None:
            return self._predicate(attribute, item, value)
        absent = isinstance(value, SigmaNull) or (isinstance(value, SigmaExists) and not value.exists)
        return ir.Missing(self._no_field(item.field), absent)

    def _no_field(self, field: str) -> str:
        near = difflib.get_close_matches(field, self._attributes, n=1, cutoff=0.8)
        return f"{self._category} events have no field `{field}`" + "".join(f"; did you mean {name}?" for name in near)

    def _keyword(self, item: SigmaDetectionItem, value: SigmaType) -> ir.Node:
        """A value without a field is searched for in the text of every field."""
        if isinstance(value, (SigmaNumber, SigmaBool)) and not isinstance(value, SigmaTimestampPart):
            value = SigmaString(str(value).lower())
        if not isinstance(value, (SigmaString, SigmaRegularExpression, SigmaCIDRExpression)):
            raise SigmaTypeError("a value of this kind needs a field")
        if isinstance(value, SigmaString) and not _POSITIONS.intersection(item.modifiers):
            value = SpecialChars.WILDCARD_MULTI + value + SpecialChars.WILDCARD_MULTI
        return ir.AnyOf(tuple(self._predicate(name, item, value) for name in self._text_attributes))

    def _predicate(self, attribute: str, item: SigmaDetectionItem, value: SigmaType) -> ir.Node:
        if isinstance(value, SigmaString):
            return self._text(attribute, value, cased=SigmaCaseSensitiveModifier in item.modifiers)
        if isinstance(value, SigmaTimestampPart):
            part = value.timestamp_part.name.lower()
            return ir.Missing(f"field `{item.field}` is no time, of which `{part}` could be taken")
        if isinstance(value, (SigmaNumber, SigmaBool)):
            return ir.Text(attribute, (str(value).lower(),))
        if isinstance(value, SigmaRegularExpression):
            return _regex(attribute, item, value, self._lists)
        if isinstance(value, SigmaCIDRExpression):
            return ir.Cidr(attribute, str(value.network))
        if isinstance(value, SigmaCompareExpression):
            return _compare(attribute, value)
        if isinstance(value, SigmaNull):
            return ir.Exists(attribute, False)
        if isinstance(value, SigmaExists):
            return ir.Exists(attribute, value.exists)
        if isinstance(value, SigmaFieldReference):
            other = self._attributes.get(value.field)
            if other is None:
                return ir.Missing(self._no_field(value.field))
            return ir.FieldRef(attribute, other, value.starts_with, value.ends_with)
        return ir.Missing(f"a value of kind {type(value).__name__} is not supported")

    def _text(self, attribute: str, value: SigmaString, *, cased: bool) -> ir.Node:
        """A placeholder stands for any value of its list, as with pySigma's `value_placeholders`."""
        choices: list[list[_Parts]] = []
        for part in value.s:
            if not isinstance(part, Placeholder):
                choices.append([[part]])
            elif part.name in self._lists:
                choices.append([_plain(SigmaString(each)) for each in self._lists[part.name]])
            else:
                return ir.Missing(f"placeholder `%{part.name}%` has no values here")
        number = prod(map(len, choices))
        if number > _MOST_PATTERNS:
            return ir.Missing(f"its placeholders stand for {number:,} values, more than {_MOST_PATTERNS:,}")
        nodes = tuple(ir.Text(attribute, _joined(chain.from_iterable(each)), cased) for each in product(*choices))
        return nodes[0] if len(nodes) == 1 else ir.AnyOf(nodes)


def _holds_text(hint: Any) -> bool:
    return any(kind is str or (get_origin(kind) is list and str in get_args(kind)) for kind in get_args(hint))


def _plain(value: SigmaString) -> _Parts:
    return [part for part in value.s if not isinstance(part, Placeholder)]


def _joined(value: Iterable[str | SpecialChars]) -> tuple[str | int, ...]:
    parts: list[str | int] = []
    for part in value:
        if isinstance(part, str):
            if parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part:
                parts.append(part)
        elif _WILDCARDS[part] == ir.ONE or parts[-1:] != [ir.MANY]:
            parts.append(_WILDCARDS[part])
    return tuple(parts)


def _regex(attribute: str, item: SigmaDetectionItem, value: SigmaRegularExpression, lists: Lists) -> ir.Node:
    names = [part.name for part in value.regexp.s if isinstance(part, Placeholder)]
    if names:
        lacking = next((name for name in names if name not in lists), None)
        why = "is not supported in a regular expression" if lacking is None else "has no values here"
        return ir.Missing(f"placeholder `%{lacking or names[0]}%` {why}")
    node = ir.Regex(
        attribute,
        str(value.regexp),
        "".join(sorted(value.sigma_to_re_flag[flag] for flag in value.flags)),
        from_start=SigmaStartswithModifier in item.modifiers,
        to_end=SigmaEndswithModifier in item.modifiers,
    )
    try:
        compile_regex(node.pattern, node.flags, from_start=node.from_start, to_end=node.to_end)
    except BeyondRe2Error as error:
        return ir.Missing(str(error))
    except ValueError as error:
        raise SigmaError(str(error)) from None
    return node


def _compare(attribute: str, value: SigmaCompareExpression) -> ir.Node:
    comparison = value.op.name.lower()
    number = value.number.number
    if comparison == "neq":
        return ir.Not(ir.Text(attribute, (str(number),)))
    return ir.Compare(attribute, comparison, number)  # type: ignore[arg-type]
