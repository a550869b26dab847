"""The service's capabilities are enough to see and to stop, and none of them is there in vain."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from sensor.readiness import CAPABILITIES

pytestmark = pytest.mark.kernel

NOBODY = 65534

# What the sensor does with its privileges, on a process of another user in a cgroup that belongs to that user.
# Writable code is forbidden as by MemoryDenyWriteExecute= (PR_SET_MDWE, Linux 6.3).
SENSOR = """
import ctypes, json, os, signal, subprocess, sys, time
from pathlib import Path
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
from sensor.kernel.core import CoreBackend
from sensor.node import cgroup2_mount
from sensor.respond.cgroupfs import CgroupRoot
cgroup, pid = Path(sys.argv[1]), int(sys.argv[2])
done = {}
def step(name, act):
    try:
        done[name] = bool(act())
    except Exception as error:
        done[name] = f"{type(error).__name__}: {error}"
def see():
    backend = CoreBackend(cgroup, [195])
    try:
        subprocess.run(["/bin/true"], check=True)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if any(b"/true" in record for record in backend.read()):
                return backend.held_ends([cgroup.stat().st_ino], [pid])
        return False
    finally:
        backend.close()
def send():
    signal.pidfd_send_signal(os.pidfd_open(pid), 0)  # only asks for permission
    return True
step("see", see)
step("find", lambda: CgroupRoot(cgroup2_mount()).open("/a path that was cut", cgroup.stat().st_ino))
step("look", lambda: os.readlink(f"/proc/{pid}/exe"))
step("signal", send)
step("share", lambda: os.chown(sys.argv[3], -1, 12345) is None)
step("kill", lambda: (cgroup / "cgroup.kill").write_text("1"))
print(json.dumps(done))
"""

NEEDED_FOR = {
    "CAP_BPF": "see",
    "CAP_PERFMON": "see",
    "CAP_NET_ADMIN": "see",
    "CAP_DAC_READ_SEARCH": "find",
    "CAP_SYS_PTRACE": "look",
    "CAP_KILL": "signal",
    "CAP_DAC_OVERRIDE": "kill",
    "CAP_CHOWN": "share",
}


@pytest.fixture
def victim(cgroup: Path) -> Iterator[subprocess.Popen[bytes]]:
    for path in (cgroup, *cgroup.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    process = subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[])
    (cgroup / "cgroup.procs").write_text(str(process.pid))
    yield process
    process.kill()
    process.wait()


def within(capabilities: Iterable[str]) -> list[str]:
    """The start of a command that runs as root with no more than these."""
    names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(capabilities))
    return ["setpriv", f"--bounding-set=-all,{names}", "--inh-caps=-all", "--no-new-privs"]


def sensor(cgroup: Path, pid: int, capabilities: set[str]) -> dict[str, bool | str]:
    with tempfile.NamedTemporaryFile() as ours:
        command = [*within(capabilities), sys.executable, "-c", SENSOR, str(cgroup), str(pid), ours.name]
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    done: dict[str, bool | str] = json.loads(result.stdout)
    return done


def test_the_services_capabilities_are_enough(cgroup: Path, victim: subprocess.Popen[bytes]) -> None:
    done = sensor(cgroup, victim.pid, set(CAPABILITIES))
    assert done == {"see": True, "find": True, "look": True, "signal": True, "share": True, "kill": True}
    assert victim.wait(timeout=30) == -signal.SIGKILL


@pytest.mark.parametrize("name", CAPABILITIES)
def test_each_capability_is_needed(cgroup: Path, victim: subprocess.Popen[bytes], name: str) -> None:
    done = sensor(cgroup, victim.pid, set(CAPABILITIES) - {name})
    failed = {step for step, result in done.items() if result is not True}
    assert failed == {NEEDED_FOR[name]}, done


def test_the_whole_sensor_starts_with_them(cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "sensor.yml").write_text(f"agents: {tmp_path}/agents.d\nmode: enforce\n")
    arguments = {
        "config": tmp_path / "sensor.yml",
        "cgroup-root": cgroup,
        "alerts": tmp_path / "alerts.jsonl",
        "state-dir": tmp_path / "state",
        "control-socket": tmp_path / "control.sock",
    }
    command = [*within(CAPABILITIES), sys.executable, "-c", "from sensor.cli.main import main; main()", "run"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        limit = threading.Timer(60, process.kill)
        limit.start()
        try:
            said = list(itertools.takewhile(lambda line: '"event":"ready"' not in line, process.stderr))
            assert process.poll() is None, "".join(said)
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            limit.cancel()
            process.kill()
