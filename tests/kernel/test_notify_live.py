"""A live sensor that enforces: the owner of a killed miner is told, once, and nobody else; keys show nowhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import Launch, alerts_of, hostbrake, json_lines, mining, path_of, status_of, wait_for

from sensor.cli.staging import start_in

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from notifying import Phone

pytestmark = pytest.mark.kernel

TOKEN = "hunter2token"
AGENT = """\
agent: {name}
purpose: tests
owner: {{name: {owner}, notify: ["{address}"]}}
match: [{{cgroup: "{cgroup}/**"}}]
"""


@pytest.fixture
def phone() -> Iterator[Phone]:
    found = Phone()
    yield found
    found.close()


@pytest.fixture
def agents(tmp_path: Path, cgroup: Path, phone: Phone) -> dict[str, Path]:
    """Two agents with an owner each, and operators; one address in its file, the others in files of their own."""
    (tmp_path / "agents.d").mkdir()
    kept = tmp_path / "bob.url"
    kept.write_text(phone.url(f"bob-{TOKEN}"))
    kept.chmod(0o600)
    addresses = {"rome": phone.url(f"ada-{TOKEN}"), "oslo": f"file:{kept}"}
    for name, owner in (("rome", "Ada Example"), ("oslo", "Bob Example")):
        text = AGENT.format(name=name, owner=owner, address=addresses[name], cgroup=path_of(cgroup / name))
        (tmp_path / f"agents.d/{name}.yml").write_text(text)
        (cgroup / name).mkdir()
        (cgroup / name / "job").mkdir()
    operators = phone.url(f"ops-{TOKEN}")
    (tmp_path / "sensor.yml").write_text(f'alert_window_s: 0\nnotify: {{operators: ["{operators}"]}}\n')
    (cgroup / "stray").mkdir()
    return {name: cgroup / name / "job" for name in ("rome", "oslo")} | {None: cgroup / "stray"}  # type: ignore[dict-item]


def told(sensor: Any, count: int) -> dict[str, Any]:
    wait_for(lambda: status_of(sensor)["notifications"]["sent"] >= count, f"{count} sent", 60)
    return dict(status_of(sensor)["notifications"])


def test_the_owner_of_a_killed_miner_is_told_and_nobody_else(
    launch: Launch, agents: dict[str, Path], phone: Phone, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    state = f"--state-dir={tmp_path}/state"
    sensor = launch("--mode=enforce", state, f"--events={events}", notify=True)
    miner = start_in(agents["rome"], mining(tmp_path))
    miner.wait(30)
    assert told(sensor, 1)["unacknowledged"] == 1
    assert phone.paths() == [f"/ada-{TOKEN}"]
    alert = alerts_of(sensor.alerts, agents["rome"])[0]
    message = phone.got[0][1]["message"]
    incident = alert["event"]["id"][:10]
    assert "agent rome, owner Ada Example" in message and "verified after" in message
    assert f"Done: killed {path_of(agents['rome'])} (" in message and f"Incident: {incident}" in message

    listed = hostbrake("ack", "--control-socket", sensor.socket)
    assert listed.stdout.startswith(incident) and "NOT acknowledged" in listed.stdout
    done = hostbrake("ack", incident, "--control-socket", sensor.socket)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"{incident}: acknowledged by ")
    again = hostbrake("ack", "nothing", "--control-socket", sensor.socket)
    assert again.returncode == 1 and "there is no incident 'nothing'" in again.stderr
    start_in(agents["rome"], mining(tmp_path)).wait(30)
    start_in(agents[None], mining(tmp_path)).wait(30)  # type: ignore[index]
    assert told(sensor, 2)["unacknowledged"] == 1
    assert phone.paths() == [f"/ada-{TOKEN}", f"/ops-{TOKEN}"]

    test = hostbrake("notify", "oslo", "--control-socket", sensor.socket)
    assert (test.returncode, test.stdout) == (0, "address 1: arrived\n")
    assert phone.paths()[2:] == [f"/bob-{TOKEN}"]
    phone.answer = 500
    test = hostbrake("notify", "--operators", "--control-socket", sensor.socket)
    assert (test.returncode, test.stdout) == (1, "address 1: FAILED: the service answered with status 500\n")
    unknown = hostbrake("notify", "nobody", "--control-socket", sensor.socket)
    assert (unknown.returncode, unknown.stderr) == (1, "hostbrake: there is no agent 'nobody'\n")

    shown = hostbrake("status", "--control-socket", sensor.socket).stdout
    assert "notified" in shown and "2 sent, 0 waiting" in shown
    said = shown + json.dumps(status_of(sensor)) + listed.stdout + test.stdout
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said += process.read_bytes().decode(errors="replace")
        except OSError:  # it has gone
            continue
    assert sensor.stop() == 0
    files = [file for file in (tmp_path / "state").rglob("*") if file.is_file()]
    assert any(file.name == "incidents.json" for file in files)
    trail = [
        json.loads(line) for file in files if file.match("audit/*.jsonl") for line in file.read_text().splitlines()
    ]
    notes = [record for record in trail if record["kind"] == "notification"]
    assert [note["what"] for note in notes] == ["sent", "acknowledged", "sent", "tested"]
    assert notes[0]["to"] == "owner Ada Example" and notes[0]["incidents"] == [incident]
    for file in (sensor.alerts, sensor.log, events, *files):
        said += file.read_bytes().decode(errors="replace")
    assert TOKEN not in said


def test_while_the_network_is_down_the_sensor_kills_and_afterwards_it_is_told(
    launch: Launch, agents: dict[str, Path], phone: Phone, tmp_path: Path
) -> None:
    phone.answer = "hang"
    state = f"--state-dir={tmp_path}/state"
    sensor = launch("--mode=enforce", state, notify=True)
    start_in(agents["rome"], mining(tmp_path)).wait(30)
    wait_for(phone.paths, "under way", 60)
    for _ in range(3):
        start_in(agents["oslo"], mining(tmp_path)).wait(30)
    wait_for(lambda: len(alerts_of(sensor.alerts, agents["oslo"])) >= 3, "killed all the same")
    assert {alert["response"]["outcome"] for alert in json_lines(sensor.alerts)} == {"done"}
    wait_for(lambda: status_of(sensor)["notifications"]["incidents"] == 2, "written down")
    sensor.process.kill()  # in the middle of it
    sensor.process.wait()
    phone.answer = 200
    phone.got.clear()
    phone.gate.set()
    again = launch("--mode=enforce", state, notify=True)
    told(again, 2)
    assert set(phone.paths()) == {f"/ada-{TOKEN}", f"/bob-{TOKEN}"}


def test_check_says_who_cannot_be_reached(tmp_path: Path, cgroup: Path) -> None:
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "sensor.yml").write_text(f"agents: {tmp_path}/agents.d\n")
    for name, address in {"a": f"nosuch://{TOKEN}", "b": f"file:{tmp_path}/none", "c": "json://127.0.0.1"}.items():
        text = AGENT.format(name=name, owner="Ada", address=address, cgroup=path_of(cgroup / name))
        (tmp_path / f"agents.d/{name}.yml").write_text(text)
    done = hostbrake("check", "--json", "--config", tmp_path / "sensor.yml")
    warnings = [says for says in json.loads(done.stdout)["warnings"] if "notify" in says]
    assert warnings == [
        f"agent b: owner.notify[0]: {tmp_path}/none cannot be read: No such file or directory",
        "agent a: owner.notify[0]: apprise knows no such service, or its URL lacks something",
    ]
    assert TOKEN not in done.stdout + done.stderr
