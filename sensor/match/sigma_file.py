"""From the text of rule files to rules: documents, pySigma's checks, and every fault with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec
from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaError
from sigma.filters import SigmaFilter
from sigma.rule import SigmaDetections, SigmaLevel, SigmaRule, SigmaRuleBase

from sensor import yamlfile
from sensor.events import CLASSES
from sensor.faults import Fault
from sensor.match import ir
from sensor.match.coverage import assess, held_to_alert
from sensor.match.lists import Lists
from sensor.match.sigma_check import POLICY, check_document, common_errors, faults_of
from sensor.match.sigma_correlation import Source, join
from sensor.match.sigma_documents import Entry, entries_of
from sensor.match.sigma_ir import Translator
from sensor.verdict import RuleInfo

_PARSE_ERRORS = (SigmaError, AttributeError, KeyError, TypeError, ValueError, RecursionError)
"""pySigma checks much, not all: a value of an unexpected type surfaces as one of these."""


class SourceFile(msgspec.Struct, frozen=True):
    """A rule file: its path, its path below the rule directory, and what it holds."""

    path: str
    name: str
    content: bytes


_Sigma = SigmaRule | SigmaCorrelationRule | SigmaFilter


def parse(files: Sequence[SourceFile], lists: Lists | None = None) -> tuple[list[ir.Rule], list[Fault]]:
    """All rules of all files, and all that is wrong with them; rules are of use only without faults.

    `lists` has the values of placeholders.
    """
    faults: list[Fault] = []
    parsed: list[tuple[Entry, _Sigma]] = []
    faulty: list[Entry] = []
    for file in files:
        for entry in _entries(file, faults):
            found = _parse_entry(entry, faults)
            if found is None:
                faulty.append(entry)
            else:
                parsed.append((entry, found))
    filters = [sigma for _, sigma in parsed if isinstance(sigma, SigmaFilter)]
    sources: list[Source] = []
    first: dict[str, ir.Rule] = {}
    for entry, sigma in parsed:
        if isinstance(sigma, SigmaFilter):
            continue
        rule = _translate(entry, sigma, filters, lists or {}, faults)
        sources.append(Source(entry, sigma, rule))
        other = first.setdefault(rule.info.id, rule)
        if other is not rule:
            where = f"{other.info.path}:{other.line}"
            faults.append(entry.fault(f"id {rule.info.id} is also that of the rule at {where}", "id"))
    faults += join(sources, faulty)
    return [source.rule for source in sources], list(dict.fromkeys(faults))


def _entries(file: SourceFile, faults: list[Fault]) -> Iterator[Entry]:
    try:
        text = file.content.decode()
    except UnicodeDecodeError as error:
        faults.append(Fault(file.path, 0, f"is not UTF-8 (byte {error.start})"))
        return
    documents, found = yamlfile.parse(text, file.path)
    faults += found
    yield from entries_of(file.path, file.name, documents, faults)


def _parse_entry(entry: Entry, faults: list[Fault]) -> _Sigma | None:
    """The rule, correlation rule or filter of a document; None where it has faults."""
    faults_before = len(faults)
    faults += check_document(entry)
    kind = _kind(entry.data)
    sigma: _Sigma | None = None
    try:
        sigma = kind.from_dict(entry.data, collect_errors=True, policy=POLICY)
        errors = sigma.errors
    except _PARSE_ERRORS as error:
        errors = common_errors(entry)
        if kind is SigmaCorrelationRule and isinstance(error, SigmaError):
            errors = [error, *errors]
        elif len(faults) == faults_before:
            faults.append(entry.fault(f"cannot be understood: {_one_line(error)}"))
    faults += faults_of(entry, errors)
    if len(faults) == faults_before:
        return sigma
    faults += _condition_faults(entry)
    return None


def _kind(data: dict[Any, Any]) -> type[_Sigma]:
    if "correlation" in data:
        return SigmaCorrelationRule
    return SigmaFilter if "filter" in data else SigmaRule


def _translate(
    entry: Entry, sigma: SigmaRule | SigmaCorrelationRule, filters: list[SigmaFilter], lists: Lists, faults: list[Fault]
) -> ir.Rule:
    never = ir.Rule(
        info=_info(entry, sigma),
        category="",
        condition=ir.Constant(False),
        coverage=ir.Coverage("never"),
        line=entry.line(),
    )
    if isinstance(sigma, SigmaCorrelationRule):
        return never
    reason = _no_such_events(sigma)
    condition = _condition(entry, sigma, filters, lists, faults)
    category = sigma.logsource.category or ""
    if reason is not None:
        return msgspec.structs.replace(never, category=category, coverage=ir.Coverage("never", (reason,)))
    reduced, coverage = assess(condition)
    return held_to_alert(msgspec.structs.replace(never, category=category, condition=reduced, coverage=coverage))


def _condition(entry: Entry, rule: SigmaRule, filters: list[SigmaFilter], lists: Lists, faults: list[Fault]) -> ir.Node:
    category = rule.logsource.category
    translator = Translator(category if category in CLASSES else "process_creation", lists)
    nodes: list[ir.Node] = []
    own = len(rule.detection.parsed_condition)
    for position in range(own):
        at = ("detection", "condition", position) if own > 1 else ("detection", "condition")
        try:
            nodes.append(translator.condition(rule.detection.parsed_condition[position], rule.detection))
        except _PARSE_ERRORS as error:
            faults.append(Fault(entry.path, entry.line(*at), f"condition: {_of_condition(error)}"))
    if not filters or len(nodes) != own:
        return ir.AnyOf(tuple(nodes))
    try:
        for sigma_filter in filters:
            sigma_filter.apply_on_rule(rule)
        return ir.AnyOf(tuple(translator.condition(each, rule.detection) for each in rule.detection.parsed_condition))
    except _PARSE_ERRORS as error:
        faults.append(Fault(entry.path, entry.line(), f"with its Sigma filters: {_one_line(error)}"))
        return ir.Constant(False)


def _condition_faults(entry: Entry) -> Iterator[Fault]:
    """What is wrong with the condition of a rule that has other faults: taken alone, each detection for a sound one."""
    detection = entry.data.get("detection")
    if not isinstance(detection, dict):
        return
    sound = {name: {"Image": "x"} for name in detection if isinstance(name, str) and name != "condition"}
    given = detection.get("condition")
    for position, condition in enumerate(given if isinstance(given, list) else [given]):
        if sound and isinstance(condition, str):
            try:
                detections = SigmaDetections.from_dict({**sound, "condition": condition})
                Translator("process_creation", {}).condition(detections.parsed_condition[0], detections)
            except _PARSE_ERRORS as error:
                yield entry.fault(f"condition: {_of_condition(error)}", "detection", "condition", position)


def _of_condition(error: Exception) -> str:
    """pyparsing names its whole grammar; what it found, and where, is enough."""
    return _PLACE.sub(r" at column \1", _GRAMMAR.sub("a detection's name is expected", _one_line(error)))


_GRAMMAR = re.compile(r"^Expected \{.*\}(?=, found)")
_PLACE = re.compile(r" \(at char \d+\), \(line:1, col:(\d+)\)$")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _no_such_events(rule: SigmaRule) -> str | None:
    source = rule.logsource
    if source.product is not None and source.product.lower() != "linux":
        return f"log source product `{source.product}` is another system"
    if source.service is not None:
        return f"log source service `{source.service}` is not read by this sensor"
    if source.category is None:
        return "the log source names no category"
    if source.category not in CLASSES:
        return f"this sensor has no {source.category} events"
    return None


def _info(entry: Entry, sigma: SigmaRuleBase) -> RuleInfo:
    derived = uuid5(NAMESPACE_URL, f"hostbrake:{entry.name}:{sigma.title}" + f"#{entry.number}" * bool(entry.number))
    response = entry.data.get("response", {})
    level = sigma.level or SigmaLevel.MEDIUM
    return RuleInfo(
        id=str(sigma.id or derived),
        title=sigma.title,
        level=level.name.lower(),  # type: ignore[arg-type]
        techniques=tuple(
            tag.name.upper()
            for tag in sigma.tags
            if tag.namespace == "attack" and tag.name[:1] in "tT" and tag.name[1:5].isdigit()
        ),
        kinds=tuple(tag.name for tag in sigma.tags if tag.namespace == "hostbrake"),
        path=entry.path,
        **response,
    )
