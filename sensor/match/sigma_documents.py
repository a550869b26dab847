"""The documents of a rule file: one rule each, after `action: global`, `reset` and `repeat`.

Those three are not in Sigma's specification 2 any more; pySigma still reads them, and so do we.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import msgspec

from sensor.faults import Fault
from sensor.yamlfile import Document


class Entry(msgspec.Struct, frozen=True):
    """One rule's data, and the documents that it came from, its own first."""

    path: str
    name: str
    """The path below the rule directory."""
    number: int
    """0 for the first rule of a file."""
    data: dict[Any, Any]
    documents: tuple[Document, ...]

    def line(self, *at: Hashable) -> int:
        """The line of the value at `at`, or of what would hold it."""
        for document in self.documents:
            if _has(document.data, at):
                return document.line_of(at)
        return self.documents[0].line_of(at)

    def fault(self, what: str, *at: Hashable) -> Fault:
        return Fault(self.path, self.line(*at), what)


def entries_of(path: str, name: str, documents: Sequence[Document], faults: list[Fault]) -> Iterator[Entry]:
    shared: Document | None = None
    previous: Entry | None = None
    number = 0
    for document in documents:
        data = document.data
        if data is None:
            continue
        if not isinstance(data, dict):
            faults.append(Fault(path, document.line_of(()), "a rule is a map"))
            continue
        action = data.get("action")
        own = {key: value for key, value in data.items() if key != "action"}
        if action == "global":
            shared = document
            previous = Entry(path, name, number, own, (document,))
            continue
        if action == "reset":
            shared = None
            continue
        if action is None:
            from_shared = {k: v for k, v in shared.data.items() if k != "action"} if shared else {}
            entry = Entry(path, name, number, _merged(own, from_shared), (document, *([shared] if shared else ())))
        elif action == "repeat" and previous is not None:
            entry = Entry(path, name, number, _merged(previous.data, own), (document, *previous.documents))
        else:
            line = document.line_of(("action",))
            faults.append(Fault(path, line, f"unknown action {action!r}; known: global, reset, repeat (of a rule)"))
            continue
        previous = entry
        number += 1
        yield entry


def _merged(base: dict[Any, Any], over: dict[Any, Any]) -> dict[Any, Any]:
    """`base` with the values of `over`, maps merged key by key."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else copy.deepcopy(value)
        )
    return merged


def _has(data: Any, at: Sequence[Hashable]) -> bool:
    for step in at:
        if isinstance(data, dict):
            if step not in data:
                return False
            data = data[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return False
    return True
