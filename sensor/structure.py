"""Plain data from a YAML file -> typed structs, with every fault of the file, not only the first."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from sensor.faults import Fault
from sensor.yamlfile import Document, Path

T = TypeVar("T", bound=msgspec.Struct)

_BAD: Any = object()
_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    type(None): "empty",
}


def convert(document: Document, wanted: type[T], path: str, faults: list[Fault]) -> T | None:
    """The document as a `wanted`, or None with what is wrong added to `faults`.

    Types may be str, int, bool, Literal, list, a struct, any of these `| None`, and Annotated with functions
    that take the converted value and raise ValueError where it won't do.
    """
    value = _Walk(document, path, faults).convert(document.data, wanted, ())
    return None if value is _BAD else value


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" where one of `known` looks like `name`, else the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"


class _Walk:
    def __init__(self, document: Document, path: str, faults: list[Fault]) -> None:
        self.document = document
        self.path = path
        self.faults = faults

    def fault(self, at: Path, what: str) -> Any:
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in at).removeprefix(".")
        self.faults.append(Fault(self.path, self.document.line_of(at), f"{where}: {what}" if where else what))
        return _BAD

    def convert(self, value: Any, wanted: Any, at: Path) -> Any:
        origin = get_origin(wanted)
        if origin is Annotated:
            return self.checked(value, wanted, at)
        if origin in (types.UnionType, Union):
            (other,) = (option for option in get_args(wanted) if option is not type(None))
            return None if value is None else self.convert(value, other, at)
        if origin is Literal:
            return self.choice(value, get_args(wanted), at)
        kind = dict if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct) else origin or wanted
        if type(value) is not kind:
            return self.fault(at, _mismatch(kind, value))
        if kind is list:
            items = [self.convert(item, get_args(wanted)[0], (*at, i)) for i, item in enumerate(value)]
            return _BAD if any(item is _BAD for item in items) else items
        return self.struct(value, wanted, at) if kind is dict else value

    def checked(self, value: Any, wanted: Any, at: Path) -> Any:
        base, *checks = get_args(wanted)
        converted = self.convert(value, base, at)
        if converted is not _BAD:
            for check in checks:
                try:
                    check(converted)
                except ValueError as error:
                    return self.fault(at, str(error))
        return converted

    def choice(self, value: Any, choices: tuple[str, ...], at: Path) -> Any:
        if value in choices:
            return value
        if isinstance(value, str):
            return self.fault(at, f"{value!r} is not one of {', '.join(choices)}")
        return self.fault(at, f"must be one of {', '.join(choices)}, not {_kind(value)}")

    def struct(self, value: dict[Any, Any], wanted: type[msgspec.Struct], at: Path) -> Any:
        fields = {field.name: field for field in msgspec.structs.fields(wanted)}
        before = len(self.faults)
        for key in value:
            if key not in fields:
                self.fault((*at, key), f"unknown key{near(str(key), fields)}")
        converted: dict[str, Any] = {}
        for name, field in fields.items():
            if name in value:
                converted[name] = self.convert(value[name], field.type, (*at, name))
            elif field.required:
                self.fault(at, f"{name} is missing")
        return wanted(**converted) if len(self.faults) == before else _BAD


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _mismatch(kind: type, value: Any) -> str:
    hint = "; put it in quotes" if kind is str and not isinstance(value, list | dict | None) else ""
    return f"must be {_KINDS[kind]}, not {_kind(value)}{hint}"
