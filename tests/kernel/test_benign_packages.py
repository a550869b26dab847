"""Package managers and builds raise nothing above `low`: pip, apt (with a state of its own), make -j."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from benign_helpers import Place, Site, Work, free_port

pytestmark = pytest.mark.kernel

APT = """\
Dir "{directory}/apt";
Dir::State::status "{directory}/apt/status";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""
CONTROL = "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Ada <ada@example.org>\nDescription: a test\n"


def wheel(directory: Path, name: str, needs: str = "") -> None:
    """A wheel of one module (packaging.python.org, binary distribution format)."""
    directory.mkdir(parents=True)
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}"
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def serve(site: Site, place: Place, files: Path) -> str:
    """The address of a web server with these files."""
    port = free_port()
    site.work("mirror").serve_files(place.peer, port, place.peer.address, files)
    return f"http://{place.peer.address}:{port}"


def test_pip(site: Site, place: Place, tmp_path: Path) -> None:
    work = site.work("pip")
    wheel(tmp_path / "simple/alpha", "alpha", "Requires-Dist: beta>=1\n")
    wheel(tmp_path / "simple/beta", "beta")
    index = serve(site, place, tmp_path) + "/simple/"
    options = ("--isolated", "--no-cache-dir", "--disable-pip-version-check", "--trusted-host", place.peer.address)
    pip = (sys.executable, "-m", "pip", "install", "-q", *options, "--index-url", index, "--target", work.directory)
    work.run(place.node, *pip, "alpha")
    assert (work.directory / "beta.py").exists()
    python = Path(sys.executable).resolve().name
    work.quiet(python, connects=[(f"/{python}", place.scope)])


def repository(directory: Path) -> None:
    """A flat Debian repository of two packages (wiki.debian.org/DebianRepository/Format)."""
    packages = ""
    for name in ("first", "second"):
        (directory / name / "DEBIAN").mkdir(parents=True)
        control = CONTROL.format(name=name)
        (directory / name / "DEBIAN/control").write_text(control)
        archive = directory / f"{name}_1.0_all.deb"
        subprocess.run(["dpkg-deb", "--build", directory / name, archive], check=True, capture_output=True)
        data = archive.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        packages += f"{control}Filename: ./{archive.name}\nSize: {len(data)}\nSHA256: {digest}\n\n"
    (directory / "Packages").write_text(packages)
    digest = hashlib.sha256(packages.encode()).hexdigest()
    release = f"Date: Mon, 23 Nov 2026 00:00:00 UTC\nSHA256:\n {digest} {len(packages)} Packages\n"
    (directory / "Release").write_text(release)


def test_apt(site: Site, place: Place, tmp_path: Path) -> None:
    work = site.work("apt")
    repository(tmp_path)
    for name in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (work.directory / "apt" / name).mkdir(parents=True)
    (work.directory / "apt/status").touch()
    (work.directory / "apt.conf").write_text(APT.format(directory=work.directory))
    (work.directory / "apt/etc/apt/sources.list").write_text(f"deb [trusted=yes] {serve(site, place, tmp_path)} ./\n")
    work.run(place.node, "apt-get", "update", APT_CONFIG="apt.conf")
    work.run(place.node, "apt-get", "download", "first", APT_CONFIG="apt.conf")
    work.run(place.node, "apt-get", "install", "-qy", "--download-only", "second", APT_CONFIG="apt.conf")
    assert (work.directory / "first_1.0_all.deb").exists()
    assert (work.directory / "apt/var/cache/apt/archives/second_1.0_all.deb").exists()
    work.quiet("apt-get", "methods/http", connects=[("/methods/http", place.scope)])


def project(work: Work) -> None:
    """A small C program with a test."""
    for number in range(8):
        (work.directory / f"part{number}.c").write_text(f"int part{number}(void) {{ return {number}; }}\n")
    declared = "".join(f"int part{number}(void);\n" for number in range(8))
    total = " + ".join(f"part{number}()" for number in range(8))
    (work.directory / "main.c").write_text(f"{declared}int main(void) {{ return {total} != 28; }}\n")
    program = "parts := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(parts)\n\t$(CC) -o $@ $^\n"
    (work.directory / "Makefile").write_text(program + "test: program\n\t./program\n")


def test_make(site: Site) -> None:
    work, host = site.work("make"), site.places["loopback"].node
    project(work)
    work.run(host, "make", "-j4", "test")
    work.quiet("make", "cc1", "program")
