"""Lists of values for Sigma's placeholders: `data/NAME.yml` below a rule directory holds the values of `%NAME%`.

A list is added to, not replaced: one name in several rule directories stands for the values of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated

import msgspec

from sensor import yamlfile
from sensor.faults import Fault
from sensor.structure import convert

Lists = Mapping[str, tuple[str, ...]]
"""The values of each placeholder, written as values in a rule are: with wildcards and escapes."""


def _filled(values: list[str]) -> None:
    if not values:
        raise ValueError("must not be empty")


def _text(value: str) -> None:
    if not value.strip("* \t\n"):
        raise ValueError(f"{value!r} would be found in anything")


class _Group(msgspec.Struct, frozen=True):
    """Values that come from the same place."""

    sources: Annotated[list[Annotated[str, _text]], _filled]
    values: Annotated[list[Annotated[str, _text]], _filled]


class _Data(msgspec.Struct, frozen=True):
    description: Annotated[str, _text]
    groups: Annotated[list[_Group], _filled]


def read(files: Iterable[tuple[str, str, bytes]], faults: list[Fault]) -> dict[str, tuple[str, ...]]:
    """The lists in these files (path, path below the rule directory, content); faults of all are added to `faults`."""
    lists: dict[str, dict[str, None]] = {}
    for path, name, content in files:
        values = _values(path, content, faults)
        lists.setdefault(PurePosixPath(name).stem, {}).update(dict.fromkeys(values))
    return {name: tuple(values) for name, values in lists.items()}


def _values(path: str, content: bytes, faults: list[Fault]) -> list[str]:
    documents, found = yamlfile.parse_bytes(content, path)
    faults += found
    if found:
        return []
    if len(documents) != 1:
        faults.append(Fault(path, 0, "must be one map of `description` and `groups`"))
        return []
    document = documents[0]
    data = convert(document, _Data, path, faults)
    values: dict[str, int] = {}
    for position, group in enumerate(data.groups if data else ()):
        for number, value in enumerate(group.values):
            line = document.line_of(("groups", position, "values", number))
            before = values.setdefault(value.lower(), line)
            if before != line:
                faults.append(Fault(path, line, f"{value!r} is also on line {before}"))
    return list(values)
