"""`--since`: a point in time, as people give it."""

from __future__ import annotations

import re
import time

import click

from sensor.events import RecordError, parse_rfc3339

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def since_ns(text: str) -> int:
    """Nanoseconds since the epoch, for an age (30d), a day (UTC) or an RFC 3339 time. Raises click.BadParameter."""
    if ago := _AGO.fullmatch(text):
        return max(0, time.time_ns() - int(ago[1]) * _UNIT_S[ago[2]] * 10**9)
    try:
        return parse_rfc3339(f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text)
    except RecordError:
        raise click.BadParameter(
            f"{text!r} is neither a time (2026-03-01T12:00:00Z), a day (2026-03-01) nor an age (90s, 5m, 2h, 7d)"
        ) from None
