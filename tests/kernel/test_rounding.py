"""RandomX by its rounding modes, live: a program that changes them as it does, and programs that only look alike."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from sensor_helpers import Launch, alerts_of, logged, members, status_of

from sensor.cli.staging import start_in
from sensor.decode import Rounding, decode
from sensor.kernel.core import CoreBackend, Programs, rounding_missing
from sensor.node import cgroup2_mount

pytestmark = pytest.mark.kernel

SOURCE = Path(__file__).parents[1] / "programs" / "rounding.c"
RULE = "RandomX rounding modes"
NEEDS_TRACEPOINT = pytest.mark.skipif(rounding_missing() is not None, reason=rounding_missing() or "")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("rounding") / "steady-work"
    subprocess.run(["clang", "-O1", "-frounding-math", "-pthread", SOURCE, "-o", built, "-lm"], check=True)
    return built


@NEEDS_TRACEPOINT
def test_what_changes_its_modes_at_random_is_killed(launch: Launch, cgroup: Path, program: Path) -> None:
    sensor = launch("--mode=enforce")
    work = cgroup / "work"
    work.mkdir()
    deed = start_in(work, [program, "120", "random"])
    alert = sensor.wait_alert(work, timeout_s=110)
    assert alert is not None and alert["rule"]["name"] == RULE and alert["response"]["outcome"] == "done"
    assert alert["process"]["executable"] == str(program) and alert["process"]["pid"] == deed.pid
    assert deed.wait(10) == -signal.SIGKILL and not members(work)
    assert "randomx detection" not in status_of(sensor)["not_available"]


@NEEDS_TRACEPOINT
def test_near_misses_are_let_be(program: Path) -> None:
    """Beside one that is told: so they were sampled as long as it takes to tell."""
    backend = CoreBackend(cgroup2_mount(), [])
    kinds = ("interval", "phases", "once", "none", "random")
    running = {subprocess.Popen([program, "60", kind]): kind for kind in kinds}
    kind_of = {process.pid: kind for process, kind in running.items()}
    told: list[Rounding] = []
    try:
        until = time.monotonic() + 55
        while time.monotonic() < until and not any(kind_of.get(event.tgid) == "random" for event in told):
            told += [event for event in map(decode, backend.read()) if isinstance(event, Rounding)]
            time.sleep(0.05)
        time.sleep(10)  # as long again as it takes to tell
        told += [event for event in map(decode, backend.read()) if isinstance(event, Rounding)]
    finally:
        for process in running:
            process.kill()
            process.wait()
        backend.close()
    mine = [event for event in told if event.tgid in kind_of]
    assert [kind_of[event.tgid] for event in mine] == ["random"], "said once, and of nothing else"
    (event,) = mine
    samples = event.down + event.up + event.toward_zero
    assert samples >= 64 and min(event.down, event.up, event.toward_zero) * 6 >= samples
    assert event.changes * 2 >= samples and event.span >= 6_000_000_000


def test_a_kernel_without_the_tracepoint(tmp_path: Path) -> None:
    btf = tmp_path / "btf"
    btf.write_bytes(b"\0btf_trace_x86_fpu_regs_activated\0")
    programs = Programs(btf=btf)
    assert "on_rounding" not in programs.names and "on_exec" in programs.names
    why = "this kernel has no tracepoint x86_fpu_regs_deactivated"
    assert programs.missing == {"randomx detection": why}
    backend = CoreBackend(cgroup2_mount(), [], programs)
    try:
        assert backend.missing == programs.missing and not backend.missed_runs()
    finally:
        backend.close()


def test_it_is_never_silently_absent(launch: Launch, cgroup: Path) -> None:
    sensor = launch()
    missing = status_of(sensor)["not_available"]
    assert missing.get("randomx detection") == rounding_missing()
    assert len(logged(sensor, "randomx detection: not available")) == ("randomx detection" in missing)
    assert not alerts_of(sensor.alerts)
