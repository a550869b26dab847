"""Mining by behaviour: what a miner's flow looks like minute by minute, and what else nearly looks like it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from sensor.cli.replay import replay
from sensor.events import NetworkFlow, from_record, to_record
from sensor.match.mining import EXTERNAL, PRIVATE, RULES, SERVICE, Mining, Thresholds
from sensor.verdict import RuleInfo

MINUTE = 60_000_000_000


def report(minute: int, **other: Any) -> NetworkFlow:
    """A minute of a Monero miner: five shares and their answers, a job."""
    fields: dict[str, Any] = {
        "time": minute * MINUTE,
        "process_guid": "p1",
        "cgroup_id": 7,
        "cgroup_path": "/rome.slice",
        "initiated": True,
        "protocol": "tcp",
        "destination_ip": "203.0.113.9",
        "destination_port": 443,
        "destination_scope": "external",
        "source_port": 40000,
        "application_protocol": "unknown",
        "duration": minute * 60.0,
        "flows": 0,
        "bytes_out": 5 * 300 + 6 * 52,
        "bytes_in": 5 * 120 + 460 + 5 * 52,
        "packets_out": 11,
        "packets_in": 11,
        "cpu_cores": 1.9,
    }
    return NetworkFlow(**fields | other)


def judged(minutes: int = 30, mining: Mining | None = None, **other: Any) -> list[tuple[int, RuleInfo]]:
    """(minute, rule) of each verdict on a flow that goes on so."""
    mining = mining or Mining()
    found = []
    for minute in range(1, minutes + 1):
        found += [(minute, verdict.rule) for verdict in mining.match(report(minute, **other))]
    return found


def test_a_miner_is_told_once_after_ten_minutes() -> None:
    assert judged() == [(10, EXTERNAL)]


def test_no_verdict_does_more_than_alert() -> None:
    assert {rule.action for rule in RULES} == {"alert"} and len({rule.id for rule in RULES}) == 3
    assert [rule.level for rule in RULES] == ["high", "medium", "low"]


def test_a_gpu_miner_whose_cpu_is_idle() -> None:
    assert judged(cpu_cores=0.05, gpu_utilisation=98.0) == [(10, EXTERNAL)]


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        ({"destination_scope": "private"}, PRIVATE),
        ({"destination_port": 5432}, SERVICE),
        ({"application_protocol": "tls"}, SERVICE),
    ],
)
def test_what_may_be_something_else_is_less_sure(other: dict[str, Any], rule: RuleInfo) -> None:
    assert judged(**other) == [(10, rule)]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"application_protocol": "tls", "destination_hostname": "api.wandb.ai"}, id="tracker"),
        pytest.param({"application_protocol": "http", "destination_scope": "private"}, id="metrics pushed, long poll"),
        pytest.param({"initiated": False}, id="metrics scraped, Jupyter's websocket: the browser opened it"),
        pytest.param({"application_protocol": "http", "cpu_cores": 8.0}, id="Jupyter kernel gateway, ray over gRPC"),
        pytest.param({"application_protocol": "ssh"}, id="SSH session"),
        pytest.param({"application_protocol": None}, id="older than the sensor"),
        pytest.param({"application_protocol": "tls", "destination_scope": "private"}, id="TLS inside the site"),
        pytest.param({"cpu_cores": 0.3}, id="a chat beside nothing"),
        pytest.param({"cpu_cores": 0.3, "gpu_utilisation": 40.0}, id="inference now and then"),
        pytest.param({"cpu_cores": None}, id="usage unknown"),
        pytest.param({"bytes_in": 40_000_000, "packets_in": 27_000}, id="NCCL, a database's rows, data loading"),
        pytest.param({"bytes_out": 300_000, "packets_out": 210}, id="logs shipped"),
        pytest.param({"bytes_out": 4 * 55, "packets_out": 4, "bytes_in": 220, "packets_in": 4}, id="keep-alives"),
        pytest.param({"packets_in": 1, "bytes_in": 300}, id="one-way"),
        pytest.param({"destination_scope": "loopback"}, id="a sidecar"),
        pytest.param({"destination_scope": "metadata"}, id="metadata"),
        pytest.param({"protocol": "udp"}, id="datagrams"),
    ],
)
def test_near_misses(other: dict[str, Any]) -> None:
    assert judged(**other) == []


def test_eight_reports_must_follow_one_another() -> None:
    mining = Mining()
    found = []
    for minute in range(1, 60):
        other = {"cpu_cores": 0.1} if minute % 7 == 0 else {}
        found += mining.match(report(minute, **other))
    assert not found, "a job that idles now and then is no miner"


def test_a_long_flow_that_turns_quiet_and_busy_is_told_after_eight_minutes() -> None:
    mining = Mining()
    busy = [
        minute for minute in range(1, 40) for _ in mining.match(report(minute, cpu_cores=0.0 if minute < 20 else 1.0))
    ]
    assert busy == [27]


def test_a_new_connection_begins_anew() -> None:
    mining = Mining()
    for minute in range(1, 8):
        assert not mining.match(report(minute))
    assert not mining.match(report(8, flows=1))
    assert judged(9, mining, source_port=40001) == []
    assert judged(12, mining, source_port=40002) == [(10, EXTERNAL)]


def test_other_thresholds() -> None:
    mining = Mining(Thresholds(duration_s=120, reports=2, scopes=("loopback",)))
    assert judged(5, mining, destination_scope="loopback") == [(2, EXTERNAL)]


def test_flows_without_end_are_bounded_and_counted() -> None:
    mining = Mining(limit=10)
    for port in range(25):
        mining.match(report(1, source_port=port))
    assert mining.evicted == 15


def test_a_recording_is_judged_alike() -> None:
    mining = Mining()
    events = [from_record(to_record(report(minute))) for minute in range(1, 12)]
    assert [v.rule for event in events for v in mining.match(event)] == [EXTERNAL]


def test_replay_raises_the_alert(tmp_path: Path) -> None:
    recording, alerts = tmp_path / "events.jsonl", tmp_path / "alerts.jsonl"
    recording.write_bytes(b"".join(orjson.dumps(to_record(report(minute))) + b"\n" for minute in range(1, 30)))
    done = CliRunner().invoke(replay, [str(recording), "--alerts", str(alerts)])
    assert done.exit_code == 0, done.output
    (alert,) = [orjson.loads(line) for line in alerts.read_bytes().splitlines()]
    assert (alert["rule"]["id"], alert["rule"]["level"]) == (EXTERNAL.id, "high")
    assert alert["response"]["outcome"] == "none" and alert["destination"]["ip"] == "203.0.113.9"


def test_the_page_names_the_built_in_findings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "RULES.md").read_text()
    assert set(re.findall(r"^\| (Mining by behaviour: .+?) \| (\w+) \|", page, re.M)) == {
        (r.title, r.level) for r in RULES
    }
