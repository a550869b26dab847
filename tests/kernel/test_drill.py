"""`hostbrake drill` against live sensors: what it measures, what it says of what was missed, and whom it spares."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from respond_helpers import is_dead, spawn_in
from sensor_helpers import HOSTBRAKE, Launch, alerts_of, hostbrake, mining, status_of, wait_for

from sensor.cli.staging import Sensor, start_in
from sensor.config import shipped_rules_dir
from sensor.control import ControlError, ask
from sensor.node import cgroup2_mount

pytestmark = pytest.mark.kernel

ALL = ["reverse tunnel", "miner", "GPU open", "denied connect", "kill switch"]
LIMITS = ("--auto-limit", "30", "--kill-limit", "60")


@pytest.fixture
def rome(cgroup: Path, tmp_path: Path) -> Path:
    """A directory of one agent, whose cgroup is `cgroup`/rome."""
    directory = tmp_path / "agents.d"
    directory.mkdir()
    (directory / "rome.yml").write_text(
        "agent: rome\npurpose: test\nowner: {name: Ada Example, notify: ['mailto:ada@example.org']}\n"
        f"match: [{{cgroup: '/{cgroup.name}/rome/**'}}]\ngpu: {{allow: false}}\negress: {{default: deny}}\n"
    )
    (cgroup / "rome").mkdir()
    return directory


def drill(socket: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = hostbrake("drill", f"--control-socket={socket}", "--config=/dev/null", "--json", *LIMITS, *options)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (only,) = report["drills"]
    return {result["behaviour"]: result for result in only["results"]}


def recorded(state: Path) -> list[dict[str, Any]]:
    done = hostbrake("audit", "show", "--trail", state / "audit", "--json", "--kind", "drill")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def leftovers(within: Path) -> list[str]:
    places = (within, Path("/dev"))
    return [str(path) for place in places for path in place.glob("hostbrake-drill-*")]


def in_the_report(state: Path, agents: Path, stopped: dict[str, float]) -> None:
    """As a drill that passed, and what its canary did as no incident."""
    done = hostbrake("report", "--json", "--since", "1h", "--state-dir", state, "--agents", agents)
    report = json.loads(done.stdout)
    assert (done.returncode, report["reasons"], report["incidents"]) == (0, [], []), done.stdout
    assert report["overall"]["alerts"] == 0 and report["drills"]["agents"][0]["state"] == "ok"
    (run,) = report["drills"]["runs"]
    assert {one["name"]: one["stopped_ms"] for one in run["behaviours"]} == stopped


def test_all_is_stopped_and_the_real_agent_lives(launch: Launch, cgroup: Path, tmp_path: Path, rome: Path) -> None:
    state = tmp_path / "state"
    sensor = launch("--mode=enforce", f"--state-dir={state}")
    (bystander,) = spawn_in(cgroup / "rome")
    code, report = drill(sensor.socket)
    results = of(report)
    assert code == 0 and report["own_sensor"] is False and list(results) == ALL, report
    for name, result in results.items():
        assert result["passed"] and result["error"] is None and 0 < result["stopped_ms"] <= result["limit_ms"]
        assert name == "kill switch" or result["known_ms"] > 0
    assert not is_dead(bystander.pid) and not leftovers(cgroup)

    alerts = alerts_of(sensor.alerts)
    marked = [alert for alert in alerts if alert.get("labels", {}).get("page") == "nobody"]
    assert {alert["rule"]["name"] for alert in marked} >= {"Destination outside the agent's limits"}
    assert {alert["workload"]["agent"] for alert in marked} == {"rome"} and len(
        {a["labels"]["drill"] for a in marked}
    ) == 1
    assert all(
        alert["event"]["reason"].startswith("drill: ") and "~" not in alert["event"]["reason"] for alert in marked
    )
    assert not [alert for alert in alerts if alert["event"]["action"] == "drill"]

    *each, summary = recorded(state)
    assert [record["behaviour"] for record in each] == ALL and all(record["passed"] for record in each)
    assert {record["agent"] for record in each} == {"rome"} == {summary["agent"]}
    assert (summary["summary"], summary["passed"], summary["behaviours"]) == (True, True, len(ALL))
    assert json.loads((state / "drills.json").read_text())["rome"]["passed"] > time.time() - 600
    in_the_report(state, rome, {name: result["stopped_ms"] for name, result in results.items()})
    status = status_of(sensor)
    assert status["agents"] == 1 and status["profiles"]["agents"] <= 1


def test_again_at_once_and_paging_where_asked(launch: Launch, rome: Path) -> None:
    sensor = launch("--mode=enforce")
    assert drill(sensor.socket, "rome")[0] == 0
    assert drill(sensor.socket, "rome", "--page")[0] == 0, "equal alerts of another drill are no repeats"
    labels = [alert["labels"] for alert in alerts_of(sensor.alerts) if "labels" in alert]
    assert {"page" in label for label in labels} == {True, False}


def test_monitor_mode_is_known_and_no_success(launch: Launch, tmp_path: Path, rome: Path) -> None:
    state = tmp_path / "state"
    sensor = launch("--mode=monitor", f"--state-dir={state}")
    code, report = drill(sensor.socket)
    results = of(report)
    assert code == 1 and results.pop("kill switch")["passed"]
    for result in results.values():
        assert result["known_ms"] > 0 and result["stopped_ms"] is None and not result["passed"]
        assert "monitor mode stops nothing" in result["error"]
    assert recorded(state)[-1]["passed"] is False
    (told,) = (alert for alert in alerts_of(sensor.alerts) if alert["event"]["action"] == "drill")
    assert told["workload"]["agent"] == "rome" and "page" not in told["labels"]


def test_what_no_rule_sees_is_missed(launch: Launch, tmp_path: Path, rome: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(shipped_rules_dir(), rules)
    for name in ("miner_program.yml", "stratum_argument.yml", "miner_arguments.yml", "miner_arguments_complete.yml"):
        next(rules.rglob(name)).unlink()
    sensor = launch("--mode=enforce", f"--rules={rules}", f"--state-dir={tmp_path / 'state'}")
    code, report = drill(sensor.socket, "--auto-limit", "3")
    failed = {name: result["error"] for name, result in of(report).items() if not result["passed"]}
    assert code == 1 and failed == {"miner": "missed: no alert came"}


def test_too_late_is_no_success(launch: Launch, rome: Path) -> None:
    sensor = launch("--mode=enforce")
    code, report = drill(sensor.socket, "--auto-limit", "0.00001", "--kill-limit", "0.00001")
    assert code == 1 and all(result["error"].startswith("too late: ") for result in of(report).values())


def test_what_an_agent_may_do_is_not_tried(launch: Launch, cgroup: Path, rome: Path) -> None:
    (rome / "rome.yml").write_text(
        "agent: rome\npurpose: test\nowner: {name: A, notify: ['mailto:a@example.org']}\n"
        f"match: [{{cgroup: '/{cgroup.name}/rome'}}]\ngpu: {{allow: true}}\n"
        "egress: {default: deny, allow: ['127.0.0.0/8']}\n"
    )
    code, report = drill(launch("--mode=enforce").socket)
    assert code == 0 and list(of(report)) == ["reverse tunnel", "miner", "kill switch"]


def test_without_a_sensor_it_starts_one_and_keeps_the_record(cgroup: Path, tmp_path: Path, rome: Path) -> None:
    config = tmp_path / "sensor.yml"
    settings = {"mode": "enforce", "agents": rome, "state_dir": tmp_path / "state", "alerts": tmp_path / "alerts.jsonl"}
    settings["control_socket"] = tmp_path / "none.sock"
    config.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    done = hostbrake("drill", f"--config={config}", *LIMITS)
    assert done.returncode == 0 and "No sensor runs" in done.stderr, done.stdout + done.stderr
    assert "rome, owner Ada Example, enforce mode" in done.stdout and done.stdout.count("passed") >= len(ALL)
    assert recorded(tmp_path / "state")[-1]["passed"] and not leftovers(cgroup2_mount())


def test_interrupted_it_leaves_nothing_and_is_no_success(
    launch: Launch, cgroup: Path, tmp_path: Path, rome: Path
) -> None:
    state = tmp_path / "state"
    sensor = launch("--mode=enforce", f"--state-dir={state}")
    command = [*HOSTBRAKE, "drill", f"--control-socket={sensor.socket}", "--config=/dev/null"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        wait_for(lambda: any(cgroup.glob("hostbrake-drill-*/reverse-tunnel")), "a canary")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    wait_for(lambda: status_of(sensor)["agents"] == 1, "the double is gone")
    assert not leftovers(cgroup) and recorded(state)[-1]["passed"] is False


def begin(sensor: Sensor, path: str, agent: str = "rome") -> dict[str, Any]:
    return ask(sensor.socket, "drill-begin", agent=agent, cgroup=path)


def test_nothing_but_an_empty_canary_of_its_own_is_drilled(launch: Launch, cgroup: Path, rome: Path) -> None:
    sensor = launch("--mode=enforce")
    named = [cgroup / "hostbrake-drill-full", cgroup / "rome/hostbrake-drill-real", cgroup / "other"]
    for path in named:
        path.mkdir()
    spawn_in(named[0])
    faults: dict[str, Callable[[], object]] = {
        "has processes": lambda: begin(sensor, f"/{cgroup.name}/hostbrake-drill-full"),
        "is of agent rome": lambda: begin(sensor, f"/{cgroup.name}/rome/hostbrake-drill-real"),
        "is named hostbrake-drill-": lambda: begin(sensor, f"/{cgroup.name}/other"),
        "there is no cgroup": lambda: begin(sensor, f"/{cgroup.name}/hostbrake-drill-none"),
        "no agent 'oslo'": lambda: begin(sensor, f"/{cgroup.name}/hostbrake-drill-full", "oslo"),
        "no drill": lambda: ask(sensor.socket, "drill-end", id="x", results=[]),
    }
    for says, asks in faults.items():
        with pytest.raises(ControlError, match=says):
            asks()


def test_a_reload_does_not_end_a_drill(launch: Launch, cgroup: Path, rome: Path) -> None:
    sensor = launch("--mode=enforce")
    (cgroup / "hostbrake-drill-x").mkdir()
    drill_id = begin(sensor, f"/{cgroup.name}/hostbrake-drill-x")["id"]
    number = ask(sensor.socket, "reload")["number"]
    wait_for(lambda: ask(sensor.socket, "reloaded")["number"] == number, "reloaded")
    assert status_of(sensor)["agents"] == 2
    with start_in(cgroup / "hostbrake-drill-x", mining(rome.parent)) as canary:
        assert canary.wait(20) == -signal.SIGKILL
    told = wait_for(lambda: ask(sensor.socket, "drill-alerts", id=drill_id)["alerts"], "its alert")
    assert told[0]["response"]["outcome"] == "done"
    ask(sensor.socket, "drill-end", id=drill_id, results=[])
    assert status_of(sensor)["agents"] == 1


def test_an_overdue_drill_is_an_alert_once_a_day(launch: Launch, tmp_path: Path, rome: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "drills.json").write_text(
        json.dumps({"rome": {"since": 0, "passed": time.time() - 36 * 86_400, "told": 0}})
    )
    for _ in range(2):
        sensor = launch(f"--state-dir={state}")
        wait_for(lambda: json.loads((state / "drills.json").read_text())["rome"]["told"] > 0, "told")
        sensor.stop()
    (told,) = alerts_of(sensor.alerts)
    assert told["rule"]["name"] == "A drill is overdue" and told["workload"]["owner"] == "Ada Example"
    assert "passed a drill 36 days ago" in told["event"]["reason"]
