"""`hostbrake demo`: stages, shows and stops the incident, and leaves nothing behind however it ends."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from sensor_helpers import HOSTBRAKE, wait_for

import sensor.cli.demo
from sensor.cli.demo import demo
from sensor.config import shipped_rules_dir
from sensor.node import cgroup2_mount

pytestmark = pytest.mark.kernel


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def left_behind(pid: int) -> list[str]:
    """What there still is of the demo that process `pid` ran."""
    name = f"hostbrake-demo-{pid}"
    places = (cgroup2_mount(), Path("/dev"), Path(tempfile.gettempdir()))
    found = [str(path) for place in places for path in place.glob(f"{name}*")]
    return found + [line for line in command_lines() if name in line]


class Demo:
    """A demo in a process of its own; `lines` is what it has printed so far."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [*HOSTBRAKE, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(60)
        assert not left_behind(self.process.pid)
        return code


def test_it_stops_all_three_and_says_how_fast() -> None:
    run = Demo()
    assert run.end() == 0, "".join(run.lines)
    text = "".join(run.lines)
    for said in ("reverse tunnel: ", "miner: ", "GPU open: ", " -R 0:127.0.0.1:", "of agent rome-demo"):
        assert said in text
    kills = re.findall(r"killed: (\d+) processes, known after ([\d.]+) ms, verified dead after ([\d.]+) ms", text)
    assert len(kills) == 3
    for processes, known, dead in kills:
        assert int(processes) >= 3 and float(known) <= float(dead)
    assert run.lines[-1] == "Cleaned up: cgroups, processes and files of the demo are gone.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_in_the_middle_leaves_nothing(number: signal.Signals) -> None:
    run = Demo()
    wait_for(lambda: any(line.startswith("reverse tunnel: ") for line in run.lines), "the first act")
    run.process.send_signal(number)
    assert run.end() == 1
    assert run.lines[-1] == "hostbrake: interrupted; what was staged is gone again\n"


@pytest.mark.parametrize("delay_s", [0, 0.15, 0.3])
def test_an_interrupt_at_any_moment_leaves_nothing(delay_s: float) -> None:
    """Also a second and a third, as an impatient person sends them."""
    run = Demo()
    wait_for(lambda: any(str(run.process.pid) in path.name for path in cgroup2_mount().iterdir()), "the stage")
    time.sleep(delay_s)
    for _ in range(3):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert run.end() in (0, 1, -signal.SIGINT)  # one that comes when all is done ends it as it ends any program


def rules_without(tmp_path: Path, *names: str) -> str:
    directory = tmp_path / "rules"
    shutil.copytree(shipped_rules_dir(), directory)
    for name in names:
        next(directory.rglob(name)).unlink()
    return str(directory)


def test_what_a_missing_rule_misses_is_said_and_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = rules_without(tmp_path, "miner_program.yml", "stratum_argument.yml")
    monkeypatch.setattr(sensor.cli.demo, "shipped_rules_dir", lambda: rules)
    monkeypatch.setattr(sensor.cli.demo, "PATIENCE_S", 2.0)
    result = CliRunner().invoke(demo)
    assert result.exit_code == 1, result.output
    assert result.output.splitlines()[-1] == "MISSED: miner"
    assert "no alert came" in result.output and result.output.count("verified dead after") == 2


def test_what_cannot_be_staged_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    result = CliRunner().invoke(demo)
    assert result.exit_code == 1
    assert result.output == "hostbrake: sshd is not installed; install openssh-client and openssh-server\n"
