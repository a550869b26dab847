"""One way through: record -> decode -> context -> match -> respond -> record. No I/O of its own, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from sensor.context.enrich import Context
from sensor.context.held import held_ends
from sensor.decode import DecodeError, decode
from sensor.events import AnyEvent, ProcessCreation, kernel_time, to_record
from sensor.match.matcher import Matcher
from sensor.record.audit.incidents import Incidents
from sensor.record.noise import Noise
from sensor.record.outlet import Outlet
from sensor.record.sink import Sink
from sensor.respond.approvals import Approvals
from sensor.respond.executor import Executor, Pending
from sensor.verdict import Outcome, Verdict

log = structlog.get_logger()

Watcher = Callable[[AnyEvent], Sequence[Verdict]]
"""What judges events beside the rules: it remembers, and so has to see every one."""


class Pipeline:
    """Judges what it is fed and writes what comes of it. Nothing that an event holds makes it raise."""

    def __init__(
        self,
        *,
        matcher: Matcher,
        executor: Executor | Approvals,
        alerts: Sink | Outlet,
        events: Sink | None = None,
        context: Context | None = None,
        scope: str = "/",
        alert_window_s: float = 0,
        watchers: Iterable[Watcher] = (),
        incidents: Incidents | None = None,
        mark: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`context` may be None where only `judge` is used. Events of cgroups outside `scope` are let be, and so are
        programs that began in a cgroup whose path is unknown, unless `scope` is the root. `mark` may add to an alert
        before it is written.
        """
        self._matcher = matcher
        self._executor = executor
        self._alerts = alerts
        self._incidents = incidents
        self._mark = mark
        self._noise = Noise(self._write, alert_window_s)
        self._events = events
        self._context = context
        self._scope = scope
        self._below = scope + "/"
        self._is_limited = scope != "/"
        self._last: AnyEvent | None = None
        self._watchers = tuple(watchers)
        self._lost_before: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        """Events judged, by category."""
        self.undecodable: Counter[str] = Counter()
        """Ring records that were no event, by DecodeError.kind."""
        self.outcomes: Counter[str] = Counter()
        """Alerts raised, by response outcome; one that could not be written is among the sink's losses too."""

    def use(self, matcher: Matcher | None, alert_window_s: float) -> None:
        """From the next event on these are the rules; None: those of before. Correlations begin anew with new rules."""
        if matcher is not None:
            for name, count in self._matcher.losses().items():
                self._lost_before[name] += count
            self._matcher = matcher
        self._noise.use(alert_window_s)

    def feed(self, data: bytes) -> None:
        """One ring record."""
        assert self._context is not None
        try:
            raw = decode(data)
        except DecodeError as error:
            self._note(error)
            return
        found = self._context.enrich(raw)
        if found is None:
            return
        for event in found if isinstance(found, list) else (found,):
            self.judge(event)

    def looked(self, data: bytes, now: int, took: int) -> None:
        """What a look at processes' descriptors gave, which lasted `took` nanoseconds until the kernel's time `now`."""
        assert self._context is not None
        found = []
        try:
            found = held_ends(data, now)
        except DecodeError as error:
            self._note(error)
        for event in self._context.looked(found, now, took):
            self.judge(event)

    def _note(self, error: DecodeError) -> None:
        self.undecodable[error.kind] += 1
        if self.undecodable[error.kind] == 1:
            log.error("the kernel side's record cannot be decoded", kind=error.kind, error=str(error))

    def judge(self, event: AnyEvent) -> None:
        """Match one event and respond."""
        if self._is_limited and self._is_outside(event):
            return
        self._last = event
        self.seen[event.CATEGORY] += 1
        if self._events is not None:
            self._events.write(to_record(event))
        for verdict in self._matcher.match(event):
            self._respond(verdict)
        for watch in self._watchers:
            for verdict in watch(event):
                self._respond(verdict)

    def advance(self, now: int | None = None) -> None:
        """What time alone brings about. To be called every few seconds with the kernel's time (`kernel_time`), when
        all events before it have been judged; without one, the time of the event judged last counts.
        """
        if now is None:
            now = kernel_time(self._last) if self._last else 0
        for verdict in self._matcher.advance(now):
            self._respond(verdict)
        self._noise.advance(now)

    def finish(self) -> None:
        """The end of a recording: judge as if nothing more ever came, and write what that leaves."""
        for verdict in self._matcher.finish():
            self._respond(verdict)
        self._noise.close()

    def losses(self) -> dict[str, int]:
        """What correlations could not count."""
        return {name: count + self._lost_before[name] for name, count in self._matcher.losses().items()}

    @property
    def merged(self) -> int:
        """Alerts that were counted in an equal one instead of being written."""
        return self._noise.merged

    def _respond(self, verdict: Verdict) -> None:
        outcome = self._executor.begin(verdict)
        if not isinstance(outcome, Pending):
            self._finish(verdict, outcome)

    def _is_outside(self, event: AnyEvent) -> bool:
        path = event.cgroup_path
        if path is None:  # connections and device opens reach us from the watched cgroup alone
            return isinstance(event, ProcessCreation)
        return path != self._scope and not path.startswith(self._below)

    def complete(self) -> None:
        """Write the alerts of responses that have come to an end since the last call."""
        for verdict, outcome in self._executor.completed():
            self._finish(verdict, outcome)

    def close(self) -> None:
        """Write the alerts of responses that are still under way, as far as is known, and what was merged."""
        for verdict, outcome in self._executor.close():
            self._finish(verdict, outcome)
        self._noise.close()

    def _finish(self, verdict: Verdict, outcome: Outcome) -> None:
        self.outcomes[outcome.outcome] += 1
        written = self._noise.tell(verdict, outcome)
        if self._incidents is not None:
            self._incidents.ended(verdict, outcome, merged=not written)
        if outcome.outcome == "failed":
            log.error("response failed", rule=verdict.rule.title, cgroup=outcome.cgroup, reason=outcome.reason)

    def _write(self, alert: dict[str, Any]) -> None:
        if self._mark is not None:
            self._mark(alert)
        self._alerts.write(alert)
        if self._incidents is not None and "count" in alert["event"]:
            self._incidents.summary(alert)
