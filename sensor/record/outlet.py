"""Where an alert goes once it is in its final form: to the file, and to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sensor.record.sink import Sink

Listener = Callable[[dict[str, Any]], object]


class Outlet:
    """Takes the place of the alerts' sink; a full disk silences no listener."""

    def __init__(self, sink: Sink, listeners: Sequence[Listener]) -> None:
        self._sink = sink
        self._listeners = tuple(listeners)

    def write(self, alert: dict[str, Any], counts: bool = True) -> bool:
        """As `Sink.write`. What the sink will be given again is heard once, when it has been written."""
        written = self._sink.write(alert, counts)
        if written or counts:
            for listen in self._listeners:
                listen(alert)
        return written
