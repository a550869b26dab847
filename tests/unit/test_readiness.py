"""What a node lacks is said in one sentence, shown with made-up /proc and /sys directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor import readiness

ALL = sum(1 << bit for bit in readiness.CAPABILITIES.values())


def status(tmp_path: Path, effective: int) -> Path:
    path = tmp_path / "status"
    path.write_text(f"Name:\tx\nCapEff:\t{effective:016x}\nCapBnd:\t{ALL:016x}\n")
    return path


def test_the_capabilities_that_matter_are_enough(tmp_path: Path) -> None:
    assert readiness.capabilities(status(tmp_path, ALL)).ready


@pytest.mark.parametrize("name", readiness.CAPABILITIES)
def test_each_capability_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = status(tmp_path, ALL & ~(1 << readiness.CAPABILITIES[name]))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    item = readiness.capabilities(path)
    assert (item.ready, item.says) == (False, f"root lacks {name}; run outside a container, or grant them")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert readiness.capabilities(path).says == "not root; run as root, for example with sudo"


def test_capability_numbers_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("linux/capability.h is not installed (linux-libc-dev)")
    for name, bit in readiness.CAPABILITIES.items():
        assert any(line.split()[1:] == [name, str(bit)] for line in header.read_text().splitlines()), name


@pytest.mark.parametrize(
    ("release", "ready"),
    [
        *(("5.15.0-91-generic", True), ("6.1.0-28-amd64", True), ("10.0", True)),
        *(("5.14.21", False), ("4.19.0", False), ("5.4", False), ("strange", False)),
    ],
)
def test_kernel_version(release: str, ready: bool) -> None:
    item = readiness.kernel_version(release)
    assert item.ready is ready
    assert release in item.says


def test_a_kernel_without_btf(tmp_path: Path) -> None:
    item = readiness.btf(tmp_path / "vmlinux")
    assert not item.ready
    assert "CONFIG_DEBUG_INFO_BTF" in item.says
    (tmp_path / "vmlinux").write_bytes(b"\x9f\xeb")
    assert readiness.btf(tmp_path / "vmlinux").ready


@pytest.mark.parametrize(
    ("text", "ready"),
    [
        (None, True),
        ("[none] integrity confidentiality\n", True),
        ("none [integrity] confidentiality\n", True),
        ("none integrity [confidentiality]\n", False),
    ],
)
def test_lockdown(tmp_path: Path, text: str | None, ready: bool) -> None:
    if text is not None:
        (tmp_path / "lockdown").write_text(text)
    assert readiness.lockdown(tmp_path / "lockdown").ready is ready


def test_a_lockdown_that_nothing_shows_is_not_called_none(tmp_path: Path) -> None:
    """securityfs is not mounted: its directory in sysfs is there and empty."""
    (tmp_path / "security").mkdir()
    item = readiness.lockdown(tmp_path / "security" / "lockdown")
    assert item.ready and "securityfs is not mounted" in item.says
    (tmp_path / "security" / "lsm").touch()
    assert readiness.lockdown(tmp_path / "security" / "lockdown").says == "none"


def test_no_cgroup2(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n")
    item = readiness.cgroup2(mountinfo)
    assert (item.ready, item.says.split(";")[0]) == (False, "no cgroup v2 is mounted")
    assert "mount proc" in readiness.cgroup2(tmp_path / "missing").says


def test_a_directory_that_is_no_cgroup(tmp_path: Path) -> None:
    item = readiness.cgroup2(tmp_path / "mountinfo", tmp_path)
    assert item.says == f"{tmp_path} is no cgroup v2 directory; name one with --cgroup-root"
    assert not readiness.cgroup2(tmp_path / "mountinfo", tmp_path / "missing").ready


def test_other_namespaces(tmp_path: Path) -> None:
    for name in ("pid", "cgroup"):
        (tmp_path / name).touch()
    item = readiness.namespaces(tmp_path)
    assert not item.ready
    assert "this is not the node's own cgroup and pid namespace" in item.says


def test_missing_files_of_the_product(tmp_path: Path) -> None:
    assert "make build" in readiness.bpf_object(tmp_path / "hostbrake.bpf.o").says
    assert "apt-get install libbpf1" in readiness.library("libno-such-library.so.1").says


def test_the_obstacle_is_the_first_thing_missing(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    status(tmp_path / "proc/self", ALL)
    assert str(tmp_path / "proc/self/ns/cgroup") in (readiness.obstacle(tmp_path) or "")
