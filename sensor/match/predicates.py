"""From a rule's condition to a function of one event."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_network
from operator import ge, gt, le, lt
from typing import Any

from sensor.events import AnyEvent
from sensor.match import ir
from sensor.match.regex import compile_regex
from sensor.match.text import fold, glob, text_forms


class View:
    """One event as predicates see it; each attribute is folded at most once."""

    __slots__ = ("_folded", "event")

    def __init__(self, event: AnyEvent) -> None:
        self.event = event
        self._folded: dict[str, tuple[str, ...]] = {}

    def texts(self, attribute: str) -> tuple[str, ...]:
        return text_forms(getattr(self.event, attribute))

    def folded(self, attribute: str) -> tuple[str, ...]:
        forms = self._folded.get(attribute)
        if forms is None:
            forms = self._folded[attribute] = tuple(map(fold, self.texts(attribute)))
        return forms


Predicate = Callable[[View], bool]


def compile_node(node: ir.Node) -> Predicate:
    """The function that decides `node`; raises RegexError for an expression that no engine understands."""
    if isinstance(node, ir.All):
        return _all(tuple(map(compile_node, node.nodes)))
    if isinstance(node, ir.AnyOf):
        return _any(node.nodes)
    if isinstance(node, ir.Not):
        inner = compile_node(node.node)
        return lambda view: not inner(view)
    if isinstance(node, (ir.Constant, ir.Missing)):
        value = node.value
        return lambda view: value
    if isinstance(node, ir.Text):
        return _texts(node.attribute, node.cased, [node])
    return _other(node)


def _other(node: ir.Regex | ir.Cidr | ir.Compare | ir.Exists | ir.FieldRef) -> Predicate:
    attribute = node.attribute
    if isinstance(node, ir.Exists):
        exists = node.exists
        return lambda view: (getattr(view.event, attribute) is not None) is exists
    if isinstance(node, ir.FieldRef):
        return _field_reference(node)
    if isinstance(node, ir.Regex):
        test = compile_regex(node.pattern, node.flags, from_start=node.from_start, to_end=node.to_end)
    elif isinstance(node, ir.Cidr):
        test = _in_network(node.network)
    else:
        test = _compares(node.comparison, node.number)
    return lambda view: any(map(test, view.texts(attribute)))


def _all(predicates: tuple[Predicate, ...]) -> Predicate:
    def every(view: View) -> bool:
        for predicate in predicates:  # noqa: SIM110 (a generator costs more than the predicates)
            if not predicate(view):
                return False
        return True

    return every


def _any(nodes: Iterable[ir.Node]) -> Predicate:
    texts: dict[tuple[str, bool], list[ir.Text]] = {}
    predicates: list[Predicate] = []
    for node in nodes:
        if isinstance(node, ir.Text):
            texts.setdefault((node.attribute, node.cased), []).append(node)
        else:
            predicates.append(compile_node(node))
    predicates[:0] = [_texts(attribute, cased, group) for (attribute, cased), group in texts.items()]
    if len(predicates) == 1:
        return predicates[0]
    alternatives = tuple(predicates)

    def some(view: View) -> bool:
        for predicate in alternatives:  # noqa: SIM110 (as above)
            if predicate(view):
                return True
        return False

    return some


def _texts(attribute: str, cased: bool, nodes: list[ir.Text]) -> Predicate:
    """Any of several patterns on one attribute."""
    test = _pattern_set([node.parts for node in nodes], cased)
    if cased:
        return lambda view: any(map(test, view.texts(attribute)))
    return lambda view: any(map(test, view.folded(attribute)))


def _pattern_set(patterns: list[tuple[str | int, ...]], cased: bool) -> Callable[[str], bool]:
    exact: set[str] = set()
    starts: list[str] = []
    ends: list[str] = []
    within: list[str] = []
    globs: list[tuple[str, Callable[[str], bool]]] = []
    for pattern in patterns:
        parts = pattern if cased else tuple([fold(p) if isinstance(p, str) else p for p in pattern])
        match parts:
            case (str(literal),):
                exact.add(literal)
            case (str(literal), ir.MANY):
                starts.append(literal)
            case (ir.MANY, str(literal)):
                ends.append(literal)
            case (ir.MANY, str(literal), ir.MANY):
                within.append(literal)
            case _:
                globs.append((parts[0] if parts and isinstance(parts[0], str) else "", glob(parts)))
    prefixes, suffixes = tuple(starts), tuple(ends)
    heads = tuple(head for head, _ in globs)

    def test(text: str) -> bool:
        if text in exact or text.startswith(prefixes) or text.endswith(suffixes):
            return True
        for literal in within:
            if literal in text:
                return True
        return text.startswith(heads) and any(matches(text) for _, matches in globs)

    return test


def _field_reference(node: ir.FieldRef) -> Predicate:
    attribute, other = node.attribute, node.other
    compare: Callable[[str, str], bool]
    if node.starts_with and node.ends_with:
        compare = str.__contains__
    elif node.starts_with:
        compare = str.startswith
    elif node.ends_with:
        compare = str.endswith
    else:
        compare = str.__eq__
    return lambda view: any(
        compare(text, reference) for text in view.folded(attribute) for reference in view.folded(other)
    )


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {"lt": lt, "lte": le, "gt": gt, "gte": ge}


def _compares(comparison: ir.Comparison, number: float) -> Callable[[str], bool]:
    compare = _COMPARISONS[comparison]

    def test(text: str) -> bool:
        value = number_in(text)
        return value is not None and compare(value, number)

    return test


def number_in(text: str) -> int | float | None:
    """A decimal number; None for anything else, "nan" and "1_000" included."""
    digits = text.removeprefix("-")
    if not digits.isascii() or len(digits) > 32 or not digits.replace(".", "", 1).isdigit():
        return None
    return float(text) if "." in text else int(text)


@lru_cache(maxsize=4096)
def _address(text: str) -> tuple[int, int] | None:
    """IP version and number; an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is the IPv4 one."""
    try:
        if ":" not in text:
            return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]), "big")
    except (OSError, ValueError):  # ValueError: a NUL or a character outside of ASCII
        return None
    return (4, number & 0xFFFF_FFFF) if number >> 32 == 0xFFFF else (6, number)


def _in_network(cidr: str) -> Callable[[str], bool]:
    network = ip_network(cidr)
    shift = network.max_prefixlen - network.prefixlen
    wanted = network.version, int(network.network_address) >> shift

    def test(text: str) -> bool:
        address = _address(text)
        return address is not None and (address[0], address[1] >> shift) == wanted

    return test
