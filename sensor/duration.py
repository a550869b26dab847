"""Lengths of time as people write them: 90s, 15m, 1h, 2d."""

from __future__ import annotations

import re

_FORM = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_S = 30 * 86_400


def seconds(text: str) -> int:
    """Seconds, from one to thirty days' worth. Raises ValueError with what is wrong."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no length of time; write a number and s, m, h or d, as in 15m")
    length = int(match[1]) * _SECONDS[match[2]]
    if length > LONGEST_S:
        raise ValueError(f"{text!r} is longer than 30 days")
    return length


def in_words(length_s: float) -> str:
    """Its two largest units: "14 min 30 s"."""
    left = max(0, int(length_s))
    parts = [(left // 86_400, "d"), (left // 3600 % 24, "h"), (left // 60 % 60, "min"), (left % 60, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count or first == 3)
