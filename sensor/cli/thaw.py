"""`hostbrake thaw`: undoes `freeze` on cgroupfs alone, with the sensor alive or dead."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensor.cli.freeze import chosen, report, target_options
from sensor.cli.targets import PATH, opened, refuse, state_directory
from sensor.respond.act import freeze_cgroups
from sensor.respond.cgroupfs import Cgroup, CgroupRoot

if TYPE_CHECKING:
    from sensor.respond.cases import Case, State


@click.command("thaw")
@target_options
@click.option("--force", is_flag=True, help="also what waits for an answer: it is approved, once")
@click.option("--state-dir", type=PATH, help="where the sensor keeps its state, instead of the configured")
@click.option(
    "--control-socket",
    type=PATH,
    default=Path("/run/hostbrake/control.sock"),
    show_default=True,
    help="where the sensor listens, for --force",
)
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
    control_socket: Path,
) -> None:
    """Let AGENT or a cgroup go on, and what of it was frozen by itself.

    What the sensor froze to ask about is let go by `hostbrake approve`, or here with --force; what `kill --hold` keeps
    down, by `hostbrake release` alone. Exits 0 only when all of it goes on, 1 when something does not, 2 where what
    was asked for is not known.
    """
    start = time.monotonic()
    root, found = chosen(agent, cgroup, cgroup_root, agents_dir, config, "thawed")
    found.paths = [path for top in found.paths for path in [top, *(root.below(top) if agent else [])]]
    held = opened(root, found)
    for each in [each for each in held if not each.is_held()]:
        held.remove(each)
        each.close()
    _refuse_held(held, state_directory(config, state_dir), force)
    _settle_cases(held, _state_file(config, state_dir), control_socket if force else None)
    found.paths = [each.path for each in held]
    processes, still = freeze_cgroups(held, True, timeout)
    found.left += _held_above(root, found.paths)
    if not (found.paths or found.left or as_json):
        click.echo("nothing of it was frozen")
        return
    report(found, processes, still, "thawed", (time.monotonic() - start) * 1000, as_json)


def _state_file(config: Path | None, state_dir: Path | None) -> Path:
    from sensor.config import Config, load_config
    from sensor.faults import FaultsError
    from sensor.respond.cases import STATE_FILE

    try:
        return (state_dir or Path(load_config(config, {}).state_dir)) / STATE_FILE
    except FaultsError:
        return Path(Config().state_dir) / STATE_FILE


def _refuse_held(held: list[Cgroup], state_dir: Path, force: bool) -> None:
    """What `kill --hold` froze is for `release` alone: a sensor would freeze it again."""
    from sensor.respond.holds import HOLDS_DIR, read_holds

    try:
        holds, _ = read_holds(state_dir / HOLDS_DIR)
    except OSError as error:
        if not force:
            refuse(f"whether it is held cannot be told: {error.filename}: {error.strerror}; give --force", 1)
        return
    ids = {each.id for each in held}
    for each in holds:
        if ids & set(each.frozen.values()):
            option = each.target.name if each.target.kind == "agent" else f"--cgroup {each.target.name}"
            refuse(f"not thawed: it is held by `kill --hold`; hostbrake release {option}", 1)


def _settle_cases(held: list[Cgroup], file: Path, forced: Path | None) -> None:
    """Refuse what waits for an answer, or answer it: at the socket `forced`, or in the state where no sensor runs."""
    from sensor.node import boot_id
    from sensor.respond.cases import DamagedError, read

    try:
        state = read(file)
    except (DamagedError, OSError) as error:
        if forced is None:
            refuse(f"whether it waits for an answer cannot be told: {file}: {error}; give --force", 1)
        return
    ids = {each.id for each in held}
    waiting = [case for case in state.cases if any(ref.id in ids for ref in case.cgroups)]
    if not waiting or state.boot != boot_id():
        return
    if forced is None:
        names = ", ".join(case.id for case in waiting)
        refuse(f"not thawed: it waits for an answer; hostbrake approve {names}, or thaw with --force", 1)
    _answer(state, waiting, file, forced)


def _answer(state: State, waiting: list[Case], file: Path, socket: Path) -> None:
    import msgspec

    from sensor.control import ControlError, NoSensorError, ask
    from sensor.respond.cases import write

    try:
        for case in waiting:
            ask(socket, "approve", id=case.id)
    except NoSensorError:
        state.cases = [case for case in state.cases if case not in waiting]
        try:
            write(file, msgspec.json.encode(state))
        except OSError as error:
            refuse(f"not thawed: {file} cannot be written ({error.strerror}), and the sensor would freeze it again", 1)
    except ControlError as error:
        refuse(f"not thawed: {error}", 1)


def _held_above(root: CgroupRoot, paths: list[str]) -> list[str]:
    left = []
    for path in paths:
        cgroup = root.open(path)
        if cgroup is not None:
            if cgroup.is_held_above():
                left.append(f"{path}: a cgroup above it is frozen")
            cgroup.close()
    return left
