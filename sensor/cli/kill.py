"""`hostbrake kill`: works on cgroupfs alone, with the sensor alive or dead, and imports only what it needs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from sensor.cli.targets import PATH, Found, hierarchy, of_agents, one, opened, plural
from sensor.cli.tell import SOCKET, tell
from sensor.respond.act import kill_cgroups
from sensor.respond.cgroupfs import Cgroup

_NAMED = 20


@click.command("kill")
@click.argument("agent", required=False)
@click.option("--cgroup", metavar="PATH", help="this cgroup, from the cgroup v2 root or as a directory below its mount")
@click.option("--all", "everyone", is_flag=True, help="every agent that has a file")
@click.option("--hold", is_flag=True, help="and keep it from starting again, until `hostbrake release`")
@click.option("--cgroup-root", type=PATH, help="look for agents only in this cgroup v2 directory")
@click.option("--agents", "agents_dir", type=PATH, help="directory of agents, instead of the configured")
@click.option("--config", type=PATH, help="instead of /etc/hostbrake/sensor.yml")
@click.option("--state-dir", type=PATH, help="where holds are kept, instead of the configured directory")
@click.option("--control-socket", type=PATH, default=SOCKET, show_default=True, help="where the sensor is told of it")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="how long to wait for what does not die at once",
)
def kill(
    *,
    agent: str | None,
    cgroup: str | None,
    everyone: bool,
    hold: bool,
    cgroup_root: Path | None,
    agents_dir: Path | None,
    config: Path | None,
    state_dir: Path | None,
    control_socket: Path,
    as_json: bool,
    timeout: float,
) -> None:
    """Kill every process of AGENT, of a cgroup, or of all agents, now.

    Exits 0 only when nothing is left alive, 1 when something is (it is named), 2 where what was asked for is
    not known or must not be killed. With --hold its cgroups stay frozen, so that nothing that is started in them
    runs, and the sensor holds those that are made later.
    """
    start = time.monotonic()
    if [agent is not None, cgroup is not None, everyone].count(True) != 1:
        raise click.UsageError("give one of AGENT, --cgroup PATH and --all")
    root, scope = hierarchy(cgroup_root)
    found = of_agents(root, scope, agent, agents_dir, config) if cgroup is None else one(root, cgroup)
    cgroups = opened(root, found)
    frozen = _to_freeze(cgroups) if hold else {}
    processes, survivors = kill_cgroups(cgroups, timeout, hold=hold)
    spent_ms = (time.monotonic() - start) * 1000
    if hold:
        _remember(found, frozen, config, state_dir)
    said = {"processes": processes, "ms": round(spent_ms, 1), "survivors": survivors[:_NAMED], "left": found.left}
    told = tell(control_socket, "killed", agents=found.agents, cgroups=found.paths[:_NAMED], hold=hold, **said)
    _report(found, processes, survivors, spent_ms, as_json, _held(found, told) if hold else None)
    sys.exit(1 if survivors or found.left else 0)


def _to_freeze(cgroups: list[Cgroup]) -> dict[str, int]:
    """Path -> id of those that the hold freezes, and nothing before it did."""
    return {cgroup.path: cgroup.id for cgroup in cgroups if not cgroup.is_held()}


def _remember(found: Found, frozen: dict[str, int], config: Path | None, state_dir: Path | None) -> None:
    """Write the holds; after the kill, which must not wait for a disk."""
    from sensor.cli.targets import state_directory
    from sensor.respond.holds import HOLDS_DIR, Target
    from sensor.respond.holds import hold as keep

    directory = state_directory(config, state_dir) / HOLDS_DIR
    targets = [Target("agent", name) for name in found.agents] or [Target("cgroup", path) for path in found.paths]
    for target in targets:
        own = {path: number for path, number in frozen.items() if found.owners.get(path, path) == target.name}
        try:
            keep(directory, target, own)
        except OSError as error:
            where = ", ".join(own) or "no cgroup"
            why = f"{error.filename or directory}: {error.strerror}"
            found.left.append(
                f"the hold on {target}: it cannot be kept ({why}); frozen until `hostbrake thaw`: {where}"
            )


def _held(found: Found, told: dict[str, Any] | None) -> str:
    """What the hold covers, and what not."""
    there = f"held: {plural(len(found.paths), 'cgroup')} stay frozen, and what is started there does not run"
    if told is not None:
        return f"{there}; the sensor holds those that are made later"
    return f"{there}; no sensor answers, so a cgroup that is made later (a new container, a restarted unit) is not held"


def _report(  # noqa: PLR0917 (what there is to say)
    found: Found, processes: int, survivors: list[str], spent_ms: float, as_json: bool, held: str | None
) -> None:
    if as_json:
        from sensor.record.encode import encode

        report = {
            "cgroups": found.paths,
            "processes": processes,
            "ms": round(spent_ms, 1),
            "survivors": survivors,
            "left": found.left,
            **({"held": held} if held else {}),
        }
        click.echo(encode(report))
        return
    where = plural(len(found.paths), "cgroup")
    click.echo(f"killed {plural(processes, 'process')} in {where} in {spent_ms:.1f} ms")
    if held:
        click.echo(held)
    for survivor in survivors[:_NAMED]:
        click.echo(f"alive: {survivor}", err=True)
    if len(survivors) > _NAMED:
        click.echo(f"alive: {len(survivors) - _NAMED} more", err=True)
    for left in found.left:
        click.echo(f"not killed: {left}", err=True)
