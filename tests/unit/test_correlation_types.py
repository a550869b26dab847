"""Each type of correlation: what it fires on, and near misses."""

from __future__ import annotations

from typing import Any

import pytest
from correlating import A, B, C, base, connect, correlation, fired, rules_of, verdicts

from sensor.events import DeviceOpen, NetworkConnection, ProcessCreation

COUNT = "event_count"


def events_of(text: str) -> list[NetworkConnection]:
    """`a1 b2.5` is a connection to port 1 at 1 s, then one to port 2 at 2.5 s."""
    return [connect(float(word[1:]), "abc".index(word[0]) + 1) for word in text.split()]


@pytest.mark.parametrize(
    ("kind", "condition", "events", "expected"),
    [
        (COUNT, {"gte": 3}, "a1 a2 a3", [3]),
        (COUNT, {"gte": 3}, "a1 a2 a11", []),
        (COUNT, {"gte": 3}, "a1 a2 a10.9", [10.9]),
        (COUNT, {"gte": 3}, "a1 a2 b3", []),
        (COUNT, {"gt": 3}, "a1 a2 a3", []),
        (COUNT, {"gt": 3}, "a1 a2 a3 a4", [4]),
        # Sliding, so no boundary hides what straddles it; a group fires once in a timespan, and again after it.
        (COUNT, {"gte": 3}, "a9 a9.5 a10.5", [10.5]),
        (COUNT, {"gte": 3}, "a1 a2 a3 a4 a5 a6 a7 a8", [3]),
        (COUNT, {"gte": 3}, "a1 a2 a3 a11 a12 a13 a14", [3, 13]),
        (COUNT, {"gte": 3}, "a1 a2 a3 a12.9 a14 a23 a24", [3]),
        # What one event more can make false is judged once the timespan is over.
        (COUNT, {"lt": 3}, "a1 a2", [2]),
        (COUNT, {"lt": 3}, "a1 a2 a10.9", []),
        (COUNT, {"lt": 3}, "a1 a2 a11", [2, 11]),
        (COUNT, {"lte": 2}, "a1 a2", [2]),
        (COUNT, {"eq": 2}, "a1 a2", [2]),
        (COUNT, {"eq": 2}, "a1 a2 a3", []),
        (COUNT, {"eq": 2}, "a1 a2 a3 a13.5 a14", [14]),
        (COUNT, {"neq": 2}, "a1 a2 a3", [3]),
        (COUNT, {"neq": 2}, "a1 a2", []),
    ],
)
def test_event_count(kind: str, condition: dict[str, Any], events: str, expected: list[float]) -> None:
    assert fired(rules_of(A, correlation("x", kind, ["a"], condition=condition)), events_of(events)) == expected


@pytest.mark.parametrize(
    ("kind", "condition", "events", "expected"),
    [
        ("temporal", None, "a1 b2", [2]),
        ("temporal", None, "b1 a2", [2]),
        ("temporal", None, "a1 a2", []),
        ("temporal", None, "a1 b11", []),
        ("temporal", None, "a1 b2 a3 b4 a12 b13", [2, 12]),
        ("temporal", {"gte": 1}, "a1 b2", [1]),
        ("temporal", {"eq": 1}, "a1 a2", [2]),
        ("temporal", {"eq": 1}, "a1 b2", []),
        ("temporal_ordered", None, "a1 b2", [2]),
        ("temporal_ordered", None, "b1 a2", []),
        ("temporal_ordered", None, "b1 a2 a3 b4", [4]),
        ("temporal_ordered", None, "a1 a9 b12", [12]),
        ("temporal_ordered", None, "a1 b11", []),
        ("temporal_ordered", {"gte": 2}, "b1 a2 b3", [3]),
        ("temporal_ordered", {"gte": 1}, "b1 a2", [2]),
        ("temporal_ordered", {"lt": 2}, "b1 a2", [2]),
        ("temporal_ordered", {"lt": 2}, "a1 b2", []),
    ],
)
def test_temporal(kind: str, condition: Any, events: str, expected: list[float]) -> None:
    more = {} if condition is None else {"condition": condition}
    assert fired(rules_of(A, B, correlation("x", kind, ["a", "b"], **more)), events_of(events)) == expected


@pytest.mark.parametrize(
    ("kind", "condition", "events", "expected"),
    [
        ("temporal", "a and b", "b1 a2", [2]),
        ("temporal", "a and (b or c)", "c1 a2", [2]),
        ("temporal", "a and (b or c)", "b1 c2", []),
        ("temporal", "a and not b", "a1 c2", [1]),
        ("temporal", "a and not b", "a1 b10.9", []),
        ("temporal", "a and not b", "a1 b11.1", [1]),
        ("temporal", "a and not b", "b1 a2", []),
        ("temporal", "not (a or b) and c", "c1", [1]),
        ("temporal", "not (a or b) and c", "c1 a2", []),
        ("temporal", "a or b and c", "b1", []),
        ("temporal", "a or b and c", "b1 c2", [2]),
        ("temporal_ordered", "a and b and c", "a1 b2 c3", [3]),
        ("temporal_ordered", "a and b and c", "b1 a2 c3", []),
        ("temporal_ordered", "a and (b or c)", "b1 a2 c3", [3]),
        ("temporal_ordered", "(a or b) and c", "c1 b2", []),
        ("temporal_ordered", "a and b and a", "a1 b2", []),
        ("temporal_ordered", "a and b and a", "a1 b2 a3", [3]),
        ("temporal_ordered", "a and b and not c", "a1 b2", [2]),
        ("temporal_ordered", "a and b and not c", "a1 b2 c3", []),
        ("temporal_ordered", "a and b and not c", "b1 a2", []),
    ],
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_extended_conditions(kind: str, condition: str, events: str, expected: list[float], is_listed: bool) -> None:
    named = sorted({word for word in condition.replace("(", " ").replace(")", " ").split() if len(word) == 1})
    rule = correlation("x", kind, named if is_listed else None, condition=condition)
    assert fired(rules_of(A, B, C, rule), events_of(events), "x") == expected


def flows(*ports: int) -> list[NetworkConnection]:
    """Numbers to compute with: each event's port, one a second."""
    return [connect(second, port) for second, port in enumerate(ports, 1)]


ANY = base("any", Protocol__exists=False)


@pytest.mark.parametrize(
    ("kind", "condition", "ports", "expected"),
    [
        ("value_count", {"gte": 3}, (1, 2, 3), [3]),
        ("value_count", {"gte": 3}, (1, 2, 1, 2), []),
        ("value_count", {"lt": 2}, (1, 1, 1), [3]),
        ("value_count", {"lt": 2}, (1, 1, 2), []),
        ("value_count", {"eq": 2}, (1, 2), [2]),
        ("value_count", {"eq": 2}, (1, 2, 3), []),
        ("value_sum", {"gte": 60}, (10, 20, 30), [3]),
        ("value_sum", {"gt": 60}, (10, 20, 30), []),
        ("value_sum", {"gt": 59.5}, (10, 20, 30), [3]),
        ("value_sum", {"lt": 60}, (10, 20), [2]),
        ("value_sum", {"lt": 60}, (10, 20, 30), []),
        ("value_avg", {"gt": 20}, (10, 20, 31), [3]),
        ("value_avg", {"gt": 20}, (50, 1, 1), []),
        ("value_median", {"gt": 20}, (1, 21, 1000), [3]),
        ("value_median", {"gt": 20}, (1, 20, 1000), []),
        ("value_median", {"eq": 15}, (10, 20), [2]),
        ("value_percentile", {"gte": 81, "percentile": 90}, tuple(range(0, 100, 10)), [10]),
        ("value_percentile", {"gte": 82, "percentile": 90}, tuple(range(0, 100, 10)), []),
        ("value_percentile", {"eq": 30, "percentile": 100}, (10, 30, 20), [3]),
        ("value_percentile", {"eq": 10, "percentile": 0}, (20, 10, 30), [3]),
    ],
)
def test_values(kind: str, condition: dict[str, Any], ports: tuple[int, ...], expected: list[float]) -> None:
    rule = correlation("x", kind, ["any"], condition=condition | {"field": "DestinationPort"})
    assert fired(rules_of(ANY, rule), flows(*ports)) == expected


def test_values_that_are_no_numbers_and_fields_that_are_absent_do_not_count() -> None:
    condition = {"gt": 5, "field": "SourceIp"}
    rules = rules_of(ANY, correlation("x", "value_sum", ["any"], condition=condition))
    addresses = ["192.0.2.1", None, "nan", "inf", "4", "-9", "1.5"]
    assert fired(rules, [connect(n, source_ip=ip) for n, ip in enumerate(addresses, 1)]) == [7]
    rules = rules_of(ANY, correlation("x", "value_avg", ["any"], condition=condition))
    assert not fired(rules, [connect(1, source_ip="x"), connect(2), connect(3, source_ip="5")])


def test_distinct_values_of_lists_and_of_several_fields() -> None:
    execs = base("exec", "process_creation", Image="/x")
    rule = correlation("x", "value_count", ["exec"], condition={"gte": 3, "field": "Args"})
    made = [ProcessCreation(time=0, boottime=n * 10**9, image="/x", args=["x", arg]) for n, arg in ((1, "y"), (2, "z"))]
    assert fired(rules_of(execs, rule), made) == [2]
    both = {"gte": 3, "field": ["DestinationIp", "DestinationPort"]}
    rules = rules_of(ANY, correlation("x", "value_count", ["any"], condition=both))
    pairs = [("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.1", 1), ("10.0.0.2", 1)]
    assert fired(rules, [connect(n, port, destination_ip=ip) for n, (ip, port) in enumerate(pairs, 1)]) == [4]


def test_groups_are_counted_apart_and_events_without_a_group_not_at_all() -> None:
    group = ["ProcessGuid", "DestinationPort"]
    rules = rules_of(ANY, correlation("x", COUNT, ["any"], condition={"gte": 2}, group=group))
    other = [connect(1), connect(2, 2), connect(3, process_guid="q"), connect(4, process_guid=None)]
    assert not fired(rules, [*other, connect(5, process_guid=None)])
    assert fired(rules, [*other, connect(6), connect(7, process_guid="q")]) == [6, 7]


def test_long_values_are_told_apart() -> None:
    rules = rules_of(ANY, correlation("x", COUNT, ["any"], condition={"gte": 2}, group="Image"))
    images = ["/" + "x" * 4000 + end for end in "abab"]
    assert fired(rules, [connect(n, image=image) for n, image in enumerate(images, 1)]) == [3, 4]


def test_aliases_join_different_fields() -> None:
    opened = base("opened", "device_open", DeviceClass="nvidia")
    aliases = {"who": {"opened": "CgroupPath", "a": "SourceIp"}}
    rules = rules_of(opened, A, correlation("x", "temporal", ["opened", "a"], group="who", aliases=aliases))
    gpu = DeviceOpen(time=0, boottime=10**9, device_class="nvidia", cgroup_path="10.0.0.9")
    assert fired(rules, [gpu, connect(2, source_ip="10.0.0.9")]) == [2]
    assert not fired(rules, [gpu, connect(2, source_ip="10.0.0.8", cgroup_path="10.0.0.9")])


def test_repeats_count_as_events() -> None:
    rules = rules_of(A, correlation("x", COUNT, ["a"], condition={"gte": 10}))
    assert fired(rules, [connect(1, repeats=3), connect(2, repeats=5)]) == [2]
    assert not fired(rules, [connect(1, repeats=3), connect(2, repeats=4)])


def test_an_event_that_two_rules_match_is_one_event_and_does_not_follow_itself() -> None:
    low = base("low", DestinationPort__lt=5)
    count = rules_of(A, low, correlation("x", COUNT, ["a", "low"], condition={"gte": 2}))
    assert fired(count, [connect(1), connect(2)]) == [2]
    ordered = rules_of(A, low, correlation("x", "temporal_ordered", ["a", "low"]))
    assert fired(ordered, [connect(1), connect(2)]) == [2]
    assert fired(rules_of(A, low, correlation("x", "temporal", ["a", "low"])), [connect(1)]) == [1]


def test_correlations_of_correlations() -> None:
    many = correlation("many", COUNT, ["a"], condition={"gte": 3}, group="ProcessGuid", rule_level="low")
    then = correlation("then", "temporal_ordered", ["many", "b"], group="ProcessGuid", timespan="1m")
    rules = rules_of(then, A, B, many)
    burst = [connect(n) for n in (1, 2, 3)]
    assert [v.rule.title for v in verdicts(rules, [*burst, connect(30, 2)])] == ["then"]
    assert not verdicts(rules, [connect(1, 2), *burst])
    assert not verdicts(rules, [*burst, connect(30, 2, process_guid="q")])
    assert not verdicts(rules, [*burst[:2], connect(30, 2)])


def test_a_correlation_of_one_that_is_judged_later() -> None:
    few = correlation("few", COUNT, ["a"], condition={"lt": 3}, group="ProcessGuid")
    then = correlation("then", "temporal", ["few", "b"], group="ProcessGuid", timespan="30s")
    rules = rules_of(A, B, few, then)
    assert fired(rules, [connect(1), connect(2), connect(20, 2)]) == [20]
    assert fired(rules, [connect(1), connect(5, 2), connect(6), connect(500, 3)]) == [6]
    assert not fired(rules, [connect(1), connect(2), connect(3), connect(20, 2)])
    assert not fired(rules, [connect(1), connect(40, 2)])


def test_a_group_of_the_inner_correlation_can_be_grouped_by() -> None:
    aliases = {"where": {"a": "DestinationIp", "b": "SourceIp"}}
    inner = correlation("inner", "temporal", ["a", "b"], group="where", aliases=aliases)
    outer = correlation("outer", COUNT, ["inner"], group="where", condition={"gte": 2}, timespan="1m")
    pairs = [(1, 1, "x", None), (2, 2, None, "x"), (21, 1, "x", None), (22, 2, None, "x")]
    events = [connect(t, port, destination_ip=to, source_ip=source) for t, port, to, source in pairs]
    assert fired(rules_of(A, B, inner, outer), events) == [22]
    assert not fired(rules_of(A, B, inner, outer), events[:3])


def test_a_rule_alerts_for_itself_only_where_it_is_generated() -> None:
    for where in ({"generate": True}, {"rule_generate": True}):
        rules = rules_of(A, B, correlation("x", "temporal", ["a", "b"], **where))
        assert [v.rule.title for v in verdicts(rules, events_of("a1 b2"))] == ["a", "b", "x"]
    rules = rules_of(
        A, B, correlation("x", "temporal", ["a", "b"]), correlation("y", COUNT, ["a"], condition={"gte": 9})
    )
    assert [v.rule.title for v in verdicts(rules, events_of("a1 b2"))] == ["x"]


def test_the_verdict_is_the_correlations_own() -> None:
    more = {"rule_level": "critical", "rule_response": {"action": "kill", "scope": "process"}}
    rules = rules_of(A, B, correlation("x", "temporal", ["a", "b"], **more))
    last = connect(2, 2)
    (verdict,) = verdicts(rules, [connect(1), last])
    info = verdict.rule
    assert (info.title, info.level, info.action, info.scope) == ("x", "critical", "kill", "process")
    assert verdict.event is last
