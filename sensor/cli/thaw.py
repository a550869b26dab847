"""`hostbrake thaw`: undoes `freeze` on cgroupfs alone, with the sensor alive or dead."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensor.cli.freeze import chosen, report, target_options
from sensor.cli.targets import PATH, opened, refuse
from sensor.respond.act import freeze_cgroups
from sensor.respond.cgroupfs import Cgroup, CgroupRoot

if TYPE_CHECKING:
    from sensor.respond.cases import Case


@click.command("thaw")
@target_options
@click.option("--force", is_flag=True, help="also what waits for `hostbrake approve`; the case is closed then")
@click.option("--state-dir", type=PATH, help="where the sensor keeps its state, instead of the configured")
def thaw(
    *,
    agent: str | None,
    cgroup: str | None,
    cgroup_root: Path | None,
    agents_dir: Path | None,
    config: Path | None,
    as_json: bool,
    timeout: float,
    force: bool,
    state_dir: Path | None,
) -> None:
    """Let AGENT or a cgroup go on, and what of it was frozen by itself.

    What the sensor froze to ask about is let go by `hostbrake approve`, or here with --force. Exits 0 only when all of
    it goes on, 1 when something does not, 2 where what was asked for is not known.
    """
    start = time.monotonic()
    root, found = chosen(agent, cgroup, cgroup_root, agents_dir, config, "thawed")
    found.paths = [path for top in found.paths for path in [top, *(root.below(top) if agent else [])]]
    held = opened(root, found)
    for each in [each for each in held if not each.is_held()]:
        held.remove(each)
        each.close()
    if not force:
        _refuse_pending(held, config, state_dir)
    found.paths = [each.path for each in held]
    processes, still = freeze_cgroups(held, True, timeout)
    found.left += _held_above(root, found.paths)
    report(found, processes, still, "thawed", (time.monotonic() - start) * 1000, as_json)


def _refuse_pending(held: list[Cgroup], config: Path | None, state_dir: Path | None) -> None:
    """The state is read from its file: the sensor may be dead."""
    ids = {each.id for each in held}
    waiting = [case for case in _cases(config, state_dir) if any(ref.id in ids for ref in case.cgroups)]
    if waiting:
        names = ", ".join(case.id for case in waiting)
        refuse(f"not thawed: it waits for an answer; hostbrake approve {names}, or thaw with --force", 1)


def _cases(config: Path | None, state_dir: Path | None) -> list[Case]:
    from sensor.config import Config, load_config
    from sensor.faults import FaultsError
    from sensor.node import boot_id
    from sensor.respond.cases import STATE_FILE, DamagedError, read

    try:
        directory = state_dir or Path(load_config(config, {}).state_dir)
    except FaultsError:
        directory = Path(Config().state_dir)
    try:
        state = read(directory / STATE_FILE)
    except (DamagedError, OSError) as error:
        refuse(f"whether it waits for an answer cannot be told: {directory / STATE_FILE}: {error}; give --force", 1)
    return state.cases if state.boot == boot_id() else []


def _held_above(root: CgroupRoot, paths: list[str]) -> list[str]:
    left = []
    for path in paths:
        cgroup = root.open(path)
        if cgroup is not None:
            if cgroup.is_held_above():
                left.append(f"{path}: a cgroup above it is frozen")
            cgroup.close()
    return left
