"""Who is told what and when, with time as a number: one owner, one incident, never more often than agreed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notifying import DAY, agent, alert

from sensor.address import Escalate
from sensor.config import Notify
from sensor.record.notify import incidents as incidents_module
from sensor.record.notify.dispatch import GIVE_UP_S, IN_FLIGHT, LAST_RETRY_S, Delivery, Dispatcher
from sensor.record.notify.incidents import KEEP_S, concerns
from sensor.verdict import SEVERITY

MINUTE = 60.0
T = 1_700_000_000.0
LATER = Escalate("15m", ["json://boss"])


class Desk:
    """A dispatcher whose messages arrive at once, unless the address is among `broken`."""

    def __init__(self, *agents: Any, **config: Any) -> None:
        self.dispatcher = Dispatcher(Notify(**config), agents, "node1", chance=lambda: 1.0)
        self.sent: list[tuple[float, str, Delivery]] = []
        self.broken: set[str] = set()
        self.tried = 0

    def turn(self, now: float) -> list[tuple[str, Delivery]]:
        """What arrived, and where."""
        arrived = []
        while deliveries := self.dispatcher.next(now):
            for delivery in deliveries:
                self.tried += 1
                address = str(delivery.lane.address)
                self.dispatcher.done(delivery, "no answer" if address in self.broken else None, now)
                if address not in self.broken:
                    arrived.append((address, delivery))
        self.sent += [(now, address, delivery) for address, delivery in arrived]
        return arrived

    def take(self, now: float, *arguments: Any, **changes: Any) -> list[str]:
        """The addresses that are told of this alert at once."""
        self.dispatcher.take(alert(*arguments, **changes), now)
        return [address for address, _ in self.turn(now)]

    def run(self, start: float, end: float) -> list[tuple[float, str]]:
        """As the thread does: asked when `wake` says so. What was told, in minutes from `start`."""
        before, now, turns = len(self.sent), start, 0
        while now <= end:
            self.turn(now)
            turns += 1
            assert turns < 3000, "it does not come to rest"
            wake = self.dispatcher.wake(now)
            if wake is None:
                break
            now = wake
        return [(round((at - start) / MINUTE, 2), address) for at, address, _ in self.sent[before:]]


def test_one_incident_goes_to_its_owner_alone() -> None:
    desk = Desk(agent("rome", "json://ada"), agent("oslo", "json://bob", owner="Bob"), operators=["json://ops"])
    assert desk.take(T, "rome") == ["json://ada"]
    assert desk.take(T, "oslo") == ["json://bob"]
    assert desk.take(T, None) == ["json://ops"]
    assert desk.take(T, "unknown") == ["json://ops"]
    assert desk.run(T, T + 2 * DAY) == []


def test_every_address_of_the_owner_gets_it_once_though_one_fails() -> None:
    desk = Desk(agent("rome", "json://mail", "json://phone"))
    desk.broken = {"json://phone"}
    assert desk.take(T) == ["json://mail"]
    desk.broken = set()
    assert [address for _, address in desk.run(T, T + DAY)] == ["json://phone"]


def test_what_follows_is_counted_and_told_at_most_every_ten_minutes() -> None:
    desk = Desk(agent("rome", "json://ada"))
    assert desk.take(T, outcome="done") == ["json://ada"]
    for second in range(1, 300):
        assert desk.take(T + second, number=second) == []
    assert [minute for minute, _ in desk.run(T + 300, T + DAY)] == [5.0]
    assert "300 alerts so far" in desk.sent[-1][2].message.body
    assert desk.dispatcher.waiting(T + DAY) == 0


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (
            {"severity": 73, "action": "alert", "outcome": "none"},
            {"severity": 99, "action": "alert", "outcome": "none"},
        ),
        ({"action": "alert", "outcome": "none"}, {"action": "kill", "outcome": "done"}),
        ({"action": "kill", "outcome": "done"}, {"action": "kill", "outcome": "failed"}),
        ({"action": "freeze", "outcome": "pending"}, {"action": "freeze", "outcome": "pending"}),
    ],
)
def test_what_is_worse_is_told_at_once_also_after_an_acknowledgement(
    first: dict[str, Any], then: dict[str, Any]
) -> None:
    for acknowledge in (False, True):
        desk = Desk(agent("rome", "json://ada"))
        assert desk.take(T, **first) == ["json://ada"]
        if acknowledge:
            assert desk.dispatcher.incidents.acknowledge(*desk.dispatcher.incidents.all, "root", T)
        assert desk.take(T + 1, **then) == ["json://ada"]


def test_a_new_incident_begins_after_ten_quiet_minutes() -> None:
    desk = Desk(agent("rome", "json://ada"))
    desk.take(T)
    desk.take(T + 599)
    desk.take(T + 599 + 600)
    assert len(desk.dispatcher.incidents.all) == 1
    assert desk.take(T + 599 + 600 + 601, number=2) == ["json://ada"]
    assert len(desk.dispatcher.incidents.all) == 2


def test_nobody_acknowledges() -> None:
    desk = Desk(agent("rome", "json://ada", escalate=LATER))
    assert desk.take(T) == ["json://ada"]
    assert desk.run(T, T + 2 * DAY) == [(15.0, "json://boss")]
    message = desk.sent[-1][2].message
    assert message.title.startswith("Hostbrake on node1: not acknowledged for 15 min")
    assert "hostbrake ack 1000000000" in message.body


def test_the_escalation_does_not_wait_for_an_owner_who_cannot_be_reached() -> None:
    desk = Desk(agent("rome", "json://ada", escalate=LATER))
    desk.broken = {"json://ada"}
    assert desk.take(T) == []
    assert desk.run(T, T + 20 * MINUTE) == [(15.0, "json://boss")]


def test_an_acknowledgement_ends_escalation_and_repeats() -> None:
    desk = Desk(agent("rome", "json://ada", escalate=LATER))
    desk.take(T)
    (incident_id,) = desk.dispatcher.incidents.all
    found = desk.dispatcher.incidents.acknowledge(incident_id, "root\n", T + 60)
    assert found is not None and found.by == "root\\n"
    assert desk.take(T + 61) == []
    assert desk.run(T + 61, T + DAY) == []
    assert desk.dispatcher.incidents.acknowledge("nothing", "root", T) is None


def test_a_dead_network_costs_one_message_with_all_that_happened() -> None:
    desk = Desk(agent("rome", "json://ada"), agent("oslo", "json://ada"))
    desk.broken = {"json://ada"}
    desk.take(T, "rome")
    for minute in range(1, 60):
        desk.take(T + minute * MINUTE, "rome", number=minute)
    waits = [wake for now in range(60) if (wake := desk.dispatcher.wake(T + now * MINUTE))]
    assert waits and desk.tried < 60, "it backs off"
    desk.broken = set()
    told = desk.run(T + 60 * MINUTE, T + 70 * MINUTE)
    assert len(told) == 1 and told[0][0] * MINUTE <= LAST_RETRY_S
    assert "60 alerts so far" in desk.sent[-1][2].message.body


def test_retries_back_off_to_a_bound_and_end_after_a_day_as_a_loss() -> None:
    desk = Desk(agent("rome", "json://ada"))
    desk.broken = {"json://ada"}
    desk.take(T)
    waits, now = [], T
    while now < T + GIVE_UP_S:
        wake = desk.dispatcher.wake(now)
        assert wake is not None
        waits.append(wake - now)
        now = wake
        desk.turn(now)
    desk.turn(now + 1)
    assert waits[:6] == [5, 10, 20, 40, 80, 160] and set(waits[6:-1]) == {LAST_RETRY_S}
    assert desk.dispatcher.losses["given_up"] == 1
    tried = desk.tried
    desk.run(now, now + DAY)
    assert desk.tried == tried and not desk.dispatcher.incidents.all
    assert desk.dispatcher.last_failure == {
        "time": desk.dispatcher.last_failure and desk.dispatcher.last_failure["time"],
        "to": "owner Ada",
        "why": "no answer",
    }


def test_a_jitter_of_half() -> None:
    dispatcher = Dispatcher(Notify(), [agent("rome", "json://ada")], "node1", chance=lambda: 0.0)
    dispatcher.take(alert(), T)
    (delivery,) = dispatcher.next(T)
    dispatcher.done(delivery, "no", T)
    assert dispatcher.wake(T) == T + 2.5


def test_many_incidents_of_one_owner_come_together_once_the_hours_share_is_used_up() -> None:
    names = [f"a{number}" for number in range(40)]
    desk = Desk(*(agent(name, "json://ada") for name in names), owner_per_hour=20)
    told = sum(len(desk.take(T + number, name, number=number + 1)) for number, name in enumerate(names))
    assert 5 <= told < 40
    desk.run(T + 40, T + DAY)
    told = [incident for *_, delivery in desk.sent for incident in delivery.covers]
    assert len(told) == len(set(told)) == 40 and len(desk.sent) < 10


def test_strays_come_to_the_operators_in_one_message() -> None:
    desk = Desk(operators=["json://ops"], owner_per_hour=4)
    for number in range(1, 100):
        desk.take(T, None, number=number, cgroup={"id": number, "path": f"/stray{number}"})
    assert len(desk.sent) == 1
    assert [address for _, address in desk.run(T, T + 3600)] == ["json://ops"]
    message = desk.sent[-1][2].message
    assert "(and 97 more)" in message.title and "and 93 more incidents: hostbrake ack lists them" in message.body
    assert len(message.body) <= 4000


def test_all_owners_together_are_limited_too() -> None:
    names = [f"a{number}" for number in range(50)]
    desk = Desk(*(agent(name, f"json://{name}", owner=name) for name in names), total_per_hour=20)
    for number, name in enumerate(names):
        desk.take(T, name, number=number + 1)
    assert len(desk.sent) == 5
    assert len(desk.run(T, T + 3600)) == 20
    assert len(desk.run(T + 3600, T + 3 * 3600)) == 25


def test_so_many_are_under_way_at_once_and_none_twice() -> None:
    names = [f"a{number}" for number in range(50)]
    dispatcher = Dispatcher(Notify(), [agent(name, f"json://{name}") for name in names], "node1")
    for number, name in enumerate(names):
        dispatcher.take(alert(name, number=number + 1), T)
    assert len(dispatcher.next(T)) == IN_FLIGHT
    assert dispatcher.next(T) == []


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"severity": 47, "action": "alert", "outcome": "none"}, False),
        ({"severity": 47, "action": "kill", "outcome": "would"}, False),
        ({"severity": 47, "action": "deny", "outcome": "done"}, True),
        ({"severity": 47, "action": "freeze", "outcome": "pending"}, True),
        ({"severity": 21, "action": "kill", "outcome": "failed"}, True),
        ({"severity": 73, "action": "alert", "outcome": "none"}, True),
        ({"severity": 73, "action": "kill", "outcome": "would"}, True),
        ({"severity": 99, "labels": {"page": "nobody"}}, False),
    ],
)
def test_what_concerns_somebody(changes: dict[str, Any], is_told: bool) -> None:
    assert concerns(alert(**changes), SEVERITY["high"]) is is_told
    assert concerns(alert(**changes), 1) is (is_told or "labels" not in changes)


def test_where_nobody_is_named_nothing_is_kept() -> None:
    desk = Desk()
    assert desk.take(T, None) == [] and not desk.dispatcher.incidents.all


def test_owners_change_while_something_is_owed() -> None:
    desk = Desk(agent("rome", "json://ada"), operators=["json://ops"])
    desk.broken = {"json://ada"}
    desk.take(T)
    desk.dispatcher.use([agent("rome", "json://bob")])
    assert [address for _, address in desk.run(T, T + 600)] == ["json://bob"]
    desk.take(T + 1000, number=2, severity=99, outcome="failed")
    desk.dispatcher.use([])
    desk.take(T + 5000, number=3)
    assert desk.sent[-1][1] == "json://ops"


def test_a_test_message_is_sent_once_and_is_no_incident() -> None:
    desk = Desk(agent("rome", "json://mail", "json://phone"))
    desk.broken = {"json://phone"}
    numbers = desk.dispatcher.test("rome")
    assert [address for address, _ in desk.turn(T)] == ["json://mail"]
    assert [desk.dispatcher.tests[number] for number in numbers] == ["", "no answer"]
    assert desk.run(T, T + DAY) == [] and desk.tried == 2 and not desk.dispatcher.incidents.all


def test_the_table_is_bounded_and_says_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incidents_module, "INCIDENTS", 10)
    desk = Desk(operators=["json://ops"])
    desk.broken = {"json://ops"}
    for number in range(1, 31):
        desk.take(T + number, None, number=number, cgroup={"path": f"/{number}"})
    assert len(desk.dispatcher.incidents.all) == 10
    assert desk.dispatcher.losses["evicted"] == 20


def test_what_is_over_is_forgotten_and_what_nobody_acknowledged_kept_for_a_day() -> None:
    desk = Desk(agent("rome", "json://ada"), agent("oslo", "json://ada"))
    desk.take(T, "rome", number=1)
    desk.take(T, "oslo", number=2)
    desk.dispatcher.incidents.acknowledge("1" + "0" * 9, "root", T)
    desk.turn(T + 700)
    assert list(desk.dispatcher.incidents.all) == ["2" + "0" * 9]
    desk.turn(T + KEEP_S + 1)
    assert not desk.dispatcher.incidents.all


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rome", "oslo", None]),
            st.integers(0, 900),
            st.sampled_from(list(SEVERITY.values())[1:]),
            st.sampled_from(["none", "would", "done", "pending", "failed"]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_whatever_happens_everything_is_told_to_whom_it_concerns(steps: list[Any]) -> None:
    desk = Desk(agent("rome", "json://ada", escalate=LATER), agent("oslo", "json://bob"), operators=["json://ops"])
    meant = {"json://ada": "rome", "json://boss": "rome", "json://bob": "oslo", "json://ops": None}
    now, counts, agents, told = T, {}, {}, {}
    for number, (name, wait, severity, outcome, works) in enumerate(steps):
        now += wait
        desk.broken = set() if works else {"json://ada", "json://bob", "json://ops"}
        desk.dispatcher.take(alert(name, number=number + 1, severity=severity, outcome=outcome), now)
        known = desk.dispatcher.incidents.all.values()
        counts |= {incident.id: incident.count for incident in known}
        agents |= {incident.id: incident.agent for incident in known}
        desk.turn(now)
    desk.broken = set()
    desk.run(now, now + 3 * DAY)
    assert sum(counts.values()) == len(steps) and not desk.dispatcher.losses["given_up"]
    for _, address, delivery in desk.sent:
        assert {agents[incident] for incident in delivery.covers} == {meant[address]}
        if address != "json://boss":
            told |= {incident: state.count for incident, (_, state) in delivery.covers.items()}
    assert told == counts
