"""Files with faults, nodes that are not ready, and names that were chosen to do harm."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sensor_helpers import (
    AS_NOBODY,
    HOSTBRAKE,
    Launch,
    alerts_of,
    answers,
    hostbrake,
    json_lines,
    members,
    mining,
    wait_for,
)

from sensor.cli.staging import start_in
from sensor.events import from_record

pytestmark = pytest.mark.kernel


Refused = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def refused(cgroup: Path, tmp_path: Path, state_dir: Path) -> Refused:
    """A `run` that is expected to be refused; whatever it says, it must have made and attached nothing."""
    (tmp_path / "agents.d").mkdir()

    def refused(*options: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        own = [f"--cgroup-root={cgroup}", f"--alerts={tmp_path}/alerts.jsonl", f"--events={tmp_path}/events.jsonl"]
        own += [f"--control-socket={tmp_path}/control.sock", f"--state-dir={state_dir}", "--config=/dev/null"]
        done = hostbrake("run", *own, f"--agents={tmp_path}/agents.d", *options, before=before)
        assert "Traceback" not in done.stderr and not done.stdout
        assert not {path.name for path in tmp_path.iterdir()} & {"alerts.jsonl", "events.jsonl", "control.sock"}
        shown = subprocess.run(["bpftool", "cgroup", "show", cgroup], capture_output=True, text=True, check=True)
        assert not shown.stdout.strip()
        return done

    return refused


def test_every_fault_of_every_file_in_one_run(refused: Refused, tmp_path: Path) -> None:
    config, agents, rules = tmp_path / "sensor.yml", tmp_path / "agents.d", tmp_path / "rules"
    rules.mkdir()
    wrong = "kills_per_minute: 0\nstate_dir: /a\nstate_dir: /b\ncolour: red\n"
    config.write_text(f"mode: enforced\nrules: [{rules}]\n{wrong}")
    (agents / "a.yml").write_text("agent: a\npurpose: x\nagent: b\nmatch: [{cgroup: /x}]\n")
    (agents / "b.yml").write_text("agent: [\n")
    (rules / "one.yml").write_text("title: one\ntitle: two\ndetection: {}\n")
    (rules / "two.yml").write_text(
        "title: two\nlogsource: {product: linux}\ndetection:\n  a: {Image|nope: x}\n  condition: b\n"
    )
    done = refused(f"--config={config}", "--gpu-majors=9999")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    expected = [
        f"{agents}/a.yml:1: ",  # no owner
        f"{agents}/a.yml:3: duplicate key 'agent'",
        f"{agents}/b.yml:",
        f"{config}:1: mode: 'enforced' is not one of monitor, enforce",
        f"{config}:3: kills_per_minute: must be at least 1, not 0",
        f"{config}:5: duplicate key 'state_dir'",
        f"{config}:6: ",
        f"{rules}/one.yml:2: duplicate key 'title'",
        f"{rules}/two.yml:",
        "command line: gpu_majors",
    ]
    for start in expected:
        assert any(line.startswith(start) for line in lines), (start, lines)
    places = (str(agents), str(config), str(rules), "command line:")
    assert all(line.startswith(places) for line in lines)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--nope"], 2, "No such option"),
        (["--mode=hard"], 2, "'hard' is not one of"),
        (["--gpu-majors=195,x"], 2, "give numbers with commas between them"),
        (["--gpu-majors=0"], 2, "command line: gpu_majors"),
        (["--config=/nonexistent.yml"], 2, "/nonexistent.yml: cannot be read: No such file or directory"),
        (["--rules=/nonexistent"], 2, "'/nonexistent' is no directory"),
        (["--agents=/nonexistent"], 2, "/nonexistent: is no directory"),
        (["--cgroup-root=/nonexistent"], 2, "'/nonexistent' is no directory"),
        (["extra"], 2, "unexpected extra argument"),
        (["--backend=bcc"], 1, "hostbrake: the bcc backend comes in a later version; use --backend core"),
        (["--cgroup-root=/tmp"], 1, "hostbrake: /tmp is no cgroup v2 directory; name one with --cgroup-root"),
        (["--alerts=/nonexistent/a"], 1, "hostbrake: /nonexistent/a: No such file or directory"),
        (["--control-socket=/proc/x/y"], 1, "hostbrake: the control socket /proc/x/y cannot be made: "),
        (["--control-socket=/tmp/" + "x" * 200], 1, "cannot be made: AF_UNIX path too long"),
        (["--pin-dir=/x", "--no-pin", "--backend=bcc"], 1, "later version"),
    ],
)
def test_what_cannot_be_run(refused: Refused, options: list[str], code: int, says: str) -> None:
    done = refused(*options)
    assert done.returncode == code and says in done.stderr, done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1


def test_a_recording_that_cannot_be_opened(cgroup: Path, tmp_path: Path) -> None:
    options = [f"--{name}={tmp_path}/{name}" for name in ("alerts", "control-socket", "state-dir")]
    done = hostbrake("run", f"--cgroup-root={cgroup}", "--config=/dev/null", *options, "--events=/nonexistent/e")
    assert (done.returncode, done.stderr) == (1, "hostbrake: /nonexistent/e: No such file or directory\n")
    assert not (tmp_path / "control-socket").exists()


def test_a_cgroup_that_is_mounted_elsewhere_too(cgroup: Path, tmp_path: Path) -> None:
    """Its path says nothing of where it is in the hierarchy; its id does."""
    (tmp_path / "bound").mkdir()
    code = f'mount --bind "{cgroup}" "{tmp_path}/bound" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", code, "sh", *HOSTBRAKE, "run", f"--cgroup-root={tmp_path}/bound"]
    names = {"alerts": "alerts.jsonl", "control-socket": "control.sock", "state-dir": "state", "agents": "agents.d"}
    (tmp_path / "agents.d").mkdir()
    command += [
        "--config=/dev/null",
        "--mode=enforce",
        *(f"--{name}={tmp_path}/{path}" for name, path in names.items()),
    ]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_for(lambda: '"event":"ready"' in (tmp_path / "log").read_text() or process.poll() is not None, "ready")
            assert process.poll() is None, (tmp_path / "log").read_text()
            work = cgroup / "work"
            work.mkdir()
            deed = start_in(work, mining(tmp_path))
            assert (
                wait_for(lambda: alerts_of(tmp_path / "alerts.jsonl", work), "an alert")[0]["response"]["outcome"]
                == "done"
            )
            assert deed.wait(10) == -signal.SIGKILL
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_not_root(refused: Refused) -> None:
    done = refused(before=AS_NOBODY)
    assert (done.returncode, done.stderr) == (1, "hostbrake: not root; run as root, for example with sudo\n")


@contextmanager
def room_for_arguments() -> Iterator[None]:
    """execve(2) allows argv a quarter of the stack's limit, up to 6 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


BECOME = "import os, sys; os.execv(os.fsencode(sys.argv[1]), [os.fsencode(arg) for arg in sys.argv[2:]])"

HOSTILE = {
    "newlines": ["a\nb", "{}\n{}\n", "\r\n", "\u2028\u2029\x85"],
    "controls": ["".join(map(chr, range(1, 32))) + "\x7f", "\x1b]0;title\x07\x1b[31mred"],
    "not UTF-8": [b"\xff\xfe\x80", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"],
    "looks like JSON": ['"}', '","event":{"kind":"forged"},"x":"', "\\", '\\"', "\\u0000", "null"],
    "bidirectional": ["\u202egnp.exe", "\ufeff", "\U0001f4a9"],
    "empty": ["", "", ""],
    "megabytes": ["x" * 131_000] * 16,
    "many": ["y"] * 100_000,
}


@pytest.fixture
def long_path(tmp_path: Path) -> Path:
    """A miner at a path of about 4,000 bytes; made from below, since no system call takes a longer one."""
    back = Path.cwd()
    name = "n" * 200
    path = tmp_path
    os.chdir(tmp_path)
    try:
        while len(str(path)) + len(name) < 4000:
            Path(name).mkdir()
            os.chdir(name)
            path /= name
        shutil.copy(os.path.realpath("/bin/true"), "xmrig")
    finally:
        os.chdir(back)
    return path / "xmrig"


def test_hostile_names_are_one_valid_line_each(launch: Launch, cgroup: Path, tmp_path: Path, long_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    sensor = launch(f"--events={events}")
    program = tmp_path / "xmrig"
    shutil.copy(os.path.realpath("/bin/true"), program)
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b'/new\nline "\xff\x01'))
    directory.mkdir()
    shutil.copy(program, directory / "xmrig")
    cases: list[tuple[Path, list[Any]]] = [(program, arguments) for arguments in HOSTILE.values()]
    cases += [(directory / "xmrig", ["x"]), (long_path, ["x"])]
    with room_for_arguments():
        for path, arguments in cases:
            assert start_in(cgroup, [path, *arguments]).wait(60) == 0
        for name in ('{"event":{"kind":"forged"}}', '"}\n{"x":"', "\n", b"\xff"):
            assert start_in(cgroup, [sys.executable, "-S", "-c", BECOME, program, name, "x"]).wait(60) == 0
    wait_for(lambda: len(alerts_of(sensor.alerts)) == len(cases) + 4, "an alert each")
    assert answers(sensor)
    assert sensor.stop() == 0

    alerts = [
        alert for alert in json_lines(sensor.alerts) if alert["rule"]["name"] == "Cryptocurrency miner by its name"
    ]
    assert {alert["event"]["kind"] for alert in alerts} == {"alert"} and len(alerts) == len(cases) + 4
    for alert, (path, arguments) in zip(alerts, cases, strict=False):
        expected = [os.fsencode(arg).decode(errors="backslashreplace") for arg in (path, *arguments)]
        found = alert["process"]["args"]
        whole = len("\0".join(expected).encode()) < 4096
        assert found == expected if whole else expected[: len(found) - 1] == found[:-1]
        assert alert["process"]["executable"] == os.fsencode(path).decode(errors="backslashreplace")
        assert alert["event"]["reason"].isprintable() and len(alert["event"]["reason"]) <= 600
    recorded = json_lines(events)
    assert sum(event["Image"].endswith("/xmrig") for event in recorded) == len(cases) + 4
    truncated = [event.get("Truncated", False) for event in recorded if event["Image"].endswith("/xmrig")]
    assert truncated == [name in ("megabytes", "many") for name in HOSTILE] + [False] * 6
    for event in recorded:
        from_record(event)


@pytest.mark.parametrize("name", [b"w\xff\xfe", b'"}{', b"tab\there", b"\x01\x1b[31m", b"back\\slash", b"sp ace"])
def test_a_cgroup_with_a_hostile_name_is_killed(launch: Launch, cgroup: Path, tmp_path: Path, name: bytes) -> None:
    sensor = launch("--mode=enforce")
    work = Path(os.fsdecode(os.fsencode(cgroup) + b"/" + name))
    work.mkdir()
    deed = start_in(work, mining(tmp_path))
    (alert,) = wait_for(lambda: alerts_of(sensor.alerts), "an alert")
    assert alert["response"]["outcome"] == "done" and not members(work)
    assert deed.wait(10) == -signal.SIGKILL
    assert alert["cgroup"] == {
        "id": work.stat().st_ino,
        "path": f"/{cgroup.name}/" + name.decode(errors="backslashreplace"),
    }


def test_the_kernel_refuses_a_newline_in_a_cgroups_name(cgroup: Path) -> None:
    """And so no test above has one."""
    with pytest.raises(OSError, match="Invalid argument"):
        (cgroup / "new\nline").mkdir()
