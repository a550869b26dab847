"""Who has still to be told what. Pure: time, in seconds since the epoch, and chance are given.

Nothing is queued as a message. For each address it is known how far each incident had come when it was told last, and
what an incident has come to since is owed. So what a dead network held up arrives as one message that is true then.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from sensor.address import Escalate
from sensor.agents_file import AgentFile
from sensor.config import Notify
from sensor.duration import seconds
from sensor.events import rfc3339
from sensor.faults import printable
from sensor.record.notify.incidents import KEEP_S, Incident, Incidents, Told
from sensor.record.notify.text import Message, message, trial

Step = Literal["owner", "escalation"]

IN_FLIGHT = 8
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 300.0
GIVE_UP_S = 86_400.0
"""For so long an address is tried; then what it was owed is counted as lost."""
_SOON_S = 1.0


class Hidden(str):
    """An address that does not show where a tuple or a traceback is printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class Lane(NamedTuple):
    """One address of one person."""

    whom: str
    step: Step
    address: Hidden


class Chain(NamedTuple):
    """Whom an incident is told: one owner, and who stands behind them."""

    whom: str
    """In words: "owner Ada Example". Whose messages are counted together, and told together where they can be."""
    lanes: list[tuple[str, Lane]]
    """Every address, and the name under which an incident keeps what it was told."""
    after_s: float | None
    """When the escalation's turn comes."""


class Delivery(NamedTuple):
    """One message on its way."""

    number: int
    lane: Lane
    message: Message
    covers: dict[str, tuple[str, Told]]
    """Incident -> where it keeps what this address was told, and how far it had come."""
    test: bool = False


class _Trouble(msgspec.Struct):
    failures: int = 0
    retry: float = 0


class _Budget:
    """A bucket of tokens: a quarter of an hour's messages at once, then as they come in again."""

    def __init__(self, per_hour: int) -> None:
        self._rate = per_hour / 3600
        self._most = max(1.0, per_hour / 4)
        self._left = self._most
        self._at: float | None = None

    def ready(self, now: float) -> float:
        """When the next message may go; `now` or earlier: it may go."""
        if self._at is not None:
            self._left = min(self._most, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        return now if self._left >= 1 else now + (1 - self._left) / self._rate

    def take(self) -> None:
        self._left -= 1


class Dispatcher:
    """Decides; the sending is somebody else's (`Notifier`)."""

    def __init__(
        self, config: Notify, agents: Iterable[AgentFile], host: str, chance: Callable[[], float] = random.random
    ) -> None:
        self.incidents = Incidents(config.incident_s)
        self.losses: Counter[str] = Counter()
        """What was owed to somebody and will never be told."""
        self.sent = 0
        self.failed = 0
        self.last_failure: dict[str, Any] | None = None
        self.tests: dict[int, str | None] = {}
        """What became of test messages: "" is delivered, None not known yet, else why not."""
        self._config = config
        self._host = host
        self._chance = chance
        self._chains: dict[str, Chain] = {}
        self._operators = _chain("operators", config.operators, config.escalate)
        self._trouble: dict[Lane, _Trouble] = {}
        self._budgets: dict[Lane, _Budget] = {}
        self._total = _Budget(config.total_per_hour)
        self._flying: dict[int, Delivery] = {}
        self._trials: list[Delivery] = []
        self._number = 0
        self.use(agents)

    def use(self, agents: Iterable[AgentFile]) -> None:
        """Other agents from now on; what is owed goes to whoever owns the agent now."""
        self._chains = {
            file.agent: _chain(f"owner {printable(file.owner.name)[:80]}", file.owner.notify, file.owner.escalate)
            for file in agents
        }
        self._trouble.clear()

    def chain(self, agent: str | None) -> Chain:
        """The agent's owner, or the operators for what belongs to none."""
        return self._chains.get(agent or "", self._operators)

    @property
    def names_anybody(self) -> bool:
        return any(chain.lanes for chain in (*self._chains.values(), self._operators))

    def take(self, alert: dict[str, Any], now: float) -> None:
        """An alert that concerns somebody."""
        agent = alert.get("workload", {}).get("agent")
        if self.chain(agent).lanes:
            self.incidents.take(alert, now)

    def test(self, agent: str | None) -> list[int]:
        """Send a test to every address of the owner; the numbers in `tests`."""
        chain = self.chain(agent)
        numbers = []
        for lane in (lane for _, lane in chain.lanes if lane.step == "owner"):
            self._number += 1
            self._trials.append(Delivery(self._number, lane, trial(chain.whom, self._host), {}, True))
            numbers.append(self._number)
            self.tests[self._number] = None
        while len(self.tests) > 100:
            del self.tests[next(iter(self.tests))]
        return numbers

    def next(self, now: float) -> list[Delivery]:
        """What is to be sent now; each has to come back through `done`."""
        self._settle(now)
        found = []
        for lane, due in self._owed(now).items():
            if len(self._flying) + len(self._trials) >= IN_FLIGHT or not due:
                continue
            if self._wait(lane, now) > now:
                continue
            if lane not in self._trouble:
                self._budget(lane).take()
                self._total.take()
            self._number += 1
            incidents = [incident for incident, _ in due]
            late = now - min(incident.opened for incident in incidents) if lane.step == "escalation" else None
            covers = {incident.id: (place, incident.state(now)) for incident, place in due}
            delivery = Delivery(self._number, lane, message(incidents, self._host, late), covers)
            found.append(delivery)
            self._flying[delivery.number] = delivery
        trials, self._trials = self._trials, []
        return found + trials

    def done(self, delivery: Delivery, why: str | None, now: float) -> None:
        """A delivery has come to its end; `why` not, or None where it arrived."""
        self._flying.pop(delivery.number, None)
        if delivery.test:
            self.tests[delivery.number] = why or ""
            return
        if why is None:
            self.sent += 1
            self._trouble.pop(delivery.lane, None)
            for incident_id, (place, told) in delivery.covers.items():
                incident = self.incidents.all.get(incident_id)
                if incident is not None:
                    incident.told = incident.told | {place: told}
            return
        self.failed += 1
        whom = ("escalation of " if delivery.lane.step == "escalation" else "") + delivery.lane.whom
        self.last_failure = {"time": rfc3339(int(now * 1e9)), "to": whom, "why": why}
        trouble = self._trouble.setdefault(delivery.lane, _Trouble())
        wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(trouble.failures, 16))
        trouble.failures += 1
        trouble.retry = now + wait_s * (0.5 + self._chance() / 2)

    def wake(self, now: float) -> float | None:
        """When to ask `next` again, if nothing else happens before."""
        times = []
        busy = self._busy()
        for _, lane, _place, due in self._lanes():
            if lane not in busy and due is not None:
                times.append(max(due, self._wait(lane, now)))
        times += [incident.last + KEEP_S for incident in self.incidents.all.values()]
        return max(min(times), now + _SOON_S) if times else None

    def waiting(self, now: float) -> int:
        """How many incidents are owed to how many addresses, in all."""
        return sum(due is not None and due <= now for *_, due in self._lanes())

    def _busy(self) -> set[Lane]:
        return {delivery.lane for delivery in self._flying.values()}

    def _wait(self, lane: Lane, now: float) -> float:
        """When this address may be sent to."""
        trouble = self._trouble.get(lane)
        if trouble is not None:  # that message is paid for
            return min(trouble.retry, now + LAST_RETRY_S)  # the clock may have been set back
        return max(self._budget(lane).ready(now), self._total.ready(now))

    def _budget(self, lane: Lane) -> _Budget:
        if lane not in self._budgets:
            self._budgets[lane] = _Budget(self._config.owner_per_hour)
        return self._budgets[lane]

    def _lanes(self) -> Iterator[tuple[Incident, Lane, str, float | None]]:
        """Every incident and address that it concerns, where that is kept, and when to tell; None: it has been told."""
        for incident in self.incidents.all.values():
            chain = self.chain(incident.agent)
            for place, lane in chain.lanes:
                told = incident.told.get(place)
                if lane.step == "owner":
                    due = owed_to_owner(incident, told, self._config.repeat_s)
                else:
                    due = owed_to_next(incident, told, chain.after_s)
                yield incident, lane, place, due

    def _owed(self, now: float) -> dict[Lane, list[tuple[Incident, str]]]:
        busy = self._busy()
        owed: dict[Lane, list[tuple[Incident, str]]] = {}
        for incident, lane, place, due in self._lanes():
            if lane not in busy and due is not None and due <= now:
                owed.setdefault(lane, []).append((incident, place))
        return owed

    def _settle(self, now: float) -> None:
        """Give up what was owed for too long, and forget what is over and told."""
        still: set[str] = set()
        for incident, _, place, due in list(self._lanes()):
            if due is not None and now - due > GIVE_UP_S:
                incident.told = incident.told | {place: incident.state(now)}
                self.losses["given_up"] += 1
            elif due is not None:
                still.add(incident.id)
        for incident in list(self.incidents.all.values()):
            idle = incident.acknowledged is not None or now - incident.last > KEEP_S
            if idle and incident.id not in still and self.incidents.is_over(incident, now):
                self.incidents.forget(incident)
        self.losses["evicted"] = self.incidents.evicted.total()


def owed_to_owner(incident: Incident, told: Told | None, repeat_s: float) -> float | None:
    """When the owner is to be told: at once of what is new or worse, later that it goes on, never of what is known."""
    known = incident.acknowledged
    if known is not None and not known.is_behind(incident):
        return None
    if told is None:
        return incident.opened
    if told.is_behind(incident):
        return incident.last
    return told.at + repeat_s if incident.count > told.count and known is None else None


def owed_to_next(incident: Incident, told: Told | None, after_s: float | None) -> float | None:
    """When the one behind the owner is to be told: once, unless somebody acknowledges before."""
    if after_s is None or told is not None or incident.acknowledged is not None:
        return None
    return incident.opened + after_s


def _chain(whom: str, notify: list[str], escalate: Escalate | None) -> Chain:
    steps: dict[Step, list[str]] = {"owner": notify, "escalation": escalate.notify if escalate else []}
    lanes = [
        (f"{step}.{number}", Lane(whom, step, Hidden(address)))
        for step, addresses in steps.items()
        for number, address in enumerate(addresses)
    ]
    return Chain(whom, lanes, seconds(escalate.after) if escalate else None)
