"""Who asked what at the control socket -> records. Equal questions that change nothing are counted together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sensor.record.audit.trail import Audit

TOGETHER_S = 60.0
LIMIT = 256
"""How many askers are remembered at most; the oldest is then told early."""


Peer = tuple[int, int, int]
"""Process, user and group id of who is at the other end: SO_PEERCRED, unix(7)."""


class Requests:
    """Writes one record for each request, and one a minute for those that only look."""

    def __init__(self, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._repeats: dict[tuple[str, str, int, int], tuple[float, Peer, int]] = {}

    def note(self, command: str, answer: str, peer: Peer | None, looks: bool, **said: Any) -> None:
        """`answer`: "done", "refused" or the like. `looks`: it changes nothing, so repeats are counted together.
        `said`: what else is known of it; of repeats nothing is.

        `peer` is None where the kernel no longer knows.
        """
        if peer is None or not looks:
            self._write(command, answer, peer, 1, said)
            return
        key = (command, answer, *peer[1:])
        known = self._repeats.get(key)
        if known is not None:
            self._repeats[key] = known[0], peer, known[2] + 1
            return
        if len(self._repeats) >= LIMIT:
            self._tell(next(iter(self._repeats)))
        self._write(command, answer, peer, 1, said)
        self._repeats[key] = self._clock() + TOGETHER_S, peer, 0

    def tick(self, at_once: bool = False) -> None:
        """Write what was counted for a minute; all of it with `at_once`."""
        now = self._clock()
        for key, (until, _, _) in list(self._repeats.items()):
            if at_once or until <= now:
                self._tell(key)

    def _tell(self, key: tuple[str, str, int, int]) -> None:
        _, peer, count = self._repeats.pop(key)
        if count:
            self._write(key[0], key[1], peer, count, {})

    def _write(self, command: str, answer: str, peer: Peer | None, count: int, said: dict[str, Any]) -> None:
        who = {} if peer is None else dict(zip(("pid", "uid", "gid"), peer, strict=True))
        times = {"count": count} if count > 1 else {}
        self._audit.append("request", command=command, answer=answer, **who, **said, **times)
