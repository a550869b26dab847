"""Rules that the kernel can decide alone, before a program's first instruction: those on its name or path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sensor.match import ir
from sensor.match.limits import COMPONENTS, NAME_BYTES, Programs


def denied_programs(rules: Iterable[ir.Rule]) -> Programs:
    """The programs that a rule with the action `deny` or `kill` forbids whoever runs them, and with whatever arguments.

    Of a rule that names other things too, in an `or`, these are left to the matcher; one verdict comes of either.
    """
    names: list[str] = []
    paths: list[str] = []
    below: list[str] = []
    for rule in rules:
        if rule.category != "process_creation" or rule.info.action not in ("deny", "kill") or rule.silent:
            continue
        for parts in _images(rule.condition):
            match parts:
                case (ir.MANY, str(end)) if end[0] == "/" and "/" not in end[1:] and _fits(end):
                    names.append(end[1:])
                case (str(whole),) if whole[0] == "/" and _fits(whole):
                    paths.append(whole)
                case (str(start), ir.MANY) if start[0] == "/" and start[-1] == "/" and len(start) > 1 and _fits(start):
                    below.append(start[:-1])
    return Programs(names=tuple(names), paths=tuple(paths), below=tuple(below))


def _images(node: ir.Node) -> Iterator[tuple[str | int, ...]]:
    """The patterns for the image any of which makes the condition true."""
    if isinstance(node, ir.AnyOf):
        for child in node.nodes:
            yield from _images(child)
    elif isinstance(node, ir.All) and len(node.nodes) == 1:
        yield from _images(node.nodes[0])
    elif isinstance(node, ir.Text) and node.attribute == "image" and not node.cased:
        yield node.parts


def _fits(text: str) -> bool:
    """The kernel side compares ASCII without regard to case; Unicode's cases are the matcher's."""
    parts = text.split("/")
    return text.isascii() and len(parts) <= COMPONENTS and all(len(part) <= NAME_BYTES for part in parts)
