"""Correlations and time: events out of order across CPUs, events too late, and bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
from correlating import SECOND, A, B, C, base, connect, correlation, fired, rules_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.events import NetworkConnection
from sensor.match import correlate, correlate_sliding
from sensor.match.ir import Rule
from sensor.match.matcher import Matcher

BOUND = correlate.LATENESS // 1_000_000
ANY = base("any", Protocol__exists=False)
PORT = {"field": "DestinationPort"}

GROWING = [
    rules_of(A, correlation("x", "event_count", ["a"], "3s", condition={"gte": 4}, group="ProcessGuid")),
    rules_of(ANY, correlation("x", "value_count", ["any"], "3s", condition={"gt": 2, **PORT}, group="ProcessGuid")),
    rules_of(ANY, correlation("x", "value_sum", ["any"], "3s", condition={"gte": 12, **PORT}, group="ProcessGuid")),
    rules_of(A, B, C, correlation("x", "temporal", ["a", "b", "c"], "3s", group="ProcessGuid")),
    rules_of(A, B, C, correlation("x", "temporal_ordered", ["a", "b", "c"], "3s", group="ProcessGuid")),
    rules_of(A, B, C, correlation("x", "temporal_ordered", None, "1s", condition="(a or c) and b and a")),
]
WHOLE = [
    rules_of(A, correlation("x", "event_count", ["a"], "3s", condition={"eq": 2}, group="ProcessGuid")),
    rules_of(ANY, correlation("x", "value_count", ["any"], "3s", condition={"lt": 3, **PORT}, group="ProcessGuid")),
    rules_of(ANY, correlation("x", "value_avg", ["any"], "3s", condition={"gt": 2, **PORT}, group="ProcessGuid")),
    rules_of(ANY, correlation("x", "value_median", ["any"], "3s", condition={"gte": 2, **PORT})),
    rules_of(A, B, C, correlation("x", "temporal", None, "3s", condition="a and not (b or c)", group="ProcessGuid")),
    rules_of(A, B, C, correlation("x", "temporal_ordered", None, "3s", condition="a and b and not c")),
    rules_of(A, B, C, correlation("x", "temporal_ordered", ["a", "b", "c"], "3s", condition={"eq": 2})),
]


def shuffled(draw: st.DrawFn, events: Sequence[NetworkConnection]) -> list[NetworkConnection]:
    """An order of arrival in which each event comes at most the bound later than a later one."""
    delays = [draw(st.integers(0, BOUND)) * 1_000_000 for _ in events]
    places = sorted(range(len(events)), key=lambda place: (events[place].boottime + delays[place], place))
    return [events[place] for place in places]


@st.composite
def two_orders(draw: st.DrawFn) -> tuple[list[NetworkConnection], list[NetworkConnection]]:
    """Some seconds of events of two groups, each at a time of its own, in the kernel's order and in another."""
    times = sorted(draw(st.sets(st.integers(2000, 2000 + draw(st.sampled_from([3000, 15_000]))), max_size=30)))
    events = [
        connect(time / 1000, draw(st.integers(1, 3)), process_guid=draw(st.sampled_from("pppq"))) for time in times
    ]
    return events, shuffled(draw, events)


def told(rules: list[Rule], events: Sequence[NetworkConnection]) -> tuple[Counter[str | None], list[NetworkConnection]]:
    """How often each group fired, and on which events."""
    matcher = Matcher(rules)
    found = [v.event for event in events for v in matcher.match(event) if v.rule.title == "x"]
    found += [v.event for v in matcher.finish()]
    assert matcher.losses() == {"late": 0, "evicted": 0}
    grouped = any(feed.group for rule in rules if rule.correlation for feed in rule.correlation.feeds)
    return Counter(event.process_guid if grouped else None for event in found), found  # type: ignore[return-value]


@pytest.mark.parametrize("rules", GROWING, ids=lambda rules: rules[0].info.title + rules[-1].correlation.type)
@settings(max_examples=200, deadline=None)
@given(two_orders(), st.sampled_from([3, 64]))
def test_any_order_within_the_bound_fires_as_often_and_as_soon(
    rules: list[Rule], orders: tuple[list[NetworkConnection], list[NetworkConnection]], room: int
) -> None:
    """With windows thinned at every turn (`room` 3), and hardly ever."""
    with patch.object(correlate_sliding, "_ROOM", room):
        check_order(rules, *orders)


def check_order(rules: list[Rule], in_order: list[NetworkConnection], shuffled_order: list[NetworkConnection]) -> None:
    expected, _ = told(rules, in_order)
    found, events = told(rules, shuffled_order)
    assert found == expected
    for event in events:  # at once: on the arrival that completed it, without waiting for the bound
        arrived = shuffled_order[: shuffled_order.index(event) + 1]
        assert told(rules, arrived)[0].total() > told(rules, arrived[:-1])[0].total()


@pytest.mark.parametrize("rules", WHOLE)
@settings(max_examples=150, deadline=None)
@given(two_orders())
def test_whole_windows_fire_on_the_same_events_in_any_order_within_the_bound(
    rules: list[Rule], orders: tuple[list[NetworkConnection], list[NetworkConnection]]
) -> None:
    in_order, shuffled_order = orders
    assert told(rules, shuffled_order)[1] == told(rules, in_order)[1]


def brute(rules: list[Rule], events: Sequence[NetworkConnection]) -> list[float]:
    """event_count by definition, for events in order: a window of 3 s up to each event, silence of 3 s after."""
    found: list[int] = []
    for event in events:
        since = event.boottime - 3 * SECOND
        held = sum(since < other.boottime <= event.boottime and other.destination_port == 1 for other in events)
        if event.destination_port == 1 and held >= 4 and (not found or event.boottime >= found[-1] + 3 * SECOND):
            found.append(event.boottime)
    return [time / SECOND for time in found]


@settings(max_examples=150, deadline=None)
@given(two_orders())
def test_counts_are_those_of_the_definition(orders: tuple[list[NetworkConnection], list[NetworkConnection]]) -> None:
    rules = rules_of(A, correlation("x", "event_count", ["a"], "3s", condition={"gte": 4}))
    assert fired(rules, orders[0], "x") == brute(rules, orders[0])


@pytest.mark.parametrize(
    ("kind", "made", "condition"),
    [
        ("event_count", (["any"], "2s"), {"gte": 300}),
        ("value_count", (["any"], "2s"), {"gte": 40, **PORT}),
        ("value_sum", (["any"], "2s"), {"gte": 2000, **PORT}),
        ("temporal", (["a", "b", "c"], "2s"), None),
        ("temporal_ordered", (["c", "b", "a"], "2s"), None),
    ],
)
def test_thinning_a_flood_changes_nothing(
    kind: str, made: Any, condition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same flood with and without room for all of it, and with some events late."""
    rules = rules_of(A, B, C, ANY, correlation("x", kind, *made, **{"condition": condition} if condition else {}))
    ports = [(n * n) % 7 + (n % 50 if n > 2500 else 0) for n in range(6000)]
    events = [connect(10 + n / 500, port) for n, port in enumerate(ports)]
    for place in range(100, 6000, 97):
        events[place - 40], events[place] = events[place], events[place - 40]
    thin = fired(rules, events, "x")
    monkeypatch.setattr("sensor.match.correlate_sliding._ROOM", 1_000_000)
    assert len(thin) > 1 and thin == fired(rules, events, "x")


def test_a_flood_keeps_little_and_loses_nothing() -> None:
    matcher = Matcher(rules_of(ANY, correlation("x", "value_count", ["any"], "1h", condition={"gte": 50, **PORT})))
    count = sum(len(matcher.match(connect(10 + n / 1000, n % 50_000))) for n in range(20_000))
    assert count == 1
    assert matcher._correlator._kept.entries < 3 * correlate.GROUP_ENTRIES
    assert matcher.losses() == {"late": 0, "evicted": 0}


@pytest.mark.parametrize(
    ("kind", "names", "ports"),
    [
        ("temporal_ordered", ["a", "b", "c"], [1, *[2] * 9000, 3]),
        ("temporal", ["a", "b", "c"], [1, *[2] * 9000, 3]),
    ],
)
def test_a_flood_does_not_wash_away_what_came_before_it(kind: str, names: list[str], ports: list[int]) -> None:
    """All within a second, where everything may still come late."""
    matcher = Matcher(rules_of(A, B, C, correlation("x", kind, names, "1m")))
    found = [v for n, port in enumerate(ports) for v in matcher.match(connect(10 + n / 20_000, port))]
    assert [v.event.destination_port for v in found] == [3]
    assert matcher.losses() == {"late": 0, "evicted": 0}


def test_sums_of_many_lose_nothing() -> None:
    for kind, condition in (("event_count", {"gte": 50_000}), ("value_sum", {"gte": 100_000, **PORT})):
        matcher = Matcher(rules_of(ANY, correlation("x", kind, ["any"], "1m", condition=condition)))
        found = [n for n in range(60_000) if matcher.match(connect(10 + n / 2000, 2))]
        assert found == [49_999] and matcher.losses() == {"late": 0, "evicted": 0}
        assert matcher._correlator._kept.entries <= 2 * correlate.GROUP_ENTRIES


def test_groups_are_bounded_and_what_goes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlate, "GROUPS", 100)
    quiet = correlation("quiet", "event_count", ["b"], "1h", condition={"gte": 2}, group="ProcessGuid")
    flood = correlation("flood", "event_count", ["a"], "1h", condition={"gte": 2}, group="DestinationIp")
    whole = correlation("whole", "event_count", ["a"], "1h", condition={"eq": 2}, group="DestinationIp")
    for loud in (flood, whole):
        matcher = Matcher(rules_of(A, B, quiet, loud))
        matcher.match(connect(1, 2))
        for n in range(1000):
            matcher.match(connect(2 + n / 100, destination_ip=f"10.0.{n >> 8}.{n & 255}"))
        assert matcher._correlator._kept.groups == 100
        assert matcher.losses()["evicted"] >= 800
        # Who floods gives way itself: the quiet correlation still has its first event.
        assert [v.rule.title for v in matcher.match(connect(20, 2))] == ["quiet"]


def test_entries_are_bounded_and_what_goes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlate, "ENTRIES", 500)
    for condition in ({"gte": 1000}, {"eq": 1000}):
        matcher = Matcher(rules_of(ANY, correlation("x", "value_count", ["any"], "1h", condition=condition | PORT)))
        for n in range(3000):
            matcher.match(connect(1 + n / 100, n))
            assert matcher._correlator._kept.entries <= 500
        assert matcher.losses()["evicted"] > 0


def test_numbers_beyond_what_a_median_keeps_are_counted() -> None:
    matcher = Matcher(rules_of(ANY, correlation("x", "value_median", ["any"], "1m", condition={"gt": 1, **PORT})))
    for n in range(3000):
        matcher.match(connect(10 + n / 1000, 5))
    assert len(matcher.finish()) == 1
    assert matcher.losses() == {"late": 0, "evicted": 3000 - 2048}


def test_quiet_groups_are_forgotten() -> None:
    for condition in ({"gte": 2}, {"eq": 7}):
        matcher = Matcher(rules_of(A, correlation("x", "event_count", ["a"], condition=condition, group="ProcessGuid")))
        for n in range(50):
            matcher.match(connect(n * 20, process_guid=str(n)))
        assert matcher._correlator._kept.groups <= 2
        matcher.advance(5000 * SECOND)
        assert (matcher._correlator._kept.groups, matcher._correlator._kept.entries) == (0, 0)
        assert matcher.losses() == {"late": 0, "evicted": 0}


def test_what_comes_later_than_the_bound_is_counted_and_still_counts_where_it_can() -> None:
    matcher = Matcher(rules_of(A, correlation("x", "event_count", ["a"], "10s", condition={"gte": 3})))
    found = [v for second in (10, 11, 9.5) for v in matcher.match(connect(second))]
    assert len(found) == 1 and matcher.losses()["late"] == 1
    matcher = Matcher(rules_of(A, correlation("x", "event_count", ["a"], "2s", condition={"lt": 9})))
    for second in (10, 20, 10.5, 9):
        matcher.match(connect(second))
    assert matcher.losses()["late"] == 2


def test_time_alone_ends_a_window() -> None:
    matcher = Matcher(rules_of(A, correlation("x", "event_count", ["a"], "10s", condition={"lt": 3})))
    assert not matcher.match(connect(5))
    assert not matcher.advance(int(15.9 * SECOND))
    assert [v.event.boottime for v in matcher.advance(16 * SECOND)] == [5 * SECOND]
    assert not matcher.advance(100 * SECOND) and not matcher.finish()


def test_a_replay_fires_on_the_same_events() -> None:
    """Live times count from the boot, recorded ones from 1970, in microseconds."""
    events = [connect(n * 0.7, n % 3 + 1, process_guid="pq"[n % 2]) for n in range(200)]
    recorded = [connect(0, e.destination_port or 0, process_guid=e.process_guid) for e in events]
    for event, original in zip(recorded, events, strict=True):
        event.time = (1_760_000_000 * SECOND + original.boottime) // 1000 * 1000
    for rules in [*GROWING, *WHOLE]:
        places = []
        for run in (events, recorded):
            order = {id(event): place for place, event in enumerate(run)}
            matcher = Matcher(rules)
            found = [v for event in run for v in matcher.match(event)] + matcher.finish()
            places.append([order[id(v.event)] for v in found if v.rule.title == "x"])
        assert places[0] == places[1]
