"""The unit grants what the sensor needs and nothing that would make a brake inert."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sensor.config import Config
from sensor.readiness import CAPABILITIES

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "hostbrake.service"


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def only(key: str) -> str:
    (value,) = directives()[key]
    return value


def test_the_capabilities_are_those_the_sensor_checks_for() -> None:
    assert sorted(only("CapabilityBoundingSet").split()) == sorted(CAPABILITIES)


def test_each_capability_says_what_it_is_for() -> None:
    explained = {line.split()[1] for line in UNIT.read_text().splitlines() if line.startswith("# CAP_")}
    assert explained == set(CAPABILITIES)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("ProtectControlGroups", "no", "read-only cgroupfs makes the kill switch inert"),
        ("ProtectProc", "default", "processes of other users would be hidden"),
        ("ProcSubset", "all", "/proc/devices and /proc/sys/kernel would be gone"),
        ("PrivateNetwork", "no", "the node's routes would be gone"),
        ("PrivateDevices", "no", "the GPUs' nodes would be gone"),
        ("PrivateUsers", "no", "no capability would count"),
        ("ProtectSystem", "strict", "the sensor writes nowhere but in its own directories"),
        ("NoNewPrivileges", "yes", "the sensor starts nothing that gains privileges"),
        ("Type", "notify", "READY=1 is sent once every program is attached"),
        ("Restart", "always", "a sensor that dies comes back"),
        ("RestartPreventExitStatus", "2", "a configuration fault does not heal by itself"),
        ("StartLimitIntervalSec", "0", "systemd never gives up"),
    ],
)
def test_what_keeps_the_brakes_working(key: str, value: str, why: str) -> None:
    assert only(key) == value, why


def test_nothing_is_made_unreachable() -> None:
    hiding = {"InaccessiblePaths", "TemporaryFileSystem", "RootDirectory", "ReadOnlyPaths", "User", "DynamicUser"}
    assert not hiding & directives().keys()


def test_default_paths_are_in_directories_that_the_unit_makes_writable() -> None:
    writable = [
        *(f"/var/lib/{name}/" for name in only("StateDirectory").split()),
        *(f"/var/log/{name}/" for name in only("LogsDirectory").split()),
        *(f"/run/{name}/" for name in only("RuntimeDirectory").split()),
    ]
    config = Config()
    for path in (config.alerts, config.state_dir + "/", config.control_socket):
        assert path.startswith(tuple(writable)), path


def test_system_calls_and_sockets() -> None:
    assert only("SystemCallFilter").split() == ["@system-service", "bpf", "open_by_handle_at"]
    assert set(only("RestrictAddressFamilies").split()) == {"AF_UNIX", "AF_NETLINK", "AF_INET", "AF_INET6"}


def test_the_watchdog_is_on_and_patient() -> None:
    assert 5 <= int(only("WatchdogSec")) <= 60


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    unit = tmp_path / "hostbrake.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/hostbrake", "/bin/true"))
    result = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_the_drill(tmp_path: Path) -> None:
    for name in ("hostbrake-drill.service", "hostbrake-drill.timer"):
        text = (SYSTEMD / name).read_text().replace("ExecStart=/usr/bin/hostbrake", "ExecStart=/bin/true")
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_drill_runs_each_month_and_a_missed_one_is_made_up_for() -> None:
    lines = (SYSTEMD / "hostbrake-drill.timer").read_text().splitlines()
    assert {"OnCalendar=monthly", "Persistent=true"} <= set(lines)
    assert "ProtectControlGroups=no" in (SYSTEMD / "hostbrake-drill.service").read_text().splitlines()


def test_logrotate_leaves_the_file_to_the_sensor() -> None:
    text = (SYSTEMD / "hostbrake.logrotate").read_text()
    assert str(Path(Config().alerts).parent) + "/*.jsonl" in text
    assert {"nocreate", "delaycompress"} <= set(text.split())
    assert "copytruncate" not in text  # would lose what is written between the copy and the cut
