"""Who may ask a live sensor: root, and the members of one group. Every request leaves a trace of who made it."""

from __future__ import annotations

import grp
import json
import stat
from pathlib import Path

import pytest
from sensor_helpers import Launch, hostbrake, logged, wait_for

from sensor.cli.staging import Sensor

pytestmark = pytest.mark.kernel

GROUP = grp.getgrgid(100)
"""Any that exists: `users` on Debian."""
CAPABILITIES = ("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search")


def as_user(*groups: str) -> tuple[str, ...]:
    """A user who may do nothing but read: this checkout or Python may lie in /root."""
    ids = ("--reuid=65534", "--regid=65534", *(groups or ("--clear-groups",)))
    return ("setpriv", *ids, *CAPABILITIES, "--ambient-caps=+dac_read_search", "--no-new-privs")


@pytest.fixture
def sensor(launch: Launch, tmp_path: Path) -> Sensor:
    (tmp_path / "sensor.yml").write_text(f"alert_window_s: 0\noperators: {GROUP.gr_name}\n")
    tmp_path.chmod(0o755)
    return launch()


def asks(sensor: Sensor, *groups: str) -> tuple[int, str]:
    done = hostbrake("status", "--json", "--control-socket", sensor.socket, before=as_user(*groups))
    return done.returncode, done.stderr


def test_the_socket_is_the_groups(sensor: Sensor) -> None:
    status = sensor.socket.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 0, GROUP.gr_gid)


@pytest.mark.parametrize("groups", [f"--groups={GROUP.gr_gid}", "--groups=3,100,4"])
def test_a_member_is_answered(sensor: Sensor, groups: str) -> None:
    assert asks(sensor, groups) == (0, "")


def test_others_cannot_connect(sensor: Sensor) -> None:
    for groups in ((), ("--groups=3,4",)):
        code, err = asks(sensor, *groups)
        assert code == 1 and err.startswith(f"hostbrake: not allowed to ask the sensor at {sensor.socket}")


def test_others_are_refused_even_where_they_can_connect(sensor: Sensor) -> None:
    """The kernel's word on the peer decides, not the socket's mode."""
    sensor.socket.chmod(0o666)
    says = "may not ask the sensor: only root and its operators may"
    code, err = asks(sensor)
    assert code == 1 and err.endswith(f"(uid 65534) {says}\n")
    assert asks(sensor, f"--groups={GROUP.gr_gid}") == (0, "")
    (line,) = wait_for(lambda: logged(sensor, "control request"), "the log says so")
    assert (line["command"], line["verdict"]) == ("status", "refused") and says in line["reason"]
    assert "(uid 65534)" in line["by"] and line["pid"] > 1


def test_a_group_that_does_not_exist_is_a_fault(tmp_path: Path) -> None:
    config = tmp_path / "sensor.yml"
    config.write_text("operators: no-such-group\n")
    (tmp_path / "agents.d").mkdir()
    done = hostbrake("run", "--config", config, "--agents", tmp_path / "agents.d")
    assert (done.returncode, done.stderr) == (2, f"{config}: operators: there is no group 'no-such-group'\n")


def test_root_needs_no_group(sensor: Sensor) -> None:
    done = hostbrake("status", "--json", "--control-socket", sensor.socket)
    assert done.returncode == 0 and json.loads(done.stdout)["pid"] == sensor.process.pid
