"""How busy a cgroup is: CPU from cpu.stat, GPUs from whoever can tell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sensor.context.gpus import Nvml, cgroup_of
from sensor.context.usage import Usage, Usages

SECOND = 1_000_000_000


def used(root: Path, path: str, microseconds: int) -> None:
    directory = root / path[1:]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.stat").write_text(f"usage_usec {microseconds}\nuser_usec 1\nsystem_usec 2\n")


def test_cores_between_two_looks(tmp_path: Path) -> None:
    usages = Usages(tmp_path)
    used(tmp_path, "/a", 5_000_000)
    assert usages.of(1, "/a", 0) == Usage(None, None)
    used(tmp_path, "/a", 95_000_000)
    assert usages.of(1, "/a", 10 * SECOND) == Usage(None, None), "too soon for another look"
    assert usages.of(1, "/a", 60 * SECOND) == Usage(1.5, None)
    used(tmp_path, "/a", 999_000_000)
    assert usages.of(1, "/a", 61 * SECOND) == Usage(1.5, None)


def test_what_cannot_be_told(tmp_path: Path) -> None:
    usages = Usages(tmp_path)
    assert usages.of(1, None, 0) is None and usages.of(1, "/", 0) is None
    assert usages.of(2, "/gone", 0) == Usage(None, None)
    assert usages.of(2, "/gone", 60 * SECOND) == Usage(None, None)
    used(tmp_path, "/gone", 5)
    assert usages.of(2, "/gone", 120 * SECOND) == Usage(None, None), "there was nothing to compare with"


def test_gpus_of_a_cgroup_and_those_below_it(tmp_path: Path) -> None:
    asked = []

    def gpus() -> dict[str, float]:
        asked.append(1)
        return {"/a": 10.0, "/a/b": 85.5, "/ab": 99.0}

    usages = Usages(tmp_path, gpus)
    found = [usages.of(number, path, 0) for number, path in enumerate(("/a", "/a/b", "/ab", "/c"))]
    assert [usage.gpu_utilisation for usage in found if usage] == [95.5, 85.5, 99.0, 0.0]
    assert len(asked) == 1, "one answer serves all for a while"


def test_gpus_that_cannot_be_asked(tmp_path: Path) -> None:
    assert Usages(tmp_path, lambda: None).of(1, "/a", 0) == Usage(None, None)


def test_looks_are_bounded(tmp_path: Path) -> None:
    usages = Usages(tmp_path)
    for number in range(5000):
        usages.of(number, "/a", 0)
    assert len(usages._looks) == 4096


def test_without_the_module_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    nvml = Nvml()
    nvml.wait()
    assert nvml.why == "the Python module nvidia-ml-py is not installed" and nvml() is None


def test_cgroup_of_a_process() -> None:
    own = cgroup_of(os.getpid())
    assert own is not None and own.startswith("/")
    assert cgroup_of(2**22 + 1) is None
