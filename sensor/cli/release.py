"""`hostbrake release`: lets go what is held, and undoes exactly what the hold did; with the sensor alive or dead."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sensor.cli.targets import PATH, hierarchy, plural, refuse, state_directory
from sensor.cli.tell import SOCKET, tell
from sensor.respond.holds import HOLDS_DIR, Target, forget, thaw


@click.command("release")
@click.argument("agent", required=False)
@click.option("--cgroup", metavar="PATH", help="this cgroup, as it was named when it was held")
@click.option("--config", type=PATH, help="instead of /etc/hostbrake/sensor.yml")
@click.option("--state-dir", type=PATH, help="where holds are kept, instead of the configured directory")
@click.option("--control-socket", type=PATH, default=SOCKET, show_default=True, help="where the sensor is told of it")
def release(
    *, agent: str | None, cgroup: str | None, config: Path | None, state_dir: Path | None, control_socket: Path
) -> None:
    """Let AGENT or a cgroup start again after `kill --hold`.

    Exits 0 once nothing of it is held, 1 where nothing was, or where something could not be let go.
    """
    if (agent is None) == (cgroup is None):
        raise click.UsageError("give one of AGENT and --cgroup PATH")
    failed = lift_hold(agent, cgroup, state_directory(config, state_dir) / HOLDS_DIR, control_socket)
    for why in failed:
        click.echo(f"not released: {why}", err=True)
    sys.exit(1 if failed else 0)


def lift_hold(agent: str | None, cgroup: str | None, directory: Path, control_socket: Path) -> list[str]:
    """Take the hold back and thaw what was frozen for it; what failed, in words."""
    root, _ = hierarchy(None)
    below_mount = cgroup is not None and Path(cgroup).is_relative_to(root.mount)
    path = "/" + (cgroup or "").removeprefix(root.mount if below_mount else "").strip("/")
    target = Target("agent", agent) if agent is not None else Target("cgroup", path)
    try:
        held = forget(directory, target)
    except OSError as error:
        refuse(f"not released: {error.filename or directory}: {error.strerror}", 1)
    if held is None:
        refuse(f"nothing holds {target}; `hostbrake thaw` lets go what is frozen otherwise", 1)
    failed = thaw(root, held.frozen)
    tell(control_socket, "released", target=str(target))
    click.echo(f"released {target}: {plural(len(held.frozen) - len(failed), 'cgroup')} thawed")
    return failed
