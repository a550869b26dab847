"""`hostbrake check` on the live node: what it says of the node, of files, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

COMMAND = [sys.executable, "-c", "from sensor.cli.check import check; check()"]


def check(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*before, *COMMAND, *arguments], capture_output=True, text=True)


def report(*arguments: str, before: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
    result = check("--json", *arguments, before=before)
    assert result.stdout.count("\n") == 1, result.stderr
    return result.returncode, json.loads(result.stdout)


def missing(found: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["says"] for item in found["node"] if not item["ready"]}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Arguments for a configuration of its own, whatever this node has in /etc."""
    (tmp_path / "agents.d").mkdir()
    config = tmp_path / "sensor.yml"
    config.write_text(f"mode: monitor\nagents: {tmp_path}/agents.d\n")
    return ["--config", str(config)]


def test_a_ready_node_and_valid_files(files: list[str]) -> None:
    code, found = report(*files)
    assert (code, found["ready"], missing(found), found["faults"]) == (0, True, {}, [])
    assert (found["mode"], found["agents"]) == ("monitor", 0)
    assert found["rules"]["full"] > 0


def test_the_table_says_the_same(files: list[str]) -> None:
    result = check(*files)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}


def test_without_root(files: list[str]) -> None:
    # The bounding set, so that it holds for uid 0 too and files stay readable.
    code, found = report(*files, before=("setpriv", "--bounding-set", "-bpf,-net_admin,-sys_admin"))
    assert (code, found["ready"]) == (1, False)
    assert missing(found)["root"].startswith("root lacks CAP_NET_ADMIN, CAP_BPF;")
    assert set(missing(found)) == {"root", "bpf", "cgroup-bpf"}


def test_in_a_pid_namespace_of_its_own(files: list[str]) -> None:
    code, found = report(*files, before=("unshare", "--pid", "--fork", "--mount-proc"))
    assert code == 1
    assert "--pid=host" in missing(found)["namespaces"]


def test_on_a_read_only_cgroupfs(files: list[str], cgroup: Path) -> None:
    script = f'mount --bind "{cgroup}" "{cgroup}" && mount -o remount,ro,bind "{cgroup}" && exec "$@"'
    config = Path(files[1])
    config.write_text(config.read_text() + f"cgroup_root: {cgroup}\n")
    code, found = report(*files, before=("unshare", "--mount", "sh", "-ec", script, "sh"))
    assert code == 1
    assert set(missing(found)) == {"cgroup v2", "cgroup-bpf"}
    assert "read-only" in missing(found)["cgroup v2"]


def test_the_faults_of_all_files_come_in_one_run(files: list[str], tmp_path: Path) -> None:
    config = Path(files[1])
    rules = tmp_path / "rules"
    rules.mkdir()
    config.write_text(f"mode: enforced\nrules: [{rules}]\nagents: {tmp_path}/agents.d\nkills_per_minute: 0\n")
    (tmp_path / "agents.d/a.yml").write_text("agent: a\nagent: b\n")
    (rules / "broken.yml").write_text("title: broken\ndetection: {}\n")
    result = check(*files)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"{tmp_path}/agents.d/a.yml:1: ")
    assert f"{tmp_path}/agents.d/a.yml:2: duplicate key 'agent'" in lines
    assert f"{config}:1: mode: 'enforced' is not one of monitor, enforce" in lines
    assert f"{config}:4: kills_per_minute: must be at least 1, not 0" in lines
    assert any(line.startswith(f"{rules}/broken.yml:") for line in lines)
    code, found = report(*files)
    assert (code, found["ready"], found["rules"]) == (2, False, None)
    assert len(found["faults"]) == len(lines)


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scontrol is on the PATH."""
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.mark.usefixtures("no_slurm")
def test_a_match_that_this_node_cannot_tell_is_a_warning(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "agents.d/a.yml").write_text(
        "agent: a\npurpose: tests\nowner: {name: Ada, notify: ['mailto://ada@example.org']}\n"
        "match: [{slurm_account: models}, {slurm_user: a}, {container_id: 0123456789ab}, {cgroup: /a.slice}]\n"
    )
    code, found = report(*files)
    assert (code, found["agents"]) == (0, 1)
    says = "agent a: nothing is recognised by slurm_account (models): there is no scontrol on the PATH"
    assert found["warnings"] == [says]


def test_a_program_that_is_a_link_is_a_warning(files: list[str], tmp_path: Path) -> None:
    """The limit is judged by the file that the kernel runs."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/real").touch(mode=0o755)
    (tmp_path / "bin/alias").symlink_to("real")
    agent = "agent: a\npurpose: p\nowner: {name: A, notify: ['mailto://a@example.org']}\nmatch: [{cgroup: /a}]\n"
    file = tmp_path / "agents.d/a.yml"
    file.write_text(f"{agent}exec: {{deny: ['{tmp_path}/bin/alias', '*/no-such-program']}}\n")
    says = f"agent a: exec.deny {tmp_path}/bin/alias does not mean {tmp_path}/bin/alias: that is a link to "
    assert report(*files)[1]["warnings"] == [f"{says}{tmp_path}/bin/real"]
    file.write_text(f"{agent}exec: {{deny: ['*/alias']}}\n")
    path = ("env", f"PATH={tmp_path}/bin:{os.environ['PATH']}")
    (warning,) = report(*files, before=path)[1]["warnings"]
    assert warning.startswith("agent a: exec.deny */alias ") and warning.endswith("/bin/real")
    file.write_text(f"{agent}exec: {{deny: ['*/alias', '*/real']}}\n")
    assert report(*files, before=path)[1]["warnings"] == []


def test_what_does_less_than_it_says_is_a_warning(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "agents.d/a.yml").write_text(
        "agent: a\npurpose: tests\nowner: {name: Ada, notify: ['mailto://ada@example.org']}\n"
        "match: [{cgroup: /a.slice}]\negress: {default: deny}\nresponse: {action: kill}\n"
    )
    rules = tmp_path / "rules"
    rules.mkdir()
    code, found = report(*files, "--rules", str(rules))
    assert code == 0
    assert found["warnings"] == [
        "there are none, so nothing is ever found; `rules` in the configuration replaces the shipped ones",
    ]
    (rules / "rule.yml").write_text(
        "title: R\nlogsource: {category: process_creation}\nresponse: {action: isolate}\n"
        "detection: {a: {Image: /a}, b: {Hashes: b}, condition: a or b}\n"
    )
    assert report(*files, "--rules", str(rules))[1]["warnings"] == ["1 degraded; why: hostbrake rules coverage"]


GPU_AGENT = """
agent: a
purpose: tests
owner: {name: Ada, notify: ['mailto://ada@example.org']}
match: [%s]
gpu: {allow: %s}
"""


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize(
    ("mode", "agent", "warned"),
    [
        ("enforce", None, True),
        ("monitor", None, False),
        ("enforce", GPU_AGENT % ("{cgroup: /a.slice}", "true"), False),
        ("enforce", GPU_AGENT % ("{cgroup: /a.slice}", "false"), True),
        ("enforce", GPU_AGENT % ("{slurm_job_name: a}", "true"), True),
    ],
)
def test_to_enforce_with_nobody_who_may_use_gpus_is_a_warning(
    files: list[str], tmp_path: Path, mode: str, agent: str | None, warned: bool
) -> None:
    if agent:
        (tmp_path / "agents.d/a.yml").write_text(agent)
    code, found = report(*files, "--mode", mode)
    says = (
        "no agent that can be recognised has gpu: {allow: true}, so "
        "`GPU opened outside the workloads that may use one` answers "
        "every workload that opens a GPU with kill of its cgroup"
    )
    assert (code, found["mode"]) == (0, mode)
    assert (says in found["warnings"]) is warned
