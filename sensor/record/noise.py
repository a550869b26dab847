"""Equal alerts within a window become one with a count; what was done about each is untouched by that.

Alerts are equal if rule, workload (agent, or else cgroup), process image, destination and response are. The first
is written at once. Those after it within the window are counted, and when the window is over one more alert stands
for them. Time is that of the events (`sensor.events.kernel_time`), so a replay merges as the live run did.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from sensor.events import AnyEvent, kernel_time, rfc3339
from sensor.record.alerts import to_alert
from sensor.verdict import Outcome, Verdict

WINDOWS = 1024
"""How many windows are open at most. The oldest then ends early, and its summary is written."""
GRACE = 1_000_000_000
"""How long past its end a window waits for events that are late, nanoseconds."""
_DESTINATION = (
    "protocol",
    "destination_ip",
    "destination_port",
    "destination_hostname",
    "query_name",
    "device_major",
    "device_minor",
    "denied",
)
"""What, of what its class has, an event reached for."""


class Noise:
    """Writes alerts, equal ones merged."""

    def __init__(self, write: Callable[[dict[str, Any]], object], window_s: float) -> None:
        """`write` takes a finished alert; `window_s` of 0 merges nothing."""
        self.merged = 0
        """Alerts that were counted in another one instead of being written."""
        self._write = write
        self.use(window_s)
        self._windows: OrderedDict[bytes, _Window] = OrderedDict()

    def use(self, window_s: float) -> None:
        """Windows that open from now on are so long; 0: none does."""
        self._length = int(window_s * 1_000_000_000)

    def tell(self, verdict: Verdict, outcome: Outcome) -> bool:
        """Write this alert, or count it: False."""
        if not self._length:
            self._write(to_alert(verdict, outcome))
            return True
        key = _key(verdict, outcome)
        window = self._windows.get(key)
        if window is not None and kernel_time(verdict.event) < window.end:
            window.add(verdict, outcome)
            self.merged += 1
            return False
        if window is not None:
            self._end(key)
        elif len(self._windows) >= WINDOWS:
            self._end(next(iter(self._windows)))
        self._write(to_alert(verdict, outcome))
        self._windows[key] = _Window(kernel_time(verdict.event) + self._length)
        return True

    def advance(self, now: int) -> None:
        """Write the summaries of the windows that are over `now`, a kernel time."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.end + GRACE > now:
                return
            self._end(key)

    def close(self) -> None:
        """Write the summaries of all windows."""
        for key in list(self._windows):
            self._end(key)

    def _end(self, key: bytes) -> None:
        summary = self._windows.pop(key).summary()
        if summary is not None:
            self._write(summary)


class _Window:
    """What came after an alert that was written."""

    def __init__(self, end: int) -> None:
        self.end = end
        self._count = 0
        self._first = 0
        self._last: tuple[Verdict, Outcome] | None = None

    def add(self, verdict: Verdict, outcome: Outcome) -> None:
        self._first = min(self._first, verdict.event.time) if self._count else verdict.event.time
        self._count += 1
        if self._last is None or self._last[0].event.time <= verdict.event.time:
            self._last = verdict, outcome

    def summary(self) -> dict[str, Any] | None:
        """The last of them, with how many there were and since when; None where there were none."""
        if self._last is None:
            return None
        alert = to_alert(*self._last)
        event = alert["event"]
        times = "once more" if self._count == 1 else f"{self._count} times more"
        event["id"] = _digest(f"{event['id']} {self._count}").hex()
        event["reason"] = f"{times}: {event['reason']}"
        event["count"] = self._count
        event["start"] = rfc3339(self._first)
        event["end"] = alert["@timestamp"]
        return alert


def _key(verdict: Verdict, outcome: Outcome) -> bytes:
    rule, event = verdict.rule, verdict.event
    parts = [rule.id, rule.level, event.CATEGORY, _workload(event), event.image, outcome.action, outcome.outcome]
    return _digest(repr([*parts, *(getattr(event, name, None) for name in _DESTINATION)]))


def _workload(event: AnyEvent) -> tuple[str, str | int | None]:
    if event.agent is not None:
        return "agent", event.agent
    return "cgroup", event.cgroup_id if event.cgroup_path is None else event.cgroup_path


def _digest(text: str) -> bytes:
    return blake2b(text.encode(errors="backslashreplace"), digest_size=16).digest()
