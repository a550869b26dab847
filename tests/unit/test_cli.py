"""The command line: every command has its help, wrong usage is said, and `kill` stays light."""

from __future__ import annotations

import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from sensor import __version__
from sensor.cli import main as top
from sensor.cli.main import COMMANDS, cli
from sensor.cli.status import _up

RULES_COMMANDS = ("list", "validate", "coverage", "test")
AUDIT_COMMANDS = ("verify", "show", "export", "key")


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, arguments, prog_name="hostbrake", terminal_width=80)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command(flag: str) -> None:
    code, text = invoke(flag)
    assert code == 0
    words = " ".join(text.split())
    for name, says in COMMANDS.items():
        assert f" {name} {says}" in words
    assert "hostbrake check" in words and "hostbrake demo" in words


GROUPS = {"rules": RULES_COMMANDS, "audit": AUDIT_COMMANDS}


@pytest.mark.parametrize(
    "command", [*[(name,) for name in COMMANDS], *[(group, name) for group, names in GROUPS.items() for name in names]]
)
def test_every_command_says_what_it_does_and_every_option_what_it_is_for(command: tuple[str, ...]) -> None:
    code, text = invoke(*command, "--help")
    assert code == 0 and text.startswith(f"Usage: hostbrake {' '.join(command)} ")
    assert max(map(len, text.splitlines())) <= 80 and "..." not in text.replace("[ARGS]...", "").replace(
        "[PATHS]...", ""
    )
    found: click.Command | None = cli
    for name in command:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name)
    assert found is not None and found.help
    for parameter in found.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stauts"], "No such command 'stauts'. Did you mean status?"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["run", "--cgroup"], "No such option"),
        (["status", "extra"], "unexpected extra argument"),
        (["replay"], "Missing argument 'RECORDING'"),
        (["run", "--gpu-majors", "195;226"], "give numbers with commas between them, as 195,226"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str) -> None:
    code, text = invoke(*arguments)
    assert code == 2 and says in " ".join(text.split())


def test_without_a_command_it_shows_its_help() -> None:
    code, text = invoke()
    assert code == 2 and text.startswith("Usage: hostbrake ")


def test_version() -> None:
    assert invoke("--version") == (0, f"hostbrake, version {__version__}\n")


def test_faults_are_printed_one_a_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hostbrake", "run", "--config", "/nonexistent.yml", "--rules", "/nonexistent"])
    with pytest.raises(SystemExit) as ended:
        top.main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("/nonexistent" in line and ": " in line for line in lines)


def test_the_top_imports_no_command() -> None:
    code = "import sys, sensor.cli.main; print(*sorted(name for name in sys.modules if name.startswith('sensor')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sensor", "sensor.cli", "sensor.cli.main", "sensor.faults"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3700, "1 h 1 min"), (86400 * 3 + 7200, "3 d 2 h"), (-5, "0 s")],
)
def test_how_long_it_has_been_up(monkeypatch: pytest.MonkeyPatch, seconds: int, text: str) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert _up(int((now - seconds) * 1e9) - 1000) == text
