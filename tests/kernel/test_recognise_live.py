"""Agents that are recognised by what runtimes and Slurm tell: their limits hold as soon as that is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from sensor_helpers import Launch, alerts_of, path_of, status_of, wait_for
from test_limits import CONNECT, Listener, said, start_in
from test_reload import DENIED, Write, write

from sensor.cli.staging import Sensor

__all__ = ["write"]
pytestmark = pytest.mark.kernel

ID = os.urandom(32).hex()
TASKS = Path("/run/containerd/io.containerd.runtime.v2.task")
SCONTROL = """#!/bin/sh
sleep 1
echo "JobId=$4 JobName=eval UserId=rome(61234) GroupId=rome(61234) Account=models"
"""


@pytest.fixture
def record() -> Iterator[Path]:
    """Where containerd would write down a container of ours; whatever is made for it goes again."""
    namespace = TASKS / f"hostbrake-test-{os.getpid()}"
    made = [path for path in (namespace, *namespace.parents) if not path.exists()]
    bundle = namespace / ID
    bundle.mkdir(parents=True)
    yield bundle / "config.json"
    for file in bundle.iterdir():
        file.unlink()
    bundle.rmdir()
    for path in made:
        path.rmdir()


def tell(record: Path, **notes: str) -> None:
    unfinished = record.with_suffix(".new")
    unfinished.write_bytes(orjson.dumps({"annotations": notes}))
    unfinished.rename(record)


def becomes_denied(place: Path, listener: Listener) -> None:
    wait_for(lambda: said(place, CONNECT, "127.0.0.1", listener.port) == DENIED, "its limits hold")


def test_a_container_whose_record_comes_late(launch: Launch, write: Write, cgroup: Path, record: Path) -> None:
    listener = Listener()
    write("egress: {default: deny}", match="{container_label: agent=rome}")
    sensor = launch("--mode=enforce")
    place = cgroup / f"docker-{ID}.scope"
    place.mkdir()
    assert said(place, CONNECT, "127.0.0.1", listener.port) == "connected"
    tell(record, agent="rome")
    becomes_denied(place, listener)
    later = place / "below"
    later.mkdir()
    assert said(later, CONNECT, "127.0.0.1", listener.port) == DENIED, "inherited in the kernel"
    alerts = wait_for(lambda: alerts_of(sensor.alerts, place), "an alert")
    assert alerts[0]["workload"]["agent"] == "rome" and alerts[0]["container"]["id"] == ID


def test_a_container_that_is_recorded(launch: Launch, write: Write, cgroup: Path, record: Path) -> None:
    listener = Listener()
    tell(record, **{"io.kubernetes.cri.image-name": "registry.example/rome:1"})
    write("egress: {default: deny}", match="{container_image: 'registry.example/*'}")
    launch("--mode=enforce")
    place = cgroup / ID
    place.mkdir()
    becomes_denied(place, listener)


def job(cgroup: Path) -> Path:
    task = cgroup / "slurmstepd.scope" / "job_77" / "step_0" / "user" / "task_0"
    task.mkdir(parents=True)
    return task


def test_a_job_whose_account_slurm_tells_late(
    launch: Launch, write: Write, cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(SCONTROL)
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    listener = Listener()
    write("egress: {default: deny}", match="{slurm_account: models}")
    sensor = launch("--mode=enforce")
    becomes_denied(job(cgroup), listener)
    assert "agents by slurm_account" not in status_of(sensor)["not_available"]


def test_a_job_is_its_users_without_slurm(launch: Launch, write: Write, cgroup: Path) -> None:
    """From its first program on that is not root's, root's in it too."""
    listener = Listener()
    write("egress: {default: deny}", match="{slurm_user: '61234'}")
    launch("--mode=enforce")
    task = job(cgroup)
    assert said(task, CONNECT, "127.0.0.1", listener.port) == "connected", "the job's set-up, as root"
    start_in(task, ["setpriv", "--reuid=61234", "--clear-groups", "/bin/true"]).wait(30)
    becomes_denied(task, listener)


def test_two_agents_that_claim_a_container_are_an_alert(
    launch: Launch, write: Write, cgroup: Path, record: Path
) -> None:
    tell(record, a="1", b="2")
    write("", "rome", "{container_label: a=1}")
    write("", "milan", "{container_label: b=2}")
    place = cgroup / ID
    place.mkdir()
    sensor: Sensor = launch()
    assert start_in(place, ["/bin/true"]).wait(30) == 0
    clashes = [a for a in wait_for(lambda: alerts_of(sensor.alerts), "an alert") if a["event"]["action"] == "clash"]
    assert clashes[0]["cgroup"]["path"] == path_of(place) and "milan, rome" in clashes[0]["event"]["reason"]
    assert status_of(sensor)["agents_that_clash"] == {"milan, rome": 1}
