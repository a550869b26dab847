"""The trail of a live sensor: a kill's intent stands before its act, and what it holds can be proven elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import (
    AS_NOBODY,
    Launch,
    alerts_of,
    hostbrake,
    logged,
    members,
    mining,
    path_of,
    status_of,
    wait_for,
    workers_in,
)

from sensor.cli.staging import Sensor, start_in

pytestmark = pytest.mark.kernel


def shown(trail: Path, *options: str) -> list[dict[str, Any]]:
    done = hostbrake("audit", "show", "--trail", trail, "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def verified(trail: Path, *options: str | Path, status: int = 0, **arguments: Any) -> dict[str, Any]:
    done = hostbrake("audit", "verify", "--trail", trail, "--json", *options, **arguments)
    assert done.returncode == status, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def reported(state: Path, cgroup: str, known_ms: float, stopped_ms: float) -> None:
    """The report has the kill, with the very times that its alert has."""
    done = hostbrake("report", "--state-dir", state, "--since", "1h", "--json")
    report = json.loads(done.stdout)
    once = {"count": 1, "median_ms": stopped_ms, "p99_ms": stopped_ms, "worst_ms": stopped_ms}
    assert report["overall"]["stopped"] == once and report["overall"]["known"]["worst_ms"] == known_ms
    (incident,) = report["incidents"]
    assert (incident["outcome"], incident["cgroup"], incident["processes"]) == ("done", cgroup, 3)
    kinds = [step["kind"] for step in incident["steps"]]
    assert kinds == ["event", "verdict", "intent", "action"]
    assert report["trail"]["good"] and report["losses"] == {} and report["watch"]["mode"] == "enforce"


def kill_a_miner(sensor: Sensor, work: Path, directory: Path) -> str:
    """The id of its alert."""
    workers = workers_in(work)
    deed = start_in(work, mining(directory))
    alert = sensor.wait_alert(work)
    assert alert is not None and alert["response"]["outcome"] == "done" and not members(work)
    assert {process.wait(10) for process in (*workers, deed)} == {-signal.SIGKILL}
    identifier: str = alert["event"]["id"]
    return identifier


def test_a_killed_miner(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    trail = state / "audit"
    sensor = launch("--mode=enforce", f"--state-dir={state}")
    alert = kill_a_miner(sensor, cgroup / "work", tmp_path)

    records = wait_for(
        lambda: shown(trail, "--id", alert, "--kind", "action") and shown(trail, "--id", alert), "action"
    )
    assert [record["kind"] for record in records] == ["event", "verdict", "intent", "action"]
    event, verdict, intent, action = records
    assert event["event"]["Image"].endswith("/xmrig") and event["event"]["CgroupPath"] == path_of(cgroup / "work")
    assert verdict["action"] == intent["action"] == action["action"] == "kill"
    assert intent["cgroup"] == action["cgroup"] == path_of(cgroup / "work")
    assert action["intent"] == intent["index"] < action["index"]
    assert (action["outcome"], action["processes"]) == ("done", 3)

    wait_for((trail / "key.pub").exists, "a key")
    key = tmp_path / "sensor.vkey"
    key.write_text(hostbrake("audit", "key", "--trail", trail).stdout)
    bundle = tmp_path / "bundle"
    exported = hostbrake("audit", "export", alert, "--trail", trail, "-o", bundle)  # the sensor still writes
    assert exported.returncode == 0, exported.stderr
    report = verified(trail, "--key", key)
    assert report["responses"] == 1 and report["signed"] > action["index"] and not report["open_intents"]

    proven = verified(Path("/nonexistent"), "--bundle", bundle, "--key", key)
    assert (proven["records"], proven["responses"]) == (4, 1)
    forged = tmp_path / "forged"
    forged.write_bytes(bundle.read_bytes().replace(b"xmrig", b"xmrog"))
    findings = verified(trail, "--bundle", forged, "--key", key, status=1)["findings"]
    assert findings[0]["what"] == "is not in the trail that was signed for"

    told = alerts_of(sensor.alerts, cgroup / "work")[-1]["response"]
    reported(state, path_of(cgroup / "work"), told["detect_ms"], told["respond_ms"])  # the sensor still writes
    assert sensor.stop() == 0
    kinds = [record["kind"] for record in shown(trail)]
    assert (kinds[0], kinds[-1]) == ("start", "stop")
    report = verified(trail, "--key", key)
    assert report["records"] == report["signed"] == len(kinds)


def test_checkpoints_of_the_log_find_a_cut_on_a_copy_without_root(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    sensor = launch("--mode=enforce", f"--state-dir={state}")
    kill_a_miner(sensor, cgroup / "work", tmp_path)
    assert sensor.stop() == 0
    told = logged(sensor, "audit checkpoint")
    assert told[-1]["checkpoint"] == (state / "audit/checkpoint").read_text()
    kept = tmp_path / "kept"
    kept.write_text("".join(line["checkpoint"] + "\n" for line in told))

    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", state / "audit", copy], check=True)
    assert verified(copy, "--checkpoint", kept, before=AS_NOBODY)["signed"] == told[-1]["size"]

    segment = copy / "trail-000000000000.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[: told[0]["size"]]))
    (copy / "checkpoint").write_text(told[0]["checkpoint"])
    (copy / "checkpoints").write_text(told[0]["checkpoint"] + "\n")
    assert verified(copy)["good"]
    report = verified(copy, "--checkpoint", kept, status=1)
    assert [finding["index"] for finding in report["findings"]] == [told[0]["size"] - 1]
    assert "the end is missing" in report["findings"][0]["what"]


def test_what_a_killed_sensor_meant_stands_in_the_trail(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    """SIGKILL right after the alert; the next sensor goes on in the same trail."""
    state = tmp_path / "state"
    sensor = launch("--mode=enforce", f"--state-dir={state}")
    alert = kill_a_miner(sensor, cgroup / "first", tmp_path)
    sensor.process.kill()
    sensor.process.wait(10)
    assert "intent" in [record["kind"] for record in shown(state / "audit", "--id", alert)]
    again = launch("--mode=enforce", f"--state-dir={state}", directory=tmp_path / "again")
    kill_a_miner(again, cgroup / "second", tmp_path)
    assert again.stop() == 0
    report = verified(state / "audit")
    assert report["records"] == report["signed"] and 1 <= report["responses"] <= 2
    assert [record["kind"] for record in shown(state / "audit")].count("start") == 2


def test_two_sensors_do_not_share_a_trail(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = launch(f"--state-dir={state}")
    (tmp_path / "other").mkdir()
    other = Sensor(tmp_path / "other", cgroup, f"--state-dir={state}")
    assert other.process.wait(30) == 1
    assert "another sensor writes the audit trail" in other.log.read_text()
    assert first.stop() == 0


def test_who_asked_at_the_control_socket(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    sensor = launch(f"--state-dir={state}")
    for _ in range(20):
        status_of(sensor)
    asked = shown(state / "audit", "--kind", "request")
    assert len(asked) == 1 and asked[0]["command"] == "status"
    assert (asked[0]["uid"], asked[0]["gid"], asked[0]["pid"]) == (os.getuid(), os.getgid(), os.getpid())
    assert sensor.stop() == 0
    assert sum(record.get("count", 1) for record in shown(state / "audit", "--kind", "request")) >= 21


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "hostbrake-test", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def test_a_full_disk_stops_no_kill_and_is_told(launch: Launch, cgroup: Path, tmp_path: Path, small_disk: Path) -> None:
    trail, filler = small_disk / "audit", small_disk / "filler"
    sensor = launch("--mode=enforce", f"--state-dir={small_disk}")
    wait_for((trail / "checkpoint").exists, "the first checkpoint")
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(b"x" * 4096):
            pass
    for number in range(8):  # what room is left in the last page
        kill_a_miner(sensor, cgroup / f"full{number}", tmp_path)
        if status_of(sensor)["lost"].get("audit.ENOSPC", 0) > 4:
            break
    lost = status_of(sensor)["lost"]["audit.ENOSPC"]
    assert lost > 4
    loss = wait_for(lambda: [a for a in alerts_of(sensor.alerts) if a["event"]["action"] == "loss"], "a loss alert")
    assert "by audit.ENOSPC" in loss[0]["event"]["reason"]

    filler.unlink()
    alert = kill_a_miner(sensor, cgroup / "room", tmp_path)
    wait_for(lambda: len(shown(trail, "--id", alert)) == 4, "all of it is recorded again")
    assert sensor.stop() == 0
    told = [record for record in shown(trail, "--kind", "loss") if record["what"] == "missing"]
    assert sum(record["missing"] for record in told) >= lost
    report = verified(trail)
    assert report["losses"]["ENOSPC"] == sum(record["missing"] for record in told)


def test_a_state_directory_that_cannot_be_written(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    """The trail is missing, and that is told; everything else works."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "audit").write_text("a file in its place")
    sensor = launch("--mode=enforce", f"--state-dir={state}")
    kill_a_miner(sensor, cgroup / "work", tmp_path)
    status = status_of(sensor)
    assert "audit" in status["not_available"]["audit trail"] and status["lost"]["audit.EEXIST"] > 3
    assert sensor.stop() == 0
