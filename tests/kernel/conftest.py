"""Sensors for the end-to-end tests: each watches a throwaway cgroup and nothing else."""

from __future__ import annotations

import contextlib
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benign_helpers import Place, Site, open_site
from live_helpers import Certificate, Link, Live
from sensor_helpers import Launch

from sensor.cli.staging import Sensor, throwaway_cgroup


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that only the first sensor compiles the rules."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def launch(cgroup: Path, tmp_path: Path, state_dir: Path) -> Iterator[Launch]:
    """Starts a sensor that watches `cgroup`, with these further options, and waits until it is ready.

    It writes every alert, unless the test has written a sensor.yml that says otherwise.
    """
    started: list[Sensor] = []

    def launch(*options: str, within: Path = cgroup, directory: Path = tmp_path, **arguments: Any) -> Sensor:
        directory.mkdir(exist_ok=True)
        configuration = directory / "sensor.yml"
        if not configuration.exists():
            configuration.write_text("alert_window_s: 0\n")
        sensor = Sensor(directory, within, f"--state-dir={state_dir}", *options, **arguments)
        started.append(sensor)
        sensor.wait_ready()
        return sensor

    yield launch
    for sensor in started:
        with contextlib.suppress(ProcessLookupError):
            sensor.process.send_signal(signal.SIGCONT)
        sensor.stop()


@pytest.fixture(scope="session")
def link() -> Iterator[Link]:
    """Network namespaces for workloads and for servers."""
    made = Link()
    yield made
    made.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def live(cgroup: Path, link: Link) -> Iterator[Live]:
    """The sensor's stages on a throwaway cgroup, with workloads on `link`."""
    made = Live(cgroup, link)
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, state_dir: Path) -> Iterator[Site]:
    """One for all tests of a module: see `benign_helpers`."""
    name = f"hostbrake-test-{uuid.uuid4().hex[:12]}"
    with throwaway_cgroup(name) as cgroup, open_site(cgroup, tmp_path_factory.mktemp("site"), state_dir) as found:
        yield found


@pytest.fixture(scope="module", params=["loopback", "external"])
def place(request: pytest.FixtureRequest, site: Site) -> Place:
    return site.places[request.param]
