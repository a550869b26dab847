"""YAML with places: each value's line, and duplicate keys as faults (YAML 1.2 section 3.2.1.1)."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path as FilePath
from typing import Any

import yaml

from sensor.faults import Fault

Path = tuple[Hashable, ...]
"""Where a value stands in its document: keys and list indexes from the root."""

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document:
    """One YAML document: `data` as plain Python values, `line_of(path)` for messages."""

    def __init__(self, data: Any, lines: dict[Path, int]) -> None:
        self.data = data
        self._lines = lines

    def line_of(self, path: Path) -> int:
        """The line of the value at `path`, or of the nearest enclosing value that exists."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


def read(path: str | FilePath) -> tuple[list[Document], list[Fault]]:
    """Read every document of a YAML file. What is wrong comes back as faults, never as an exception."""
    try:
        text = FilePath(path).read_bytes().decode()
    except OSError as error:
        return [], [Fault(str(path), 0, f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        return [], [Fault(str(path), 0, f"is not UTF-8 (byte {error.start})")]
    return parse(text, str(path))


def parse(text: str, path: str) -> tuple[list[Document], list[Fault]]:
    """As `read`, from text; `path` is only used in faults."""
    documents: list[Document] = []
    faults: list[Fault] = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            documents.append(_build(loader, loader.get_node(), path, faults))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "malformed"
        faults.append(Fault(path, mark.line + 1 if mark else 0, f"not YAML: {what}"))
    except yaml.YAMLError as error:
        faults.append(Fault(path, 0, f"not YAML: {error}".replace("\n", " ")))
    except (ValueError, RecursionError) as error:
        faults.append(Fault(path, 0, f"not YAML that can be used: {error}"))
    return documents, faults


def _build(loader: Any, root: yaml.Node, path: str, faults: list[Fault]) -> Document:
    lines: dict[Path, int] = {}
    open_nodes: set[int] = set()

    def build(node: yaml.Node, at: Path) -> Any:
        lines[at] = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            return loader.construct_object(node)
        if id(node) in open_nodes:
            raise ValueError(f"line {lines[at]}: an alias contains itself")
        open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [build(child, (*at, index)) for index, child in enumerate(node.value)]
            return build_mapping(node, at)
        finally:
            open_nodes.discard(id(node))

    def build_mapping(node: yaml.Node, at: Path) -> dict[Any, Any]:
        find_duplicates(node)
        loader.flatten_mapping(node)  # puts merged (<<) keys first, so that a key of its own wins below
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                faults.append(Fault(path, key_node.start_mark.line + 1, "a key must be a plain value"))
                continue
            place = (*at, key)
            mapping[key] = build(value_node, place)
            lines[place] = key_node.start_mark.line + 1
        return mapping

    def find_duplicates(node: yaml.Node) -> None:
        seen: set[tuple[str, str]] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key = (key_node.tag, key_node.value)
                if key in seen:
                    line = key_node.start_mark.line + 1
                    faults.append(Fault(path, line, f"duplicate key {key_node.value!r}"))
                seen.add(key)

    return Document(build(root, ()), lines)
