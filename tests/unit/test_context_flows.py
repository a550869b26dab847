"""Flows in the context: what is said of them at their end, and how many are remembered."""

from __future__ import annotations

from typing import Any

import pytest
from flow_builders import client_hello

from sensor.context.conversations import Conversations
from sensor.context.flows import Flows
from sensor.decode import Ends, FlowTotals, Payload
from sensor.events import AnyEvent, NetworkFlow, NetworkPayload

HELLO = client_hello("registry.example.com")


def payload(cookie: int, data: bytes, protocol: int = 6) -> Payload:
    return Payload(0, 10, 20, 7, 0, ends(cookie, protocol), 0, False, data)


def ends(cookie: int, protocol: int = 6) -> Ends:
    return Ends(cookie, "192.0.2.1", "10.0.0.5", 443, 40000, protocol)


def totals(cookie: int, **fields: Any) -> FlowTotals:
    known: dict[str, Any] = {"bytes_out": 500, "bytes_in": 0, "packets_out": 3, "packets_in": 0, "flows": 1}
    task = {"time": 9 * 10**9, "tgid": 10, "start": 20, "cgroup_id": 7, "uid": 0, "began": 8 * 10**9}
    return FlowTotals(**{**task, **known, "ends": ends(cookie), "closed": True, "refused": False, **fields})


def told(conversations: Conversations, *records: Payload | FlowTotals) -> list[AnyEvent]:
    events: list[AnyEvent] = []
    for record in records:
        tell = conversations.payload if isinstance(record, Payload) else conversations.totals
        events += tell(record, {"time": 0})  # type: ignore[operator]
    return events


@pytest.fixture
def conversations() -> Conversations:
    return Conversations(lambda _: "external")


def test_a_hello_that_was_cut_off_still_gives_its_name(conversations: Conversations) -> None:
    cut = HELLO[:-20]
    assert told(conversations, payload(1, cut)) == []
    assert [event.CATEGORY for event in told(conversations, totals(1, closed=False))] == ["network_flow"]
    said, flow = told(conversations, totals(1))
    assert isinstance(said, NetworkPayload) and isinstance(flow, NetworkFlow)
    assert (said.application_protocol, said.tls_server_name, said.tls_ja4) == ("tls", "registry.example.com", None)
    assert (flow.application_protocol, flow.destination_hostname) == ("tls", "registry.example.com")
    assert len(conversations.flows) == 0


def test_a_flow_that_was_recognised_says_nothing_more_at_its_end(conversations: Conversations) -> None:
    (said,) = told(conversations, payload(1, HELLO))
    assert isinstance(said, NetworkPayload) and said.tls_ja4
    assert [event.CATEGORY for event in told(conversations, totals(1))] == ["network_flow"]


def test_the_duration_of_a_sum_is_not_known(conversations: Conversations) -> None:
    (known,) = told(conversations, totals(1))
    (unknown,) = told(conversations, totals(1, began=0))
    assert isinstance(known, NetworkFlow) and isinstance(unknown, NetworkFlow)
    assert (known.duration, unknown.duration) == (1.0, None)


def test_only_a_flow_that_might_say_more_is_a_loss_when_there_is_no_room() -> None:
    flows = Flows(limit=2)
    flows.recognise(payload(1, HELLO))
    flows.recognise(payload(2, HELLO[:50]))
    flows.recognise(payload(3, HELLO))
    assert (len(flows), flows.evicted) == (2, 0)
    flows.recognise(payload(4, HELLO))
    assert (len(flows), flows.evicted) == (2, 1)
