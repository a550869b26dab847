"""Shared by all tests: kernel tests run where they can and say why where they can't; throwaway cgroups."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.node import NodeError, cgroup2_mount


def kernel_obstacle() -> str | None:
    """Why kernel tests cannot run here, or None."""
    if os.geteuid() != 0:
        return "not root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "the kernel has no BTF (/sys/kernel/btf/vmlinux)"
    try:
        cgroup2_mount()
    except NodeError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    obstacle = kernel_obstacle()
    if obstacle is None:
        return
    for item in items:
        if item.get_closest_marker("kernel") and os.environ.get("HOSTBRAKE_REQUIRE_KERNEL") != "1":
            item.add_marker(pytest.mark.skip(reason=f"kernel test: {obstacle}"))


@pytest.fixture(autouse=True)
def _require_kernel(request: pytest.FixtureRequest) -> None:
    obstacle = kernel_obstacle()
    if obstacle and request.node.get_closest_marker("kernel"):
        pytest.fail(f"HOSTBRAKE_REQUIRE_KERNEL=1, but {obstacle}")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A throwaway cgroup v2 directory; what is left inside afterwards is killed and removed."""
    path = cgroup2_mount() / f"hostbrake-test-{uuid.uuid4().hex[:12]}"
    path.mkdir()
    yield path
    remove_cgroup(path)


def remove_cgroup(path: Path, timeout_s: float = 10) -> None:
    """Thaw, kill and remove a cgroup and all below it; fails loudly if something survives."""
    deadline = time.monotonic() + timeout_s
    while path.exists():
        for sub in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
            _try_rmdir(sub)
        if _try_rmdir(path):
            return
        (path / "cgroup.freeze").write_text("0")
        (path / "cgroup.kill").write_text("1")
        assert time.monotonic() < deadline, f"{path} does not empty"
        time.sleep(0.01)


def _try_rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return False
    return True
