"""One way through: record -> decode -> context -> match -> respond -> record. No I/O of its own, no clock."""

from __future__ import annotations

from collections import Counter

import structlog

from sensor.context.enrich import Context
from sensor.decode import DecodeError, decode
from sensor.events import AnyEvent, NetworkFlow, ProcessCreation, to_record
from sensor.match.matcher import Matcher
from sensor.match.mining import Mining
from sensor.record.alerts import to_alert
from sensor.record.sink import Sink
from sensor.respond.executor import Executor, Pending
from sensor.verdict import Outcome, Verdict

log = structlog.get_logger()


class Pipeline:
    """Judges what it is fed and writes what comes of it. Nothing that an event holds makes it raise."""

    def __init__(
        self,
        *,
        matcher: Matcher,
        executor: Executor,
        alerts: Sink,
        events: Sink | None = None,
        context: Context | None = None,
        mining: Mining | None = None,
        scope: str = "/",
    ) -> None:
        """`context` may be None where only `judge` is used. Events of cgroups outside `scope` are let be, and so are
        programs that began in a cgroup whose path is unknown, unless `scope` is the root.
        """
        self._matcher = matcher
        self._mining = mining or Mining()
        self._executor = executor
        self._alerts = alerts
        self._events = events
        self._context = context
        self._scope = scope
        self._below = scope + "/"
        self._is_limited = scope != "/"
        self.seen: Counter[str] = Counter()
        """Events judged, by category."""
        self.undecodable: Counter[str] = Counter()
        """Ring records that were no event, by DecodeError.kind."""
        self.outcomes: Counter[str] = Counter()
        """Alerts raised, by response outcome; one that could not be written is among the sink's losses too."""

    def feed(self, data: bytes) -> None:
        """One ring record."""
        assert self._context is not None
        try:
            raw = decode(data)
        except DecodeError as error:
            self.undecodable[error.kind] += 1
            if self.undecodable[error.kind] == 1:
                log.error("ring record cannot be decoded", kind=error.kind, error=str(error))
            return
        found = self._context.enrich(raw)
        if found is None:
            return
        for event in found if isinstance(found, list) else (found,):
            self.judge(event)

    def judge(self, event: AnyEvent) -> None:
        """Match one event and respond."""
        if self._is_limited and self._is_outside(event):
            return
        self.seen[event.CATEGORY] += 1
        if self._events is not None:
            self._events.write(to_record(event))
        verdicts = self._matcher.match(event)
        if isinstance(event, NetworkFlow):
            verdicts = [*verdicts, *self._mining.match(event)]
        for verdict in verdicts:
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
        """Write the alerts of responses that are still under way, as far as is known."""
        for verdict, outcome in self._executor.close():
            self._finish(verdict, outcome)

    def _finish(self, verdict: Verdict, outcome: Outcome) -> None:
        self.outcomes[outcome.outcome] += 1
        self._alerts.write(to_alert(verdict, outcome))
        if outcome.outcome == "failed":
            log.error("response failed", rule=verdict.rule.title, cgroup=outcome.cgroup, reason=outcome.reason)
