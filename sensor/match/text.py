"""Text as Sigma compares it: case folding, text forms of values, wildcard patterns.

Folding maps each character to one character, whatever stands around it. `str.lower` alone does not: it lengthens
"İ" and chooses the form of a final sigma by its neighbours, so that a part of a text would not fold to a part of
the folded text; wildcards and the index both rely on that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sensor.match.ir import MANY

_SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
_SIGMAS = str.maketrans({"\N{GREEK CAPITAL LETTER SIGMA}": _SIGMA, "\N{GREEK SMALL LETTER FINAL SIGMA}": _SIGMA})


def fold(text: str) -> str:
    """`text` for caseless comparison; as long as `text`, and fold(a + b) == fold(a) + fold(b)."""
    if text.isascii():
        return text.lower()
    return "İ".join(part.lower() for part in text.translate(_SIGMAS).split("İ"))


def text_forms(value: Any) -> tuple[str, ...]:
    """How patterns see a field's value: its text, those of a list's elements, nothing where it is absent."""
    if type(value) is str:
        return (value,)
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(form for element in value for form in text_forms(element))
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, float):
        return (f"{value:.6f}".rstrip("0").rstrip("."),)
    return (str(value),)


class _Chunk:
    """What stands between two `*`: literals and `?`, so a fixed number of characters."""

    def __init__(self, parts: Sequence[str | int]) -> None:
        self.length = sum(len(part) if isinstance(part, str) else 1 for part in parts)
        pattern = "".join(re.escape(part) if isinstance(part, str) else "." for part in parts)
        self._regex = re.compile(pattern, re.DOTALL)

    def at(self, text: str, position: int) -> bool:
        return self._regex.match(text, position) is not None

    def find(self, text: str, start: int, end: int) -> int:
        found = self._regex.search(text, start, end)
        return found.start() if found else -1


class _Literal(_Chunk):
    def __init__(self, literal: str) -> None:
        self.length = len(literal)
        self._literal = literal

    def at(self, text: str, position: int) -> bool:
        return text.startswith(self._literal, position)

    def find(self, text: str, start: int, end: int) -> int:
        return text.find(self._literal, start, end)


def glob(parts: Sequence[str | int]) -> Callable[[str], bool]:
    """A test of whole texts against a wildcard pattern, in time linear in the text for each of its chunks.

    The leftmost fit of each chunk in turn is enough, since a chunk's length is fixed; a regular expression
    with several `.*` would try them all, which a hostile text can make slow.
    """
    chunks, open_start, open_end = _split(parts)
    if not chunks:
        return (lambda text: True) if open_start else (lambda text: not text)
    first = None if open_start else chunks.pop(0)
    if first is not None and not chunks and not open_end:
        only = first
        return lambda text: len(text) == only.length and only.at(text, 0)
    last = None if open_end else chunks.pop()

    def matches(text: str) -> bool:
        start, end = 0, len(text)
        if first is not None:
            if not first.at(text, 0):
                return False
            start = first.length
        if last is not None:
            end -= last.length
            if end < start or not last.at(text, end):
                return False
        for chunk in chunks:
            found = chunk.find(text, start, end)
            if found < 0:
                return False
            start = found + chunk.length
        return True

    return matches


def _split(parts: Sequence[str | int]) -> tuple[list[_Chunk], bool, bool]:
    """The pattern's chunks, and whether it is open (`*`) at its start and at its end."""
    chunks: list[_Chunk] = []
    run: list[str | int] = []
    for part in (*parts, MANY):
        if part != MANY:
            run.append(part)
        elif run:
            chunks.append(_Literal(run[0]) if len(run) == 1 and isinstance(run[0], str) else _Chunk(run))
            run = []
    is_open = bool(parts) and parts[0] == MANY, bool(parts) and parts[-1] == MANY
    return chunks, *is_open
