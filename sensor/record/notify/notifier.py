"""The thread that keeps incidents, writes them down and has them told. Nobody else waits for it, or for the network."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from sensor.address import AddressError, read_address
from sensor.agents_file import AgentFile
from sensor.config import Notify
from sensor.events import rfc3339
from sensor.record.log import Limited
from sensor.record.notify.dispatch import Delivery, Dispatcher
from sensor.record.notify.incidents import Incident, concerns
from sensor.record.notify.store import DamagedError, Store
from sensor.verdict import SEVERITY

if TYPE_CHECKING:
    from sensor.record.notify.courier import Courier

MISSING = "apprise is not installed; pip install 'hostbrake[notify]'"
log = structlog.get_logger()

INBOX = 4096
"""Alerts that may wait for the thread; what comes on top is counted as lost."""
ANSWER_S = 45.0
"""How long the sender may take, its start included; it gives up by itself after LIMIT_S (`sender.py`)."""
_IDLE_S = 60.0
"""The sender's process ends after so long without work."""
_PAUSE_S = 0.02
"""Between two looks at the inbox: a storm of alerts is taken in by the batch."""
_LONGEST_S = 60.0
_CLOSE_S = 3.0
_COUNTS_S = 10.0
"""How long mere counts may wait to be written down."""


class Notifier:
    """`offer`, `acknowledge`, `test` and `status` are for the event loop and never wait."""

    def __init__(
        self,
        config: Notify,
        agents: Iterable[AgentFile],
        directory: Path,
        host: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`directory` is where incidents are kept over restarts. Nothing is told before `start`."""
        self._severity = SEVERITY[config.level]
        self._dispatcher = Dispatcher(config, agents, host)
        self._store = Store(directory)
        self._clock = clock
        self._trouble = Limited()
        self._refused = 0
        self._damaged = 0
        self._losses: dict[str, int] = {}
        self._inbox: deque[Callable[[float], None]] = deque()
        self._flying: dict[int, tuple[Delivery, float]] = {}
        self._courier: Courier | None = None
        self._busy_until = 0.0
        self._saved: tuple[int, ...] = ()
        self._saved_at = 0.0
        self._stop = False
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._tests = 0
        self._numbers: dict[int, list[int]] = {}
        self._notes: deque[dict[str, Any]] = deque(maxlen=INBOX)
        self._known: dict[str, dict[str, Any]] = {}
        self._status: dict[str, Any] = {}
        self._publish(0)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
        self._thread.start()

    def offer(self, alert: dict[str, Any]) -> None:
        """An alert that was raised, in the form of the alerts file; it must not change any more."""
        if not concerns(alert, self._severity):
            return
        if len(self._inbox) >= INBOX:
            self._refused += 1
            return
        self._post(lambda now: self._dispatcher.take(alert, now))

    def use(self, agents: Iterable[AgentFile]) -> None:
        """Other agents from now on."""
        files = list(agents)
        self._post(lambda _now: self._dispatcher.use(files))

    def acknowledge(self, incident_id: str, who: str) -> dict[str, Any]:
        """What `hostbrake ack` is answered."""
        known = self._known.get(incident_id)
        if known is None:
            return {"error": f"there is no incident {incident_id[:40]!r}; hostbrake ack lists them"}
        self._post(lambda now: self._acknowledge(incident_id, who, now))
        log.info("incident acknowledged", incident=incident_id, by=who)
        return {"incident": known | {"acknowledged": known["acknowledged"] or who}}

    def test(self, agent: str | None) -> dict[str, Any]:
        """Have a test message sent to the agent's owner, or to the operators; `tested` tells what became of it."""
        self._tests += 1
        ticket = self._tests
        self._numbers.pop(ticket - 16, None)
        self._post(lambda _now: self._test(ticket, agent))
        return {"test": ticket}

    def tested(self, ticket: int) -> dict[str, Any]:
        """For each address, in the order of the file: "" where it arrived, why not, or None where it is under way.

        None for all of them: not begun yet.
        """
        numbers = self._numbers.get(ticket)
        if numbers is None:
            return {"addresses": None}
        return {"addresses": [self._dispatcher.tests.get(number, "forgotten") for number in numbers]}

    def incidents(self) -> dict[str, Any]:
        """Those that are remembered, newest first."""
        return {"incidents": list(self._known.values())[::-1]}

    def status(self) -> dict[str, Any]:
        """Without any address."""
        return self._status

    def notes(self) -> list[dict[str, Any]]:
        """What was told to whom and acknowledged by whom since the last call, for the audit trail."""
        found = []
        while self._notes:
            found.append(self._notes.popleft())
        return found

    def losses(self) -> dict[str, int]:
        """What somebody should have been told and never will be."""
        return self._losses | {"inbox_full": self._refused}

    def missing(self) -> dict[str, str]:
        """What keeps everybody from being told, as `status` lists it."""
        if self._thread is not None and not self._thread.is_alive():
            return {"notifications": "their thread has ended, which is a defect; the log says more"}
        return {} if not self._dispatcher.names_anybody or find_spec("apprise") else {"notifications": MISSING}

    def close(self) -> None:
        """Write down what is owed, and end; waits for a few seconds at most."""
        if self._stop:
            return
        self._stop = True
        self._wake()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                log.error("what was to be told may not have been written down", why="the disk does not answer")
                return
        os.close(self._wakeup)

    def _post(self, task: Callable[[float], None]) -> None:
        self._inbox.append(task)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:
        self._load()
        while not self._stop:
            self._turn()
            self._sleep()
        self._take_in(self._clock())
        self._save(at_once=True)
        self._finish()

    def _turn(self) -> None:
        now = self._clock()
        self._take_in(now)
        self._save(at_once=False)  # before anything is sent: what is owed outlives a crash
        deliveries = self._dispatcher.next(now)
        for delivery in deliveries:
            self._send(delivery)
        for delivery, until in list(self._flying.values()):
            if time.monotonic() > until:
                self._land(delivery, f"no answer within {ANSWER_S:.0f} s")
        self._save(at_once=False)
        self._publish(now)

    def _take_in(self, now: float) -> None:
        while self._inbox:
            self._inbox.popleft()(now)

    def _sleep(self) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        descriptor = self._courier.fileno() if self._courier else None
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        ready = dict(poll.poll(self._patience() * 1000))
        if self._wakeup in ready:
            os.eventfd_read(self._wakeup)
        if descriptor in ready:
            self._receive()
        elif self._courier and not self._flying and time.monotonic() > self._busy_until:
            self._courier.close()
        if not self._stop:
            time.sleep(_PAUSE_S)

    def _patience(self) -> float:
        """Seconds until something is to be done even if nobody comes."""
        now = time.monotonic()
        waits = [_LONGEST_S]
        if self._stop or self._inbox:
            return 0
        wake = self._dispatcher.wake(self._clock())
        if wake is not None:
            waits.append(wake - self._clock())
        waits += [until - now for _, until in self._flying.values()]
        if self._courier and self._courier.fileno() is not None and not self._flying:
            waits.append(self._busy_until - now)
        return max(0.0, min(waits)) + 0.001

    def _send(self, delivery: Delivery) -> None:
        from sensor.record.notify.courier import Courier  # noqa: PLC0415 (subprocess: not before it is needed)

        self._courier = self._courier or Courier()
        self._flying[delivery.number] = delivery, time.monotonic() + ANSWER_S
        self._busy_until = time.monotonic() + _IDLE_S
        try:
            self._courier.send(delivery.number, read_address(delivery.lane.address), delivery.message)
        except AddressError as error:
            self._land(delivery, str(error))
        except OSError as error:
            self._land(delivery, f"the sender cannot be started: {error.strerror or error}")

    def _receive(self) -> None:
        assert self._courier is not None
        answers, ended = self._courier.replies()
        for number, why in answers.items():
            if number in self._flying:
                self._land(self._flying[number][0], why)
        if ended is not None:
            for delivery, _ in list(self._flying.values()):
                self._land(delivery, ended)

    def _land(self, delivery: Delivery, why: str | None) -> None:
        del self._flying[delivery.number]
        self._dispatcher.done(delivery, why, self._clock())
        lane = delivery.lane
        if why is None:
            told = {"to": lane.whom, "step": lane.step, "incidents": list(delivery.covers)}
            log.info("notification sent", **told)
            self._notes.append({"what": "tested" if delivery.test else "sent", **told})
        else:
            self._trouble.error("notification failed", to=lane.whom, step=lane.step, why=why)

    def _acknowledge(self, incident_id: str, who: str, now: float) -> None:
        if self._dispatcher.incidents.acknowledge(incident_id, who, now):
            self._notes.append({"what": "acknowledged", "by": who, "incidents": [incident_id]})

    def _test(self, ticket: int, agent: str | None) -> None:
        self._numbers[ticket] = self._dispatcher.test(agent)

    def _load(self) -> None:
        try:
            self._dispatcher.incidents.restore(self._store.load())
        except (DamagedError, OSError) as error:
            self._damaged += 1
            log.error("the incidents of earlier runs are lost", file=str(self._store.path), why=str(error))
            with contextlib.suppress(OSError):  # then the next save says so
                self._store.set_aside()
        self._saved = self._version(counts=True)

    def _save(self, at_once: bool) -> None:
        counts = at_once or time.monotonic() - self._saved_at > _COUNTS_S
        version = self._version(counts)
        if version == (self._saved if counts else self._saved[:-1]):
            return
        self._saved_at = time.monotonic()
        try:
            self._store.save(list(self._dispatcher.incidents.all.values()))
            self._saved = self._version(counts=True)
        except OSError as error:
            why = error.strerror or str(error)
            self._trouble.error("a crash now would lose incidents", file=str(self._store.path), why=why)

    def _version(self, counts: bool) -> tuple[int, ...]:
        """Differs when something changed that a crash must not lose, and, with `counts`, when anything did."""
        incidents = self._dispatcher.incidents.all.values()
        firm = hash(tuple((i.id, i.severity, i.acted, i.waiting, i.by, tuple(i.told.items())) for i in incidents))
        return (firm, sum(i.count for i in incidents)) if counts else (firm,)

    def _publish(self, now: float) -> None:
        """For the event loop: whole objects, never changed afterwards."""
        found = self._dispatcher.incidents.all.values()
        self._losses = {**self._dispatcher.losses, "state_damaged": self._damaged}
        self._known = {incident.id: _summary(incident) for incident in found}
        self._status = {
            "incidents": len(found),
            "unacknowledged": sum(incident.acknowledged is None for incident in found),
            "waiting": self._dispatcher.waiting(now),
            "sent": self._dispatcher.sent,
            "failed": self._dispatcher.failed,
            "last_failure": self._dispatcher.last_failure,
        }

    def _finish(self) -> None:
        """Let what is under way arrive, for a moment: else it is told twice."""
        until = time.monotonic() + _CLOSE_S / 3
        while self._flying and self._courier and time.monotonic() < until:
            poll = select.poll()
            descriptor = self._courier.fileno()
            if descriptor is None:
                break
            poll.register(descriptor, select.POLLIN)
            if poll.poll(100):
                self._receive()
        self._save(at_once=True)
        if self._courier:
            self._courier.close()


def _summary(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.id,
        "agent": incident.agent,
        "owner": incident.owner,
        "cgroup": incident.cgroup,
        "level": incident.level,
        "rules": incident.rules,
        "alerts": incident.count,
        "deeds": incident.deeds,
        "opened": rfc3339(int(incident.opened * 1e9)),
        "last": rfc3339(int(incident.last * 1e9)),
        "acknowledged": incident.by,
    }
