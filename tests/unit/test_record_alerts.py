"""Alerts say what happened in ECS names, and hostile text in them forges nothing."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.events import (
    CLASSES,
    DeviceOpen,
    DnsQuery,
    NetworkConnection,
    NetworkFlow,
    NetworkPayload,
    NetworkRelay,
    ProcessCreation,
    from_record,
    to_record,
)
from sensor.node import host
from sensor.record.alerts import reason, to_alert
from sensor.record.encode import encode
from sensor.verdict import Outcome, RuleInfo, Verdict

RULE = RuleInfo(
    id="8f11a592-d0af-42b5-bea1-6321208d3c07",
    title="Reverse tunnel",
    level="critical",
    techniques=("T1572",),
    action="kill",
)
DONE = Outcome(
    mode="enforce",
    action="kill",
    outcome="done",
    scope="cgroup",
    cgroup="/a",
    processes=17,
    detect_ms=0.8,
    respond_ms=2.1,
)
COMMON: dict[str, Any] = {
    "time": 1_700_000_000_123_456_789,
    "process_id": 42,
    "process_guid": "b00t-42-7",
    "image": "/usr/bin/ssh",
    "command_line": "ssh -R 1:2:3 host",
    "args": ["ssh", "-R", "1:2:3", "host"],
    "parent_process_id": 41,
    "parent_image": "/bin/sh",
    "parent_command_line": "sh -c x",
    "user": "ada",
    "user_id": 1000,
    "cgroup_id": 77,
    "cgroup_path": "/rome.slice/x",
    "agent": "rome-rl",
    "agent_owner": "Ada Example",
    "agent_purpose": "learning",
}


def alert_of(event: Any, outcome: Outcome = DONE) -> dict[str, Any]:
    alert = json.loads(encode(to_alert(Verdict(rule=RULE, event=event), outcome)))
    assert isinstance(alert, dict)
    return alert


def test_an_exec() -> None:
    alert = alert_of(ProcessCreation(**COMMON, current_directory="/tmp"))
    name, machine_id = host()
    assert alert.pop("host") == ({"name": name, "id": machine_id} if machine_id else {"name": name})
    assert len(alert["event"].pop("id")) == 32
    assert alert == {
        "@timestamp": "2023-11-14T22:13:20.123456Z",
        "event": {
            "kind": "alert",
            "category": ["process"],
            "action": "exec",
            "severity": 99,
            "reason": "ssh (pid 42, ada) of agent rome-rl ran `ssh -R 1:2:3 host` in /rome.slice/x: Reverse tunnel",
        },
        "rule": {"id": RULE.id, "name": "Reverse tunnel", "level": "critical"},
        "threat": {"technique": {"id": ["T1572"]}},
        "process": {
            "pid": 42,
            "entity_id": "b00t-42-7",
            "executable": "/usr/bin/ssh",
            "name": "ssh",
            "args": ["ssh", "-R", "1:2:3", "host"],
            "command_line": "ssh -R 1:2:3 host",
            "working_directory": "/tmp",
            "user": {"id": "1000", "name": "ada"},
            "parent": {"pid": 41, "executable": "/bin/sh", "command_line": "sh -c x"},
        },
        "cgroup": {"id": 77, "path": "/rome.slice/x"},
        "workload": {"agent": "rome-rl", "owner": "Ada Example", "purpose": "learning"},
        "response": {
            "mode": "enforce",
            "action": "kill",
            "outcome": "done",
            "scope": "cgroup",
            "cgroup": "/a",
            "processes": 17,
            "detect_ms": 0.8,
            "respond_ms": 2.1,
        },
    }


def test_a_connection() -> None:
    event = NetworkConnection(
        **COMMON,
        protocol="tcp",
        destination_ip="2001:db8::1",
        destination_port=22,
        destination_scope="external",
        source_ip="::1",
        source_port=0,
        container_id="c" * 64,
        kubernetes_pod="p-1",
    )
    alert = alert_of(event)
    assert alert["event"]["category"] == ["network"] and alert["event"]["action"] == "connect"
    assert alert["destination"] == {"ip": "2001:db8::1", "port": 22}
    assert alert["source"] == {"ip": "::1", "port": 0}
    assert alert["network"] == {"transport": "tcp"}
    assert alert["container"] == {"id": "c" * 64}
    assert alert["orchestrator"]["resource"] == {"type": "pod", "id": "p-1"}
    assert "connected to [2001:db8::1]:22 (external tcp) in container cccccccccccc" in alert["event"]["reason"]


PEER = {"protocol": "tcp", "destination_ip": "203.0.113.9", "destination_port": 443, "source_port": 4000}
RELAY: dict[str, Any] = {"relay_ip": "::1", "relay_port": 22, "relay_scope": "loopback", "relay_initiated": True}


def test_first_words() -> None:
    event = NetworkPayload(
        **COMMON,
        **PEER,
        application_protocol="tls",
        tls_server_name="pool.example",
        tls_ja4="t13d1516h2_8daaf6152771_b186095e22b6",
        tls_alpn=["h2"],
    )
    alert = alert_of(event)
    assert alert["event"]["category"] == ["network"] and alert["event"]["action"] == "payload"
    assert alert["network"] == {"transport": "tcp", "protocol": "tls"}
    assert alert["tls"]["client"] == {
        "server_name": "pool.example",
        "ja4": "t13d1516h2_8daaf6152771_b186095e22b6",
    }
    assert " spoke tls with 203.0.113.9:443 (tcp) in " in alert["event"]["reason"]
    event = NetworkPayload(
        **COMMON, **PEER, application_protocol="http", http_method="GET", http_host="a", http_path="/"
    )
    assert alert_of(event)["http"] == {"request": {"method": "GET"}}
    assert alert_of(event)["url"] == {"domain": "a", "path": "/"}


def test_a_flow() -> None:
    event = NetworkFlow(**COMMON, **PEER, bytes_out=10, bytes_in=20, packets_out=1, packets_in=2, duration=1.5)
    alert = alert_of(event)
    assert alert["event"]["category"] == ["network"] and alert["event"]["action"] == "flow"
    assert alert["event"]["duration"] == 1_500_000_000
    assert alert["source"] == {"port": 4000, "bytes": 10, "packets": 1}
    assert alert["destination"] == {"ip": "203.0.113.9", "port": 443, "bytes": 20, "packets": 2}
    assert "sent 10 and received 20 bytes, the peer being 203.0.113.9:443 (tcp)" in alert["event"]["reason"]


def test_a_relay() -> None:
    event = NetworkRelay(**COMMON, **PEER, **RELAY, relay_exchanges=3, relay_turns=2, relay_bytes_in=10)
    alert = alert_of(event)
    assert alert["event"]["category"] == ["network"] and alert["event"]["action"] == "relay"
    assert alert["destination"] == {"ip": "203.0.113.9", "port": 443}
    assert alert["relay"]["ip"] == "::1" and alert["relay"]["bytes"] == {"in": 10}
    said = "relayed between 203.0.113.9:443 (tcp) and [::1]:22 (loopback), 3 times"
    assert said in alert["event"]["reason"]
    event.relay_initiated, event.relay_ip = False, "10.0.0.9\nforged"
    assert r"and 10.0.0.9\nforged, which connected to its port 22, 3 times" in alert_of(event)["event"]["reason"]


def test_a_name_looked_up() -> None:
    event = DnsQuery(**COMMON, query_name="pool.example", query_type="A", query_results=["203.0.113.9"])
    alert = alert_of(event)
    assert alert["event"]["category"] == ["network"] and alert["event"]["action"] == "dns-query"
    assert alert["dns"] == {
        "question": {"name": "pool.example", "type": "A"},
        "answers": {"data": ["203.0.113.9"]},
    }
    assert " looked up pool.example (A) in " in alert["event"]["reason"]


@pytest.mark.parametrize("category", CLASSES)
def test_every_category_makes_an_alert_and_a_sentence_of_nothing(category: str) -> None:
    alert = alert_of(CLASSES[category](time=0))
    assert alert["event"]["category"] and alert["event"]["reason"].startswith("a process ")


def test_a_device() -> None:
    event = DeviceOpen(**COMMON, device_class="nvidia", device_major=195, device_minor=0, slurm_job_id="7", denied=True)
    alert = alert_of(event)
    assert alert["event"]["category"] == ["host"] and alert["event"]["action"] == "device-open"
    assert alert["device"] == {"class": "nvidia", "major": 195, "minor": 0}
    assert alert["slurm"] == {"job": {"id": "7"}}
    assert "was kept from opening nvidia 195:0 in Slurm job 7" in alert["event"]["reason"]


def test_what_there_is_nothing_to_say_of_is_left_out() -> None:
    alert = alert_of(ProcessCreation(time=0), Outcome(mode="monitor", action="alert", outcome="none"))
    assert set(alert) == {"@timestamp", "event", "rule", "threat", "host", "response"}
    assert alert["response"] == {"mode": "monitor", "action": "alert", "outcome": "none"}


EVENTS = [
    ProcessCreation(**COMMON),
    NetworkConnection(**COMMON, destination_ip="10.0.0.1", destination_port=1, protocol="tcp"),
    NetworkConnection(**COMMON, destination_ip="10.0.0.1", destination_port=2, protocol="tcp"),
    NetworkPayload(**COMMON, **PEER),
    NetworkPayload(**COMMON, **{**PEER, "source_port": 4001}),
    NetworkFlow(**COMMON, **PEER, duration=0.25),
    NetworkRelay(**COMMON, **PEER, **RELAY, relay_turns=1),
    NetworkRelay(**COMMON, **PEER, **RELAY, relay_turns=3),
    DnsQuery(**COMMON, query_name="a", query_type="A", query_results=[]),
    DnsQuery(**COMMON, query_name="a", query_type="AAAA"),
    DeviceOpen(**COMMON, device_major=195, device_minor=0),
    DeviceOpen(**COMMON, device_major=195, device_minor=1),
]


def test_a_replay_gives_the_same_ids_and_other_events_give_others() -> None:
    live = [alert_of(event)["event"]["id"] for event in EVENTS]
    replayed = [alert_of(from_record(json.loads(encode(to_record(event)))))["event"]["id"] for event in EVENTS]
    assert live == replayed and len(set(live)) == len(live)
    other_rule = Verdict(rule=RuleInfo(id="x", title="Other"), event=EVENTS[0])
    assert to_alert(other_rule, DONE)["event"]["id"] != live[0]


HOSTILE = st.text(st.characters(codec=None), max_size=3000)


@given(HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=3))
def test_hostile_text_gives_one_valid_line_and_a_harmless_sentence(name: str, text: str, args: list[str]) -> None:
    event = ProcessCreation(
        time=1, process_id=1, image=f"/{name}", command_line=text, args=args, cgroup_path=text, user=name, agent=text
    )
    verdict = Verdict(rule=RULE, event=event)
    line = encode(to_alert(verdict, DONE))
    assert len(line.decode().splitlines()) == 1
    assert orjson.loads(line)["event"]["kind"] == "alert"
    sentence = reason(verdict)
    assert sentence.isprintable() and len(sentence) <= 600


@pytest.mark.parametrize("forged", ["\u202egnp.exe", "a\nb", "\x1b[2J", "\u2028"])
def test_control_and_direction_marks_are_escaped_in_the_sentence(forged: str) -> None:
    event = ProcessCreation(time=1, command_line=forged, image="/bin/x")
    assert forged.encode("unicode_escape").decode() in reason(Verdict(rule=RULE, event=event))


def test_a_verdict_s_detail_ends_the_reason_and_forges_nothing() -> None:
    event = ProcessCreation(**COMMON)
    said = reason(Verdict(rule=RULE, event=event, detail="known: 2\nforged"))
    assert said == reason(Verdict(rule=RULE, event=event)) + r" (known: 2\nforged)"
    assert len(reason(Verdict(rule=RULE, event=event, detail="x" * 1000))) <= 600
