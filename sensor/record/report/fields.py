"""Fields of records, which may hold anything: whoever wrote a trail anew chose their types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TEXT = 1000
"""How much of a text is kept, characters."""


def text(record: Mapping[str, Any], name: str) -> str | None:
    """None where it is absent, empty or no text."""
    value = record.get(name)
    return value[:TEXT] if isinstance(value, str) and value else None


def milliseconds(record: Mapping[str, Any], name: str) -> float | None:
    """None where it is absent or no duration."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e15 and math.isfinite(value) else None


def count(record: Mapping[str, Any], name: str) -> int | None:
    """None where it is absent or counts nothing."""
    value = record.get(name)
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Empty where it is absent or none."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}
