"""Which cgroups `kill`, `freeze` and `thaw` are to act on: by cgroupfs alone, with the sensor alive or dead.

Only what a command needs is imported, and only when it needs it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sensor.node import NodeError, cgroup2_mount
from sensor.respond.cgroupfs import Cgroup, CgroupRoot
from sensor.respond.guards import Guards

if TYPE_CHECKING:
    from sensor.agents_file import AgentFile

PATH = click.Path(path_type=Path)


class Found:
    """What is to be acted on, and what stands in the way of all of it."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.left: list[str] = []
        """What this command will not or cannot act on, one sentence each."""
        self.agents: list[str] = []
        """The agents that were asked for."""
        self.owners: dict[str, str] = {}
        """Path -> the agent whose cgroup that is."""


def hierarchy(cgroup_root: Path | None) -> tuple[CgroupRoot, str]:
    """The hierarchy, and the path of the part of it in which agents are looked for."""
    try:
        mount = cgroup2_mount().resolve()
    except NodeError as error:
        refuse(str(error), 1)
    watched = cgroup_root.resolve() if cgroup_root else mount
    if not watched.is_dir():
        refuse(f"{cgroup_root} is no directory", 2)
    if not watched.is_relative_to(mount):
        return CgroupRoot(watched), "/"  # another mount of the hierarchy
    return CgroupRoot(mount), "/" + str(watched.relative_to(mount)).removeprefix(".")


def one(root: CgroupRoot, given: str, done: str = "killed") -> Found:
    """The cgroup that was named; `done` is what would be done to it, in words."""
    below_mount = Path(given).is_relative_to(root.mount)
    path = given.removeprefix(root.mount) if below_mount else given
    held = root.open(path)
    if held is None or not given.startswith("/"):
        refuse(f"there is no cgroup {given!r}; it counts from {root.mount} and starts with /", 2)
    path = held.path
    held.close()
    found = Found()
    found.paths = _workloads(root, path)
    guards = Guards(root, own="this command")
    for target in found.paths:
        refusal = guards.refusal(target, workload=target != path)
        if refusal:
            refuse(f"not {done}: {refusal}", 2)
    return found


def _workloads(root: CgroupRoot, path: str) -> list[str]:
    if "slurmstepd.scope/" not in path:
        return [path]
    from sensor.respond.plan import workloads

    return [target.path for target in workloads(root, path)]


def of_agents(root: CgroupRoot, scope: str, name: str | None, agents_dir: Path | None, config: Path | None) -> Found:
    """The cgroups of the agent `name`, or of every agent."""
    from sensor.agents_file import read_agents

    directory, protect = configured(agents_dir, config)
    files, faults = read_agents(directory)
    for fault in faults:
        click.echo(str(fault), err=True)
    wanted = [file for file in files if name in (None, file.agent)]
    if not wanted:
        known = ", ".join(sorted(file.agent for file in files)) or "none"
        refuse(f"no agent {name!r} in {directory}; known: {known}" if name else f"no agents in {directory}", 2)
    found = Found()
    found.agents = [file.agent for file in wanted]
    if name is None and faults:
        found.left.append(f"the agents of files with faults in {directory}")
    found.left += _unresolved(wanted)
    guards = Guards(root, protect, own="this command")
    _find(root, scope, files, {file.agent for file in wanted}, guards=guards, found=found)
    return found


def configured(agents_dir: Path | None, config: Path | None) -> tuple[Path, list[str]]:
    """Where the agents are, and what the site protects; a broken configuration does not keep anyone from killing."""
    from sensor.agents_file import DEFAULT_AGENTS_DIR
    from sensor.config import load_config
    from sensor.faults import FaultsError

    try:
        loaded = load_config(config, {})
    except FaultsError as error:
        directory = agents_dir or Path(DEFAULT_AGENTS_DIR)
        for fault in error.faults:
            click.echo(str(fault), err=True)
        click.echo(f"hostbrake: the configuration is broken; agents are taken from {directory}", err=True)
        return directory, []
    return agents_dir or Path(loaded.agents), loaded.protect


def _unresolved(wanted: list[AgentFile]) -> list[str]:
    """Matches that name no cgroups, or that nobody here could tell."""
    from sensor.cli.owners import told_forms

    told = told_forms(wanted)
    return [
        f"whatever of {file.agent} only `{match.form}: {match.pattern}` matches: it cannot be told from cgroups"
        for file in wanted
        for match in file.match
        if match.form not in told
    ]


def _find(
    root: CgroupRoot, scope: str, files: list[AgentFile], wanted: set[str], *, guards: Guards, found: Found
) -> None:
    from sensor.cli.owners import owners_of
    from sensor.context.workload import parse
    from sensor.respond.plan import is_workload

    owners = owners_of(Path(root.mount), files, [scope, *root.below(scope)])
    for path in _topmost(root, owners, wanted, found):
        for target in _workloads(root, path):
            refusal = guards.refusal(target, workload=is_workload(target, parse(target).container_id))
            if refusal:
                found.left.append(refusal)
            else:
                found.paths.append(target)
                found.owners[target] = owners[path]


def _topmost(root: CgroupRoot, owners: dict[str, str], wanted: set[str], found: Found) -> list[str]:
    """The wanted agents' cgroups that lie in no other of them, and hold none of another agent."""
    foreign = {above for path, owner in owners.items() if owner not in wanted for above in _lineage(path)}
    tops: list[str] = []
    for path, owner in owners.items():
        if owner not in wanted or any(above in tops for above in _lineage(path)):
            continue
        if path not in foreign:
            tops.append(path)
        elif _has_own_processes(root, path):
            found.left.append(f"what runs in {path} itself, which holds another agent too")
    return tops


def _lineage(path: str) -> list[str]:
    """`path` and all above it but the root."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts) + 1)]


def _has_own_processes(root: CgroupRoot, path: str) -> bool:
    return bool(Path(root.mount, path.strip("/"), "cgroup.procs").read_bytes().strip())


def opened(root: CgroupRoot, found: Found) -> list[Cgroup]:
    """Those that are still there."""
    cgroups = []
    for path in found.paths:
        try:
            cgroup = root.open(path)
        except OSError as error:
            found.left.append(f"{path}: {error.strerror}")
            continue
        if cgroup is not None:  # one that has gone since holds nobody
            cgroups.append(cgroup)
    return cgroups


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def refuse(why: str, code: int) -> NoReturn:
    click.echo(f"hostbrake: {why}", err=True)
    sys.exit(code)


def state_directory(config: Path | None, state_dir: Path | None) -> Path:
    """Where the sensor keeps its state; a broken configuration means the default."""
    from sensor.config import Config, load_config
    from sensor.faults import FaultsError

    try:
        return state_dir or Path(load_config(config, {}).state_dir)
    except FaultsError:
        return Path(Config().state_dir)


def printable(path: str) -> str:
    """A cgroup's path as the sensor and its alerts write it: bytes that are no text are spelt out."""
    return os.fsencode(path).decode(errors="backslashreplace")
