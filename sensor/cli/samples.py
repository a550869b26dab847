"""Rule samples: events that a rule must match and events that it must not, in `samples/<rule id>.yml`."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from sensor.events import AnyEvent, ProcessCreation, RecordError, from_record
from sensor.faults import Fault
from sensor.yamlfile import Document, read

Expectation = Literal["match", "no_match"]


class Sample(msgspec.Struct, frozen=True):
    """An event of a sample file, or several in a row, and whether its rule has to match."""

    path: str
    line: int
    expected: Expectation
    events: tuple[AnyEvent, ...]

    @property
    def event(self) -> AnyEvent:
        """The last one."""
        return self.events[-1]


def read_samples(path: Path) -> tuple[list[Sample], list[Fault]]:
    """Every sample of a file, and all that is wrong with it.

    An event is an object as `--events` writes it. `time` may be absent; so may `CommandLine` where `Args` are
    given: it is those joined with one blank. A list of events is one sample of a correlation rule.
    """
    documents, faults = read(path)
    if faults:
        return [], faults
    if len(documents) != 1 or not isinstance(documents[0].data, dict):
        return [], [Fault(str(path), 0, "must be one map of `match` and `no_match`")]
    document = documents[0]
    samples: list[Sample] = []
    known = get_args(Expectation)
    for key in document.data:
        if key not in known:
            faults.append(_fault(path, document, f"unknown key `{key}`; known: {', '.join(known)}", key))
    for key in known:
        events = document.data.get(key)
        if not isinstance(events, list) or not events:
            faults.append(_fault(path, document, f"`{key}` must be a list of at least one event", key))
            continue
        for position, record in enumerate(events):
            try:
                made = tuple(map(_event, record if isinstance(record, list) and record else [record]))
            except RecordError as error:
                faults.append(_fault(path, document, str(error), key, position))
                continue
            line = document.line_of((key, position))
            samples.append(Sample(str(path), line, cast(Expectation, key), made))
    return samples, faults


def _event(record: Any) -> AnyEvent:
    event = from_record(record)
    if isinstance(event, ProcessCreation) and event.command_line is None and event.args is not None:
        event.command_line = " ".join(event.args)
    return event


def _fault(path: Path, document: Document, what: str, *at: Hashable) -> Fault:
    return Fault(str(path), document.line_of(at), what)
