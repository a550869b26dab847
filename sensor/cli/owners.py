"""Whose each cgroup is, asked of the node itself and not of the sensor, which may be dead."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sensor.agents_file import MATCH_FORMS, AgentFile
from sensor.context.agents import Agents

if TYPE_CHECKING:
    from sensor.context.recognise import Recogniser

_PATHS = frozenset({"cgroup", "systemd"})
_SLURM_S = 3.0
"""How long to wait for what Slurm tells."""
_POLL_S = 0.02


def told_forms(files: Sequence[AgentFile]) -> frozenset[str]:
    """The forms of matches by which this node's cgroups can be told."""
    used = {match.form for file in files for match in file.match}
    if used <= _PATHS:
        return _PATHS
    from sensor.context.containers import Containers
    from sensor.context.recognise import missing
    from sensor.context.slurm import Jobs

    return frozenset(MATCH_FORMS) - {"user"} - missing(Agents(files), Containers(), Jobs()).keys()


def owners_of(mount: Path, files: Sequence[AgentFile], paths: Iterable[str]) -> dict[str, str]:
    """The agent, by name, of each of these cgroups that has one. `mount` is where the whole v2 hierarchy is."""
    agents = Agents(files)
    if {match.form for file in files for match in file.match} <= _PATHS | {"user"}:
        from sensor.context.workload import parse

        found = {path: agents.of_cgroup(path, parse(path)) for path in paths}
    else:
        from sensor.context.recognise import Recogniser
        from sensor.context.users import Users

        recogniser = Recogniser(mount, agents, user_name=Users().name)
        cgroups = list(enumerate(paths))
        for cgroup_id, path in cgroups:
            recogniser.of(cgroup_id, path)
        _wait(recogniser)
        found = {path: recogniser.of(cgroup_id, path) for cgroup_id, path in cgroups}
    return {path: agent.agent for path, agent in found.items() if agent is not None}


def _wait(recogniser: Recogniser) -> None:
    deadline = time.monotonic() + _SLURM_S
    while recogniser.is_asking() and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        recogniser.news()
