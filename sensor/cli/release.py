"""`hostbrake release`: lets go what is held or cut off, and undoes exactly what the hold and `isolate` did."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sensor.cli.targets import PATH, hierarchy, of_agents, plural, printable, state_directory
from sensor.cli.tell import SOCKET, tell
from sensor.control import ControlError, NoSensorError, ask
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.holds import HOLDS_DIR, Target, forget, thaw


@click.command("release")
@click.argument("agent", required=False)
@click.option("--cgroup", metavar="PATH", help="this cgroup, from the cgroup v2 root or as a directory below its mount")
@click.option("--agents", "agents_dir", type=PATH, metavar="DIR", help="agents, instead of the configured")
@click.option("--config", type=PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml")
@click.option("--state-dir", type=PATH, help="where holds are kept, instead of the configured directory")
@click.option("--control-socket", type=PATH, default=SOCKET, show_default=True, help="where the sensor listens")
def release(
    *,
    agent: str | None,
    cgroup: str | None,
    agents_dir: Path | None,
    config: Path | None,
    state_dir: Path | None,
    control_socket: Path,
) -> None:
    """Undo `kill --hold` and `isolate`: let AGENT or a cgroup start again, and let it out again.

    A hold is lifted with the sensor alive or dead; only a sensor keeps a workload cut off. Exits 0 once nothing of it
    is held or cut off, 1 where nothing was, or where something could not be let go.
    """
    if (agent is None) == (cgroup is None):
        raise click.UsageError("give one of AGENT and --cgroup PATH")
    root, _ = hierarchy(None)
    below_mount = cgroup is not None and Path(cgroup).is_relative_to(root.mount)
    path = "/" + (cgroup or "").removeprefix(root.mount if below_mount else "").strip("/")
    target = Target("agent", agent) if agent is not None else Target("cgroup", path)
    held, failed = lift_hold(root, target, state_directory(config, state_dir) / HOLDS_DIR, control_socket)
    cut, left = _let_out(target, agents_dir, config, control_socket)
    if not (held or cut or failed or left):
        failed.append(f"nothing holds {target} or cuts it off; `hostbrake thaw` lets go what is frozen otherwise")
    for why in [*failed, *left]:
        click.echo(f"not released: {why}", err=True)
    sys.exit(1 if failed or left else 0)


def lift_hold(root: CgroupRoot, target: Target, directory: Path, control_socket: Path) -> tuple[bool, list[str]]:
    """Take the hold back and thaw what was frozen for it: (whether there was one, what failed in words)."""
    try:
        held = forget(directory, target)
    except OSError as error:
        return True, [f"{error.filename or directory}: {error.strerror}"]
    if held is None:
        return False, []
    failed = thaw(root, held.frozen)
    tell(control_socket, "released", target=str(target))
    click.echo(f"released {target}: {plural(len(held.frozen) - len(failed), 'cgroup')} thawed")
    return True, failed


def _let_out(
    target: Target, agents_dir: Path | None, config: Path | None, control_socket: Path
) -> tuple[bool, list[str]]:
    """Have the sensor undo `isolate`: (whether anything was cut off, what failed in words)."""
    try:
        isolated = ask(control_socket, "isolated")["cgroups"]
        wanted = [path for path in isolated if path in _paths(target, agents_dir, config)] if isolated else []
        for path in wanted:
            ask(control_socket, "release", cgroup=path)
            click.echo(f"released {path}: it is no longer cut off")
    except NoSensorError:
        return False, []
    except ControlError as error:
        return False, [str(error)]
    return bool(wanted), []


def _paths(target: Target, agents_dir: Path | None, config: Path | None) -> set[str]:
    if target.kind == "cgroup":
        return {printable(target.name)}
    root, scope = hierarchy(None)
    return set(map(printable, of_agents(root, scope, target.name, agents_dir, config).paths))
