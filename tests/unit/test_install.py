"""make install into a throwaway root: every file in its place, and the command runs from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
VENV = "usr/lib/hostbrake"

pytestmark = pytest.mark.skipif(
    not shutil.which("make") or not (REPO / ".venv/installed").exists(), reason="not set up by make"
)


def make(target: str, destdir: Path, *settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    result = subprocess.run(
        ["make", "--no-print-directory", target, f"DESTDIR={destdir}", *settings],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    destdir = tmp_path_factory.mktemp("root") / "a root"
    make("install", destdir)
    return destdir


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, with the interpreter that its first line will name once DESTDIR is /."""
    command = [str(root / VENV / "bin/python3"), "-I", str(root / "usr/bin/hostbrake"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def test_every_file_is_in_its_place(root: Path) -> None:
    for path in (
        "usr/lib/systemd/system/hostbrake.service",
        "usr/lib/systemd/system/hostbrake-drill.service",
        "usr/lib/systemd/system/hostbrake-drill.timer",
        "etc/hostbrake/sensor.yml",
        "etc/logrotate.d/hostbrake",
        "usr/bin/hostbrake",
        "usr/share/doc/hostbrake/README.md",
        "usr/share/doc/hostbrake/docs/RULES.md",
    ):
        assert (root / path).is_file(), path
    for path in ("etc/hostbrake/agents.d", "etc/hostbrake/rules.d", "var/log/hostbrake", "var/lib/hostbrake"):
        assert (root / path).is_dir(), path
    shipped = {path.relative_to(REPO) for path in (REPO / "rules").rglob("*.yml")}
    installed = {path.relative_to(root / "usr/share/hostbrake") for path in root.rglob("usr/share/**/rules/**/*.yml")}
    assert installed == shipped


def test_another_prefix_is_where_the_unit_the_command_and_the_rules_are(tmp_path: Path) -> None:
    make("install", tmp_path, "PREFIX=/usr/local")
    unit = (tmp_path / "usr/local/lib/systemd/system/hostbrake.service").read_text().splitlines()
    assert "ExecStart=/usr/local/bin/hostbrake run" in unit
    drill = (tmp_path / "usr/local/lib/systemd/system/hostbrake-drill.service").read_text().splitlines()
    assert "ExecStart=/usr/local/bin/hostbrake drill" in drill
    (documentation,) = (line.partition("=file:")[2] for line in unit if line.startswith("Documentation="))
    assert (tmp_path / documentation.removeprefix("/")).is_file()
    command = tmp_path / "usr/local/bin/hostbrake"
    assert command.read_text().splitlines()[0] == "#!/usr/local/lib/hostbrake/bin/python3 -I"
    listed = [str(tmp_path / "usr/local/lib/hostbrake/bin/python3"), "-I", str(command), "rules", "list", "--json"]
    rules = json.loads(subprocess.run(listed, capture_output=True, text=True, cwd="/").stdout)
    assert rules and all(rule["path"].startswith(f"{tmp_path}/usr/local/share/hostbrake/rules/") for rule in rules)
    make("uninstall", tmp_path, "PREFIX=/usr/local")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {"etc/hostbrake/sensor.yml"}


def test_the_command_runs_from_its_final_place(root: Path) -> None:
    link = root / "usr/bin/hostbrake"
    assert str(link.readlink()) == "../lib/hostbrake/bin/hostbrake"
    assert link.read_text().splitlines()[0] == "#!/usr/lib/hostbrake/bin/python3 -I"
    assert os.access(link, os.X_OK)


def test_nothing_remembers_where_it_was_made(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert str(root).encode() not in content, path
            assert f"{REPO}/sensor".encode() not in content, path


def test_the_installed_command_is_complete(root: Path) -> None:
    version = run(root, "--version")
    assert version.returncode == 0, version.stderr
    check = run(root, "check")
    assert str(root / VENV) in next(line for line in check.stdout.splitlines() if "BPF object" in line)
    assert check.returncode in (0, 1), check.stdout + check.stderr  # 1: this machine may not be ready
    assert list((root / VENV).glob("lib/python*/site-packages/apprise")), "owners can be told"
    rules = run(root, "rules", "validate")
    assert rules.returncode == 0, rules.stdout + rules.stderr


def test_the_installed_report_has_its_page(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    made = run(root, "report", "--state-dir", str(tmp_path), "--html", str(page))
    assert made.returncode == 1 and "no record to report from" in made.stdout, made.stderr
    assert page.read_text().endswith("</html>\n") and "<style>:root" in page.read_text()


def test_an_existing_configuration_is_kept_by_install_and_uninstall(root: Path) -> None:
    config = root / "etc/hostbrake/sensor.yml"
    config.write_text("mode: enforce\n")
    (root / "etc/hostbrake/agents.d/a.yml").write_text("agent: a\n")
    make("install", root)
    assert config.read_text() == "mode: enforce\n"
    said = make("uninstall", root)
    assert "kept: /etc/hostbrake, /var/log/hostbrake, /var/lib/hostbrake" in said
    left = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    assert left == {"etc/hostbrake/sensor.yml", "etc/hostbrake/agents.d/a.yml"}
