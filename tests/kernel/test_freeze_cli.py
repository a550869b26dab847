"""`hostbrake freeze` and `thaw` on live cgroups, with no sensor: exit 0 only when all has stopped, or goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from respond_helpers import MOUNT, is_dead, python_in, spawn_in, wait_for
from sensor_helpers import hostbrake, path_of

from sensor.respond.cases import STATE_FILE, Case, CgroupRef, State
from sensor.verdict import RuleInfo

pytestmark = pytest.mark.kernel

AGENT = "agent: {name}\npurpose: test\nowner: {{name: A, notify: ['mailto://a@example.org']}}\nmatch: {match}\n"
COUNT = """
import sys, time
number = 0
while True:
    number += 1
    with open(sys.argv[1], "w") as file:
        file.write(str(number))
    if number == 1:
        print("counting", flush=True)
    time.sleep(0.002)
"""


@pytest.fixture
def agents(cgroup: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "agents.d"
    directory.mkdir()
    match = f'[{{cgroup: "/{cgroup.name}/rome/**"}}]'
    (directory / "rome.yml").write_text(AGENT.format(name="rome", match=match))
    return directory


def frozen(cgroup: Path) -> bool:
    return "frozen 1" in (cgroup / "cgroup.events").read_text()


def is_stuck(file: Path) -> bool:
    before = file.read_text()
    time.sleep(0.3)
    return file.read_text() == before


def test_a_cgroup_stops_and_goes_on(cgroup: Path, tmp_path: Path) -> None:
    (cgroup / "below").mkdir()
    counter = tmp_path / "count"
    code = f"import sys; sys.argv[1:] = [{str(counter)!r}]\n{COUNT}"
    python_in(cgroup / "below", code)
    spawn_in(cgroup, count=2)
    done = hostbrake("freeze", "--cgroup", cgroup)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("frozen 3 processes in 1 cgroup in ") and done.stdout.endswith(" ms, verified\n")
    assert frozen(cgroup) and is_stuck(counter)
    assert hostbrake("freeze", "--cgroup", cgroup).returncode == 0, "again is no error"
    done = hostbrake("thaw", "--cgroup", f"/{cgroup.name}", "--json", "--state-dir", tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report.pop("ms") > 0
    assert report == {"cgroups": [f"/{cgroup.name}"], "processes": 3, "failed": [], "left": []}
    before = counter.read_text()
    wait_for(lambda: counter.read_text() != before, "it counts on")


def test_nothing_to_thaw_and_no_right_to_act(cgroup: Path) -> None:
    spawn_in(cgroup, count=1)
    done = hostbrake("thaw", "--cgroup", cgroup)
    assert done.returncode == 0 and "nothing of it was frozen" in done.stdout
    for command, word in (("freeze", "frozen"), ("kill", "killed")):
        code = "import sys; from sensor.cli.main import main; sys.argv[0] = 'hostbrake'; main()"
        plain = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            sys.executable,
            "-c",
            code,
            command,
            "--cgroup",
            cgroup,
        ]
        done = subprocess.run(plain, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and word not in done.stdout, done.stdout
        assert f"{path_of(cgroup)}: Permission denied" in done.stderr and "root" in done.stderr


def test_an_agent_and_nobody_else(cgroup: Path, agents: Path, tmp_path: Path) -> None:
    for name in ("rome/a", "rome/b", "oslo"):
        (cgroup / name).mkdir(parents=True)
        spawn_in(cgroup / name)
    options = ("--agents", agents, "--config", "/dev/null")
    done = hostbrake("freeze", "rome", *options)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("frozen 2 processes in 1 cgroup in ")
    assert frozen(cgroup / "rome/a") and frozen(cgroup / "rome/b") and not frozen(cgroup / "oslo")
    (cgroup / "rome/a/cgroup.freeze").write_text("1")  # as the sensor does with a workload of its own
    done = hostbrake("thaw", "rome", *options, "--state-dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("thawed 3 processes in 2 cgroups in ")
    assert not frozen(cgroup / "rome/a") and not frozen(cgroup / "rome/b")
    done = hostbrake("freeze", "roma", *options)
    assert done.returncode == 2 and done.stderr == f"hostbrake: no agent 'roma' in {agents}; known: rome\n"


def test_what_is_frozen_from_above_is_said(cgroup: Path, tmp_path: Path) -> None:
    below = cgroup / "below"
    below.mkdir()
    spawn_in(below)
    for path in (cgroup, below):
        assert hostbrake("freeze", "--cgroup", path).returncode == 0
    done = hostbrake("thaw", "--cgroup", below, "--state-dir", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"not thawed: /{cgroup.name}/below: a cgroup above it is frozen\n" and frozen(below)
    assert hostbrake("thaw", "--cgroup", cgroup, "--state-dir", tmp_path).returncode == 0 and not frozen(below)


@pytest.mark.parametrize("path", ["/", str(MOUNT)])
def test_the_root_is_refused(path: str) -> None:
    done = hostbrake("freeze", "--cgroup", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hostbrake: not frozen: the root cgroup is never acted on\n"


def test_its_own_cgroup_is_refused(cgroup: Path) -> None:
    (bystander,) = spawn_in(cgroup)
    enter = ("/bin/sh", "-c", f'echo $$ > "{cgroup}/cgroup.procs" && exec "$@"', "sh")
    done = hostbrake("freeze", "--cgroup", cgroup, before=enter)
    assert done.returncode == 2 and done.stderr.endswith("holds this command\n")
    assert not frozen(cgroup) and not is_dead(bystander.pid)


@pytest.mark.parametrize("arguments", [(), ("rome", "--cgroup", "/x"), ("--cgroup", "/no/such"), ("--cgroup", "x")])
@pytest.mark.parametrize("command", ["freeze", "thaw"])
def test_bad_usage(command: str, arguments: tuple[str, ...]) -> None:
    done = hostbrake(command, *arguments)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr


def test_what_waits_for_an_answer_is_thawed_with_force_alone(cgroup: Path, tmp_path: Path) -> None:
    """With the sensor dead: its state is read from the file."""
    spawn_in(cgroup)
    assert hostbrake("freeze", "--cgroup", cgroup).returncode == 0
    case = Case(
        id="lusab",
        rule=RuleInfo(id="r", title="Rule"),
        agent="rome",
        owner=None,
        cgroups=[CgroupRef(f"/{cgroup.name}", cgroup.stat().st_ino)],
        event={"category": "process_creation", "time": "2026-01-01T00:00:00Z"},
        wanted="",
        recent=[],
        asked=0,
        deadline=0,
        within_s=900,
    )
    state = tmp_path / STATE_FILE
    state.write_bytes(msgspec.json.encode(State(cases=[case])))
    state.chmod(0o600)
    thaw = ("thaw", "--cgroup", cgroup, "--state-dir", tmp_path, "--config", "/dev/null")
    thaw += ("--control-socket", tmp_path / "none.sock")
    done = hostbrake(*thaw)
    assert done.returncode == 1 and frozen(cgroup)
    assert done.stderr == (
        "hostbrake: not thawed: it waits for an answer; hostbrake approve lusab, or thaw with --force\n"
    )
    state.write_bytes(b"{")
    done = hostbrake(*thaw)
    assert done.returncode == 1 and "cannot be told" in done.stderr and frozen(cgroup)
    state.write_bytes(msgspec.json.encode(State(boot="another boot", cases=[case])))
    assert hostbrake(*thaw).returncode == 0 and not frozen(cgroup)
    state.write_bytes(b"{")
    assert hostbrake("freeze", "--cgroup", cgroup).returncode == 0
    assert hostbrake(*thaw, "--force").returncode == 0 and not frozen(cgroup)
