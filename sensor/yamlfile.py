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

_MOST_VALUES = 100_000
"""In one document. What a file stands for can be exponentially more than what it holds ("billion laughs")."""
_DEEPEST = 100


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
        content = FilePath(path).read_bytes()
    except OSError as error:
        return [], [Fault(str(path), 0, f"cannot be read: {error.strerror}")]
    return parse_bytes(content, str(path))


def parse_bytes(content: bytes, path: str) -> tuple[list[Document], list[Fault]]:
    """As `read`, from what the file holds."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return [], [Fault(path, 0, f"is not UTF-8 (byte {error.start})")]
    return parse(text, path)


def parse(text: str, path: str) -> tuple[list[Document], list[Fault]]:
    """As `read`, from text; `path` is only used in faults."""
    documents: list[Document] = []
    faults: list[Fault] = []
    try:
        _measure(text)
        loader = _Loader(text)
        while loader.check_node():
            documents.append(_Builder(loader, path, faults).document(loader.get_node()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "malformed"
        if mark and text[mark.index : mark.index + 1] == "\t":
            what = "a tab cannot indent; use blanks"
        faults.append(Fault(path, mark.line + 1 if mark else 0, f"not YAML: {what}"))
    except yaml.YAMLError as error:
        faults.append(Fault(path, 0, f"not YAML: {error}".replace("\n", " ")))
    except _TooMuchError as error:
        faults.append(Fault(path, error.line, f"not YAML that can be used: {error}"))
    return documents, faults


class _TooMuchError(Exception):
    def __init__(self, event: yaml.Event, what: str) -> None:
        super().__init__(what)
        self.line = event.start_mark.line + 1 if event.start_mark else 0


class _Open:
    """A collection whose end has not come yet: what it holds so far, aliases expanded."""

    def __init__(self, anchor: str | None) -> None:
        self.anchor = anchor
        self.values = 1
        self.depth = 1

    def add(self, values: int, depth: int) -> None:
        self.values += values
        self.depth = max(self.depth, depth + 1)


def _measure(text: str) -> None:
    """Raises _TooMuchError where a document is too large, with its aliases expanded, or too deep to be built.

    Works on events, which libyaml makes without recursion; its composer of nodes overflows the stack. Stops at what
    is not YAML: reading gets no further either.
    """
    anchors: dict[str | None, tuple[int, int] | None] = {}
    stack = [_Open(None)]
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.DocumentStartEvent):
                anchors, stack = {}, [_Open(None)]
            elif isinstance(event, yaml.CollectionStartEvent):
                stack.append(_Open(event.anchor))
                anchors[event.anchor] = None
                _check(event, stack, 0)
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = stack.pop()
                anchors[closed.anchor] = closed.values, closed.depth
                stack[-1].add(closed.values, closed.depth)
                _check(event, stack, 0)
            elif isinstance(event, yaml.NodeEvent):
                alias = isinstance(event, yaml.AliasEvent)
                size = anchors.get(event.anchor, (1, 0)) if alias else (1, 0)
                if size is None:
                    raise _TooMuchError(event, "an alias contains itself")
                stack[-1].add(*size)
                _check(event, stack, size[1])
    except yaml.YAMLError:
        return


def _check(event: yaml.Event, stack: list[_Open], depth: int) -> None:
    if len(stack) - 1 + depth > _DEEPEST:
        raise _TooMuchError(event, f"nested more than {_DEEPEST} deep, aliases expanded")
    if stack[-1].values > _MOST_VALUES:
        raise _TooMuchError(event, f"more than {_MOST_VALUES:,} values, aliases expanded")


class _Builder:
    """Makes plain Python values of one document's nodes, and keeps their lines."""

    def __init__(self, loader: Any, path: str, faults: list[Fault]) -> None:
        self._loader = loader
        self._path = path
        self._faults = faults
        self._lines: dict[Path, int] = {}

    def document(self, root: yaml.Node) -> Document:
        self._find_duplicates(root)
        return Document(self._value(root, ()), self._lines)

    def _fault(self, node: yaml.Node, what: str) -> None:
        self._faults.append(Fault(self._path, node.start_mark.line + 1, what))

    def _value(self, node: yaml.Node, at: Path) -> Any:
        self._lines[at] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self._value(child, (*at, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        return self._plain(node)

    def _mapping(self, node: yaml.Node, at: Path) -> dict[Any, Any]:
        self._loader.flatten_mapping(node)  # puts merged (<<) keys first, so that a key of its own wins below
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self._plain(key_node) if isinstance(key_node, yaml.ScalarNode) else []
            if not isinstance(key, Hashable):
                self._fault(key_node, "a key must be a plain value")
                continue
            place = (*at, key)
            mapping[key] = self._value(value_node, place)
            self._lines[place] = key_node.start_mark.line + 1
        return mapping

    def _plain(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node)
        except (ValueError, ArithmeticError, LookupError, AttributeError):  # 2026-13-01, `!!bool x`, `!!timestamp x`
            self._fault(node, f"{node.value[:80]!r} is no {node.tag.rpartition(':')[2]}")
            return None

    def _find_duplicates(self, root: yaml.Node) -> None:
        """Before keys are merged, which puts one key of several maps into the same one."""
        waiting, met = [root], {id(root)}
        while waiting:
            node = waiting.pop()
            mapping = isinstance(node, yaml.MappingNode)
            if mapping:
                self._find_duplicates_in(node)
            children = [child for pair in node.value for child in pair] if mapping else node.value
            new = [child for child in children if isinstance(child, yaml.CollectionNode) and id(child) not in met]
            waiting += new
            met.update(map(id, new))

    def _find_duplicates_in(self, node: yaml.Node) -> None:
        seen: set[tuple[str, str]] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key = (key_node.tag, key_node.value)
                if key in seen:
                    self._fault(key_node, f"duplicate key {key_node.value!r}")
                seen.add(key)
