"""What is wrong with one rule document, and on which line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, cast, get_args

import re2  # type: ignore[import-untyped]
from sigma import exceptions
from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaError
from sigma.policy import SigmaPolicy
from sigma.policy.regex_engine import RegexEngine, RegexPattern
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaRule

from sensor.faults import Fault
from sensor.match.regex import compile_backtracking
from sensor.match.sigma_documents import Entry
from sensor.verdict import Action, Scope


class _EitherEngine(RegexEngine):
    """Accepts what RE2 or Python's `re` accepts: what only the latter does is no fault, see `sensor.match.regex`."""

    def compile(self, pattern: str, flags: int = 0) -> RegexPattern:
        options = re2.Options()
        options.log_errors = False
        try:
            return cast(RegexPattern, re2.compile(pattern, options))
        except re2.error:
            return cast(RegexPattern, compile_backtracking(pattern, flags))

    @property
    def error(self) -> type[re.error]:
        return re.error


_SELF_NAMED = re.compile(r"^Modifier \w+ incompatible to value type of")

POLICY = SigmaPolicy(regex_engine=_EitherEngine())

_KEYS: dict[type[SigmaError], str] = {
    exceptions.SigmaAuthorError: "author",
    exceptions.SigmaDateError: "date",
    exceptions.SigmaDescriptionError: "description",
    exceptions.SigmaFalsePositivesError: "falsepositives",
    exceptions.SigmaFieldsError: "fields",
    exceptions.SigmaIdentifierError: "id",
    exceptions.SigmaLevelError: "level",
    exceptions.SigmaLogsourceError: "logsource",
    exceptions.SigmaModifiedError: "modified",
    exceptions.SigmaNameError: "name",
    exceptions.SigmaReferencesError: "references",
    exceptions.SigmaRelatedError: "related",
    exceptions.SigmaScopeError: "scope",
    exceptions.SigmaStatusError: "status",
    exceptions.SigmaTaxonomyError: "taxonomy",
    exceptions.SigmaTitleError: "title",
}
"""Which key of a rule pySigma complains of, by the class of its error."""

_CORRELATION_KEYS: dict[type[SigmaError], str] = {
    exceptions.SigmaCorrelationConditionError: "condition",
    exceptions.SigmaCorrelationTypeError: "type",
    exceptions.SigmaTimespanError: "timespan",
}
"""The same, of a key below `correlation`."""


def check_document(entry: Entry) -> Iterator[Fault]:
    """Faults that pySigma lets pass or stumbles over, our own attribute `response` included."""
    yield from _check_shape(entry)
    yield from _check_tags(entry)
    yield from _check_response(entry)


def _check_shape(entry: Entry) -> Iterator[Fault]:
    data = entry.data
    for key in ("id", "license"):
        if not isinstance(data.get(key, ""), str):
            yield entry.fault(f"`{key}` must be text", key)
    for section in ("detection", "filter", "correlation", "logsource"):
        if section in data and not isinstance(data[section], dict):
            yield entry.fault(f"`{section}` must be a map", section)
        else:
            yield from _check_keys(entry, data.get(section), (section,))
    yield from _check_references(entry)
    detection = data.get("detection")
    if not isinstance(detection, dict):
        return
    for name, definition in detection.items():
        if definition is None and name != "condition":
            yield entry.fault(f"`{name}` is empty", "detection", name)
    if "condition" in detection:
        conditions = detection["condition"]
        for position, condition in enumerate(conditions if isinstance(conditions, list) else [conditions]):
            if not isinstance(condition, str):
                yield entry.fault("`condition` must be text", "detection", "condition", position)


def _check_references(entry: Entry) -> Iterator[Fault]:
    """What names events or other rules must be text: pySigma takes anything."""
    source = entry.data.get("logsource")
    for key in ("category", "product", "service"):
        if isinstance(source, dict) and not isinstance(source.get(key), str | None):
            yield entry.fault(f"`{key}` must be text", "logsource", key)
    for section in ("correlation", "filter"):
        named = entry.data[section].get("rules") if isinstance(entry.data.get(section), dict) else None
        for position, name in enumerate(named if isinstance(named, list) else []):
            if not isinstance(name, str):
                yield entry.fault("the id or name of a rule must be text", section, "rules", position)


def _check_keys(entry: Entry, data: Any, at: tuple[Hashable, ...]) -> Iterator[Fault]:
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                yield entry.fault(f"`{key}`: a key here must be text", *at, key)
            elif "re" in key.split("|")[1:]:
                values = value if isinstance(value, list) else [value]
                if not all(isinstance(each, str) for each in values):
                    yield entry.fault(f"`{key}`: a regular expression must be text (in quotes)", *at, key)
            yield from _check_keys(entry, value, (*at, key))
    elif isinstance(data, list):
        for position, value in enumerate(data):
            yield from _check_keys(entry, value, (*at, position))


def _check_tags(entry: Entry) -> Iterator[Fault]:
    tags = entry.data.get("tags")
    if tags is None:
        return
    if not isinstance(tags, list):
        yield entry.fault("tags must be a list", "tags")
        return
    for position, tag in enumerate(tags):
        if not isinstance(tag, str) or "." not in tag:
            yield entry.fault(f"tag {tag!r} must be a namespace, a dot and a name", "tags", position)


def _check_response(entry: Entry) -> Iterator[Fault]:
    # Sigma lets a rule have keys of its author's own; one that is nearly ours is a slip that would disarm the rule.
    for key in difflib.get_close_matches("response", [k for k in entry.data if isinstance(k, str)], cutoff=0.8):
        if key != "response":
            yield entry.fault(f"unknown key {key!r}; did you mean response?", key)
    if "response" not in entry.data:
        return
    response = entry.data["response"]
    if not isinstance(response, dict):
        yield entry.fault("response must be a map of `action` and `scope`", "response")
        return
    known = {"action": get_args(Action), "scope": get_args(Scope)}
    for key, value in response.items():
        if key not in known:
            yield entry.fault(f"unknown key {key!r} in response; known: action, scope", "response", key)
        elif value not in known[key]:
            choices = ", ".join(known[key])
            yield entry.fault(f"response.{key} {value!r} is unknown; known: {choices}", "response", key)


def common_errors(entry: Entry) -> list[SigmaError]:
    """pySigma's errors outside of the detection, for a rule that is too odd for it as a whole."""
    data = {key: value for key, value in entry.data.items() if key != "id" or isinstance(value, str)}
    try:
        if isinstance(data.get("correlation"), dict):
            # Its condition is what it is too odd for; the rest may have faults of its own.
            data["correlation"] = {**data["correlation"], "condition": {"gte": 1, "field": "any"}}
            return [*SigmaCorrelationRule.from_dict(data, collect_errors=True).errors]
        _, errors = SigmaRule.from_dict_common_params(data, collect_errors=True)
    except (SigmaError, AttributeError, KeyError, TypeError, ValueError):
        return []  # the caller has a fault for what made it fail
    return [*errors, exceptions.SigmaDetectionError("the detection is not understood")]


def faults_of(entry: Entry, errors: Sequence[SigmaError]) -> Iterator[Fault]:
    """pySigma's errors with their lines. It stops at a detection's first error; this finds the others too."""
    in_detection = []
    for error in errors:
        key = _KEYS.get(type(error))
        below = _CORRELATION_KEYS.get(type(error))
        if key is not None:
            yield entry.fault(str(error), key)
        elif below is not None:
            yield entry.fault(str(error), "correlation", below)
        elif not _is_about_tags(error):
            in_detection.append(error)
    section = next((name for name in ("correlation", "filter") if name in entry.data), "detection")
    if in_detection:
        found = [] if section == "correlation" else list(_detection_faults(entry, section))
        yield from found or [entry.fault(str(error), section) for error in in_detection]


def _is_about_tags(error: SigmaError) -> bool:
    """`_check_tags` reports these, each with its line."""
    return isinstance(error, exceptions.SigmaTagError) or (
        type(error) is exceptions.SigmaValueError and str(error).startswith("Sigma tag ")
    )


def _detection_faults(entry: Entry, section: str) -> Iterator[Fault]:
    detections = entry.data.get(section)
    if not isinstance(detections, dict):
        return
    if "condition" not in detections:
        yield entry.fault("a rule needs a condition", section)
    for name, definition in detections.items():
        if name not in ("condition", "rules"):
            yield from _definition_faults(entry, definition, (section, name))


def _definition_faults(entry: Entry, definition: Any, at: tuple[Hashable, ...]) -> Iterator[Fault]:
    if isinstance(definition, dict) and definition:
        for key, value in definition.items():
            if isinstance(key, str):
                yield from _item_faults(entry, key, value, (*at, key))
    elif isinstance(definition, list) and any(isinstance(each, (dict, list)) for each in definition):
        for position, each in enumerate(definition):
            yield from _definition_faults(entry, each, (*at, position))
    else:
        error = _error_of(lambda: SigmaDetection.from_definition(definition, policy=POLICY))
        if error:
            yield entry.fault(error, *at)


def _item_faults(entry: Entry, key: str, value: Any, at: tuple[Hashable, ...]) -> Iterator[Fault]:
    def error_of(some: Any) -> str | None:
        return _error_of(lambda: SigmaDetectionItem.from_mapping(key, some, policy=POLICY))

    whole = error_of(value)
    if whole is None:
        return
    without_values = error_of([])
    if isinstance(value, list) and without_values is None:
        each = [(position, error_of([one])) for position, one in enumerate(value)]
        found = [entry.fault(f"`{key}`: {error}", *at, position) for position, error in each if error]
        if found:
            yield from found
            return
    yield entry.fault(f"`{key}`: {whole}", *at)


def _error_of(attempt: Any) -> str | None:
    try:
        attempt()
    except (SigmaError, AttributeError, TypeError, ValueError, RecursionError) as error:
        return _SELF_NAMED.sub("this modifier does not go with", " ".join(str(error).split()))
    return None
