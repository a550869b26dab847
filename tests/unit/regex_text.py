"""Texts that a regular expression matches, chosen at random, from what Python's own parser makes of it."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

try:
    from re import _constants as codes
    from re import _parser as parser
except ImportError:  # Python 3.10
    import sre_constants as codes
    import sre_parse as parser

_MOST_REPEATS = 3
_ANY = "".join(sorted({*string.ascii_letters, *string.digits, *string.punctuation, " ", "é", "\U0001f600"}))
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    codes.CATEGORY_DIGIT: lambda c: re.match(r"\d", c, re.ASCII) is not None,
    codes.CATEGORY_NOT_DIGIT: lambda c: re.match(r"\D", c, re.ASCII) is not None,
    codes.CATEGORY_SPACE: lambda c: re.match(r"\s", c, re.ASCII) is not None,
    codes.CATEGORY_NOT_SPACE: lambda c: re.match(r"\S", c, re.ASCII) is not None,
    codes.CATEGORY_WORD: lambda c: re.match(r"\w", c, re.ASCII) is not None,
    codes.CATEGORY_NOT_WORD: lambda c: re.match(r"\W", c, re.ASCII) is not None,
}


@lru_cache(maxsize=1024)
def _parsed(pattern: str) -> Any:
    return parser.parse(pattern)


def text_for(pattern: str, random: Random) -> str:
    """A text that `pattern` most probably matches; anchors are taken to hold, lookarounds are passed over."""
    return _sequence(_parsed(pattern), random)


def _sequence(items: Any, random: Random) -> str:
    return "".join(_item(code, value, random) for code, value in items)


def _item(code: Any, value: Any, random: Random) -> str:
    if code is codes.LITERAL:
        return chr(value)
    if code is codes.NOT_LITERAL:
        return random.choice(_ANY.replace(chr(value), ""))
    if code is codes.ANY:
        return random.choice(_ANY)
    if code is codes.IN:
        return random.choice(_members(tuple(value)))
    if code is codes.BRANCH:
        return _sequence(random.choice(value[1]), random)
    if code is codes.SUBPATTERN:
        return _sequence(value[-1], random)
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
        least, most, inner = value
        times = random.randint(least, min(most, least + _MOST_REPEATS))
        return "".join(_sequence(inner, random) for _ in range(times))
    assert code in (codes.AT, codes.ASSERT, codes.ASSERT_NOT), code
    return ""


@lru_cache(maxsize=1024)
def _members(items: tuple[tuple[Any, Any], ...]) -> str:
    negated = items[0][0] is codes.NEGATE
    named = "".join(chr(item) for code, item in items if code is codes.LITERAL)
    candidates = dict.fromkeys(_ANY + "\t\n" + named)
    for code, item in items:
        if code is codes.RANGE:
            candidates |= dict.fromkeys(map(chr, range(item[0], min(item[1], item[0] + 255) + 1)))
    inside = [c for c in candidates if any(_contains(code, item, c) for code, item in items) != negated]
    return "".join(inside)


def _contains(code: Any, item: Any, character: str) -> bool:
    if code is codes.LITERAL:
        return ord(character) == item
    if code is codes.RANGE:
        return bool(item[0] <= ord(character) <= item[1])
    return code is codes.CATEGORY and _CATEGORIES[item](character)
