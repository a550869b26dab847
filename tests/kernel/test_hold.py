"""`kill --hold` and `release`: nothing starts in between, with a sensor or without; what was so before is so after."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from respond_helpers import is_dead, spawn_in, wait_for
from sensor_helpers import Launch, hostbrake, status_of

from sensor.cli.staging import Sensor, start_in

pytestmark = pytest.mark.kernel


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A state directory of the test's own, and a socket where nobody listens."""
    return [f"--state-dir={tmp_path / 'held'}", "--config=/dev/null", f"--control-socket={tmp_path / 'none.sock'}"]


def agents(directory: Path, cgroup: Path, name: str = "rome") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.yml").write_text(
        f"agent: {name}\npurpose: test\nowner: {{name: A, notify: ['mailto:a@example.org']}}\n"
        f"match: [{{cgroup: '/{cgroup.name}/{name}*'}}]\n"
    )
    return directory


def is_held(cgroup: Path) -> bool:
    return (cgroup / "cgroup.freeze").read_text() == "1\n"


def is_frozen(cgroup: Path) -> bool:
    return "frozen 1" in (cgroup / "cgroup.events").read_text()


def marks(cgroup: Path, marker: Path) -> subprocess.Popen[bytes]:
    """A program in `cgroup` that leaves a mark if it ever runs."""
    return start_in(cgroup, ["/usr/bin/touch", marker])


def test_nothing_starts_there_without_a_sensor_until_it_is_released(
    cgroup: Path, tmp_path: Path, options: list[str]
) -> None:
    work = cgroup / "rome"
    (work / "asleep").mkdir(parents=True)
    (work / "asleep/cgroup.freeze").write_text("1")
    (process,) = spawn_in(work)
    known = ["rome", f"--agents={agents(tmp_path / 'agents', cgroup)}", *options]
    done = hostbrake("kill", "--hold", *known)
    assert done.returncode == 0 and is_dead(process.pid), done.stderr
    assert "killed 1 process in 1 cgroup" in done.stdout and "no sensor answers" in done.stdout

    started = marks(work, tmp_path / "mark")
    wait_for(lambda: is_frozen(work) and str(started.pid) in (work / "cgroup.procs").read_text().split(), "it hangs")
    assert not (tmp_path / "mark").exists()
    again = hostbrake("kill", "--hold", *known, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["processes"] == 1
    assert started.wait(10) == -signal.SIGKILL and is_held(work)

    released = hostbrake("release", "rome", *options)
    assert (released.returncode, released.stdout) == (0, "released rome: 1 cgroup thawed\n"), released.stderr
    assert not is_held(work) and is_held(work / "asleep")
    assert marks(work, tmp_path / "mark").wait(10) == 0 and (tmp_path / "mark").exists()
    assert hostbrake("release", "rome", *options).returncode == 1


def test_a_cgroup_is_held_by_its_path(cgroup: Path, options: list[str]) -> None:
    (process,) = spawn_in(cgroup)
    assert hostbrake("kill", "--hold", "--cgroup", cgroup, *options).returncode == 0
    assert is_dead(process.pid) and is_held(cgroup)
    assert hostbrake("release", "--cgroup", f"/{cgroup.name}", *options).returncode == 0
    assert not is_held(cgroup)


def test_all_agents_are_held_and_each_is_released_by_itself(cgroup: Path, tmp_path: Path, options: list[str]) -> None:
    for name in ("rome", "oslo"):
        (cgroup / name).mkdir()
        directory = agents(tmp_path / "agents", cgroup, name)
    assert hostbrake("kill", "--all", "--hold", f"--agents={directory}", *options).returncode == 0
    assert is_held(cgroup / "rome") and is_held(cgroup / "oslo")
    assert hostbrake("release", "rome", *options).returncode == 0
    assert not is_held(cgroup / "rome") and is_held(cgroup / "oslo")


def test_a_remade_cgroup_is_not_thawed_for_the_old_one(cgroup: Path, tmp_path: Path, options: list[str]) -> None:
    work = cgroup / "rome"
    work.mkdir()
    assert hostbrake("kill", "--hold", "--cgroup", work, *options).returncode == 0
    work.rmdir()
    work.mkdir()
    (work / "cgroup.freeze").write_text("1")
    assert hostbrake("release", "--cgroup", work, *options).returncode == 0
    assert is_held(work)


def test_where_the_hold_cannot_be_kept_it_still_kills_and_says_so(cgroup: Path, tmp_path: Path) -> None:
    (process,) = spawn_in(cgroup)
    (tmp_path / "file").touch()
    options = ["--config=/dev/null", f"--state-dir={tmp_path / 'file'}", f"--control-socket={tmp_path / 'none.sock'}"]
    done = hostbrake("kill", "--hold", "--cgroup", cgroup, *options)
    assert done.returncode == 1 and is_dead(process.pid) and is_held(cgroup)
    assert "it cannot be kept" in done.stderr and f"/{cgroup.name}" in done.stderr


@pytest.mark.parametrize("mode", ["monitor", "enforce"])
def test_a_sensor_holds_what_is_made_later(launch: Launch, cgroup: Path, tmp_path: Path, mode: str) -> None:
    state = tmp_path / "state"
    started = [f"--mode={mode}", f"--state-dir={state}"]
    agents(tmp_path / "agents.d", cgroup)
    agents(tmp_path / "agents.d", cgroup, "oslo")
    sensor = launch(*started)
    for name in ("rome", "oslo"):
        (cgroup / name).mkdir()
    (oslo,) = spawn_in(cgroup / "oslo")
    (process,) = spawn_in(cgroup / "rome")
    known = ["--config=/dev/null", f"--state-dir={state}", f"--control-socket={sensor.socket}"]
    done = hostbrake("kill", "rome", "--hold", f"--agents={tmp_path / 'agents.d'}", *known)
    assert done.returncode == 0 and is_dead(process.pid) and "the sensor holds" in done.stdout, done.stderr
    assert status_of(sensor)["held"] == ["rome"] and not is_dead(oslo.pid)
    told = told_of(state, "killed")
    assert told["arguments"]["agents"] == ["rome"] and told["arguments"]["processes"] == 1 and told["uid"] == 0

    (cgroup / "rome-2").mkdir()
    wait_for(lambda: is_held(cgroup / "rome-2"), "a new cgroup is held")
    (cgroup / "rome-2/cgroup.freeze").write_text("0")  # the kernel lets no program begin there all the same
    assert marks(cgroup / "rome-2", tmp_path / "mark").wait(20) == -signal.SIGKILL
    assert marks(cgroup / "oslo", tmp_path / "oslo").wait(20) == 0

    assert sensor.stop() == 0
    (cgroup / "rome-3").mkdir()
    sensor = launch(*started)
    assert status_of(sensor)["held"] == ["rome"]
    wait_for(lambda: is_held(cgroup / "rome-3"), "what was made meanwhile is held")
    assert hostbrake("release", "rome", *known).returncode == 0
    wait_for(lambda: status_of(sensor)["held"] == [], "released")
    for name in ("rome", "rome-2", "rome-3"):
        wait_for(lambda name=name: not is_held(cgroup / name), "thawed")
        assert marks(cgroup / name, tmp_path / name).wait(20) == 0 and (tmp_path / name).exists()
    assert not (tmp_path / "mark").exists()


def told_of(state: Path, command: str) -> dict[str, Any]:
    done = hostbrake("audit", "show", "--trail", state / "audit", "--json", "--kind", "request")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    (found,) = [record for record in records if record["command"] == command]
    return dict(found)


def test_a_sensor_that_does_not_answer_hinders_nothing(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    sensor: Sensor = launch()
    work = cgroup / "work"
    work.mkdir()
    (process,) = spawn_in(work)
    sensor.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{sensor.process.pid}/stat").read_text().split()[2] == "T", "stopped")
    done = hostbrake("kill", "--cgroup", work, f"--control-socket={sensor.socket}", "--json")
    assert done.returncode == 0 and is_dead(process.pid)
    sensor.process.send_signal(signal.SIGCONT)
