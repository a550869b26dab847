"""When there was a sensor: a time in which nobody looked is no time in which nothing happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from sensor.events import parse_rfc3339
from sensor.record.report.fields import text
from sensor.record.report.model import Gap, Watch

GAPS = 100


class Watching:
    """Reads every record of the trail in order, also those before the period."""

    def __init__(self, since: str, until: str) -> None:
        self._since = since
        self._until = until
        self._off: tuple[str, str] | None = (since, "unrecorded")
        """Since when there is none, and why."""
        self._last = since
        self._mode: str | None = None
        self._host: str | None = None
        self._gaps: deque[Gap] = deque(maxlen=GAPS)
        self._count = 0
        self._unwatched_s = 0.0

    def take(self, record: Mapping[str, Any]) -> None:
        """Its time is known to be one."""
        kind, time = record["kind"], record["time"]
        if kind == "start":
            self._on(time, self._off or (self._last, "ended"))
            self._mode = text(record, "mode")
            self._host = text(record, "host")
        elif kind == "stop":
            self._off = time, "stopped"
        elif kind == "reload" and text(record, "outcome") == "done":
            self._mode = text(record, "mode") or self._mode
        elif self._off is not None and self._off[1] == "unrecorded":
            self._on(time, self._off)
        self._last = time

    def finish(self) -> Watch:
        if self._off is not None:
            self._on(self._until, self._off)
        return Watch(
            gaps=list(self._gaps),
            gaps_in_all=self._count,
            unwatched_s=round(self._unwatched_s, 3),
            mode=self._mode,
            host=self._host,
        )

    def _on(self, time: str, off: tuple[str, str]) -> None:
        self._off = None
        start, end = max(off[0], self._since), min(time, self._until)
        if start >= end:
            return
        self._count += 1
        self._unwatched_s += (parse_rfc3339(end) - parse_rfc3339(start)) / 1e9
        self._gaps.append(Gap(start, end, off[1]))
