"""`hostbrake agents list` on live cgroups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sensor_helpers import hostbrake, path_of, workers_in

pytestmark = pytest.mark.kernel

AGENT = """
agent: {name}
purpose: "[bold]tests[/bold]"
owner: {{name: Ada Example, notify: ["mailto:ada@example.org"]}}
match: [{{cgroup: "{path}/**"}}]
{limits}
"""


def test_who_owns_what(cgroup: Path, tmp_path: Path) -> None:
    directory = tmp_path / "agents.d"
    directory.mkdir()
    for name, limits in (("rome", "egress: {default: deny, allow: [10.0.0.0/8]}\ngpu: {allow: false}"), ("idle", "")):
        text = AGENT.format(name=name, path=f"{path_of(cgroup)}/{name}", limits=limits)
        (directory / f"{name}.yml").write_text(text)
    workers_in(cgroup / "rome", 2)
    (tmp_path / "empty").mkdir()
    nobody = hostbrake("agents", "list", "--agents", tmp_path / "empty", "--config", "/dev/null")
    assert (nobody.returncode, nobody.stdout) == (0, f"no agents in {tmp_path}/empty\n")
    workers_in(cgroup / "rome" / "below", 1)
    asked = ("agents", "list", "--agents", directory, "--config", "/dev/null")
    done = hostbrake(*asked, "--json")
    assert done.returncode == 0, done.stderr
    idle, rome = json.loads(done.stdout)["agents"]
    assert rome["owner"] == "Ada Example" and rome["processes"] == 3
    assert rome["cgroups"] == [f"{path_of(cgroup)}/rome", f"{path_of(cgroup)}/rome/below"]
    assert rome["limits"] == ["egress to 10.0.0.0/8", "no GPU"]
    assert (idle["processes"], idle["cgroups"], idle["limits"]) == (0, [], [])
    (directory / "broken.yml").write_text("agent: [\n")
    done = hostbrake(*asked)
    assert done.returncode == 2 and "broken.yml" in done.stderr
    assert "Ada Example" in done.stdout and "[bold]" in done.stdout
