"""sensor.yml and the command line become one Config, or every fault of both comes back at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor import config as config_module
from sensor.config import Config, load_config, shipped_rules_dir, usable_config
from sensor.faults import Fault, FaultsError

REPO = Path(__file__).resolve().parents[2]


def faults_of(path: Path | None, **overrides: object) -> list[Fault]:
    with pytest.raises(FaultsError) as caught:
        load_config(path, overrides)
    return caught.value.faults


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sensor.yml"


def test_defaults_are_harmless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config_module, "DEFAULT_CONFIG", str(tmp_path / "missing.yml"))
    config = load_config(None, {})
    assert config.mode == "monitor"
    assert config.kills_per_minute == 30
    assert config.events is None
    assert config.rules[0] == str(REPO / "rules") == shipped_rules_dir()


def test_a_named_file_must_exist(file: Path) -> None:
    assert [str(fault) for fault in faults_of(file)] == [f"{file}: cannot be read: No such file or directory"]


def test_the_default_file_is_read_where_there_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "DEFAULT_CONFIG", str(file))
    file.write_text("mode: enforce\n")
    assert load_config(None, {}).mode == "enforce"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_changes_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_config(file, {}) == Config()


def test_every_key_reaches_the_config(file: Path, tmp_path: Path) -> None:
    file.write_text(
        f"mode: enforce\nrules: [{tmp_path}]\nagents: /a\nalerts: '-'\nevents: /e\nbackend: core\n"
        f"cgroup_root: {tmp_path}\nstate_dir: /s\ncontrol_socket: /c\npin_dir: null\ngpu_majors: [195, 226]\n"
        "protect: [/infra.slice/**]\nkills_per_minute: 5\n"
    )
    assert load_config(file, {}) == Config(
        mode="enforce",
        rules=[str(tmp_path)],
        agents="/a",
        alerts="-",
        events="/e",
        backend="core",
        cgroup_root=str(tmp_path),
        state_dir="/s",
        control_socket="/c",
        pin_dir=None,
        gpu_majors=[195, 226],
        protect=["/infra.slice/**"],
        kills_per_minute=5,
    )


def test_the_command_line_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("mode: monitor\nalerts: /var/a.jsonl\nkills_per_minute: 7\n")
    monkeypatch.chdir(file.parent)
    config = load_config(file, {"mode": "enforce", "alerts": Path("mine.jsonl"), "pin_dir": None})
    assert (config.mode, config.alerts) == ("enforce", str(file.parent / "mine.jsonl"))
    assert (config.pin_dir, config.kills_per_minute) == (None, 7)
    assert load_config(file, {"alerts": "-"}).alerts == "-"


def test_every_fault_comes_back_with_its_line(file: Path) -> None:
    file.write_text(
        "mode: enforced\n"
        "rulez: [a]\n"
        "rules: [b, /no/such/directory]\n"
        "kills_per_minute: 3\n"
        "kills_per_minute: 0\n"
        "gpu_majors: [195, x, 4096, true]\n"
        "alerts: 7\n"
        "cgroup_root:\n"
        "backend: [core]\n"
        "protect: ['/']\n"
        "agents: agents.d\n"
    )
    assert [str(fault).removeprefix(f"{file}:") for fault in faults_of(file, rules=["/no/such"])] == [
        "1: mode: 'enforced' is not one of monitor, enforce",
        "2: rulez: unknown key; did you mean rules?",
        "3: rules[0]: 'b' must be an absolute path",
        "3: rules[1]: '/no/such/directory' is no directory",
        "5: duplicate key 'kills_per_minute'",
        "5: kills_per_minute: must be at least 1, not 0",
        "6: gpu_majors[1]: must be a whole number, not text",
        "6: gpu_majors[2]: a device major is 1 to 4095, not 4096",
        "6: gpu_majors[3]: must be a whole number, not true or false",
        "7: alerts: must be text, not a whole number; put it in quotes",
        "9: backend: must be one of auto, core, bcc, not a list",
        "10: protect[0]: '/' names no cgroup or unit",
        "11: agents: 'agents.d' must be an absolute path",
        "command line: rules[0]: '/no/such' is no directory",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- mode\n", ":1: must be a mapping, not a list"),
        ("mode: monitor\n---\nmode: enforce\n", ": holds 2 documents; the configuration is one"),
        ("mode: [\n", ":2: not YAML: "),
        ("rules: &a [*a]\n", ":1: not YAML that can be used: an alias contains itself"),
        ("mode: \0\n", ": not YAML: "),
        ("? [a, b]\n: 1\n", ":1: a key must be a plain value"),
    ],
)
def test_what_is_no_configuration_is_a_fault(file: Path, text: str, fault: str) -> None:
    file.write_text(text)
    assert str(faults_of(file)[0]).startswith(f"{file}{fault}")


def test_bytes_that_are_no_text_are_a_fault(file: Path) -> None:
    file.write_bytes(b"mode: \xff\n")
    assert [str(fault) for fault in faults_of(file)] == [f"{file}: is not UTF-8 (byte 6)"]


def test_the_shipped_file_says_the_defaults() -> None:
    """With every commented-out setting taken in, the file must load, and the ones with one default say it."""
    shipped = REPO / "systemd" / "sensor.yml"
    assert load_config(shipped, {}) == Config()
    lines = [line.removeprefix("# ") for line in shipped.read_text().splitlines()]
    settings = {line.split(":")[0]: line for line in lines if line.split(":")[0] in Config.__struct_fields__}
    assert set(settings) == set(Config.__struct_fields__)
    for name in ("mode", "agents", "alerts", "backend", "kills_per_minute", "state_dir", "control_socket", "pin_dir"):
        assert settings[name] == f"{name}: {getattr(Config(), name)}"


def test_what_is_usable_of_a_faulty_configuration(file: Path, tmp_path: Path) -> None:
    """So that the faults of agents and rules come in the same run as those of the configuration."""
    file.write_text(f"mode: 3\nagents: {tmp_path}\nunknown: 1\nrules: [/no/such]\n")
    config = usable_config(file, {"rules": [tmp_path], "cgroup_root": "/no/such"})
    assert config == Config(agents=str(tmp_path), rules=[str(tmp_path)])
    assert usable_config(tmp_path / "missing", {}) == Config()


def test_the_window_of_equal_alerts(tmp_path: Path) -> None:
    file = tmp_path / "sensor.yml"
    for text, seconds in (("mode: monitor", 60), ("alert_window_s: 0", 0), ("alert_window_s: 86400", 86_400)):
        file.write_text(text)
        assert load_config(file, {}).alert_window_s == seconds
    file.write_text("alert_window_s: -1")
    with pytest.raises(FaultsError, match="alert_window_s: must be between 0 and 86400, not -1"):
        load_config(file, {})
