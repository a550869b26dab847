"""The last events of each cgroup, for whoever has to judge a workload that was stopped."""

from __future__ import annotations

from collections import OrderedDict, deque

from sensor.events import AnyEvent

EVENTS = 12
CGROUPS = 256


class Recent:
    """The last `EVENTS` of each of the `CGROUPS` cgroups that were heard of last."""

    def __init__(self) -> None:
        self._rings: OrderedDict[int | None, deque[AnyEvent]] = OrderedDict()

    def note(self, event: AnyEvent) -> tuple[()]:
        """To be called with every event."""
        ring = self._rings.get(event.cgroup_id)
        if ring is None:
            ring = self._rings[event.cgroup_id] = deque(maxlen=EVENTS)
            if len(self._rings) > CGROUPS:
                self._rings.popitem(last=False)
        else:
            self._rings.move_to_end(event.cgroup_id)
        ring.append(event)
        return ()

    def below(self, path: str) -> list[AnyEvent]:
        """The last `EVENTS` of the cgroup at `path` and of those below it, the latest last."""
        below = path.rstrip("/") + "/"
        found = [
            event
            for ring in self._rings.values()
            for event in ring
            if (where := event.cgroup_path) is not None and (where == path or where.startswith(below))
        ]
        return sorted(found, key=lambda event: event.time)[-EVENTS:]
