"""JSON messages one after the other in a stream, however they are spaced and wherever it is cut."""

from __future__ import annotations

import json
import re
from typing import Any

_DECODER = json.JSONDecoder(parse_int=float)
"""float, because int() of thousands of digits raises."""
_BETWEEN = " \t\r\n\x00\x1e\ufeff"
"""Also what ends or starts a message elsewhere: NUL, RS (RFC 7464), a byte order mark."""
_CUT = "\ufffd"
"""What decoding makes of the beginning of a character, such as a byte order mark."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:"]', re.DOTALL)
_MAY_END = re.compile(r"[]}\n]")
_PARTIAL = 4
"""Characters at the end that the next bytes may change: the beginning of one in UTF-8."""
MAX_MESSAGES = 8


class Messages:
    """The JSON objects of one direction, as they become whole."""

    __slots__ = ("_at", "_left", "_tried", "over")

    def __init__(self, limit: int = MAX_MESSAGES) -> None:
        self._at = 0
        self._tried = 0
        """Characters that end within a message; only what may end it makes it worth another try."""
        self._left = limit
        self.over = False
        """Nothing more is read: no JSON, or as many as the limit."""

    def read(self, data: bytes, last: bool) -> list[dict[str, Any]]:
        """The messages that `data`, which begins as at the last call, completes; those of a batch one by one.

        With `last`, also what there is of one that was cut off.
        """
        found: list[dict[str, Any]] = []
        whole = data.decode("utf-8", "replace")
        while not self.over:
            at = self._at
            while at < len(whole) and whole[at] in _BETWEEN:
                at += 1
            self._at = at
            if at == len(whole):
                break
            if whole[at] not in "{[":
                self.over = last or whole[at:] != _CUT
                break
            if not (last or _MAY_END.search(whole, max(at, self._tried))) or not self._one(whole, last, found):
                self._tried = len(whole) - _PARTIAL
                break
        return found

    def _one(self, whole: str, last: bool, found: list[dict[str, Any]]) -> bool:
        """Reads the message at the current place; False where more must come."""
        try:
            value, self._at = _DECODER.raw_decode(whole, self._at)
        except json.JSONDecodeError as error:
            after = whole.find("\n", error.pos) + 1
            if not after:
                if last:
                    self.over = True
                    found += _objects(_cut_off(whole[self._at :]))
                return False
            self._at = after
            value = None
        except RecursionError:
            self.over = True
            return False
        found += _objects(value)
        self._left -= 1
        self.over = not self._left
        return True


def _objects(value: Any) -> list[dict[str, Any]]:
    batch = value[:MAX_MESSAGES] if isinstance(value, list) else [value]
    return [message for message in batch if isinstance(message, dict)]


def _cut_off(start: str) -> Any:
    """The value of a text that is only the beginning of one, as far as its members are whole."""
    closing: list[str] = []
    cut = 0
    before = ""
    for token in _TOKEN.finditer(start):
        mark = token.group()
        if mark in "{[":
            closing.append("}" if mark == "{" else "]")
            cut = token.end()
        elif mark in "}]":
            if not closing or closing.pop() != mark:
                return None
            cut = token.end()
        elif mark == ",":
            cut = token.start()
        elif mark == '"':
            break
        elif mark != ":" and (before == ":" or closing[-1:] == ["]"]):
            cut = token.end()
        before = mark
    try:
        return _DECODER.decode(start[:cut] + "".join(reversed(closing)))
    except (json.JSONDecodeError, RecursionError):
        return None
