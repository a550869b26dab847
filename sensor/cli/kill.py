"""`hostbrake kill`: works on cgroupfs alone, with the sensor alive or dead, and imports only what it needs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from sensor.cli.targets import PATH, Found, hierarchy, of_agents, one, opened, plural
from sensor.respond.act import kill_cgroups

_NAMED = 20


@click.command("kill")
@click.argument("agent", required=False)
@click.option("--cgroup", metavar="PATH", help="this cgroup, from the cgroup v2 root or as a directory below its mount")
@click.option("--all", "everyone", is_flag=True, help="every agent that has a file")
@click.option("--cgroup-root", type=PATH, help="look for agents only in this cgroup v2 directory")
@click.option("--agents", "agents_dir", type=PATH, help="directory of agents, instead of the configured")
@click.option("--config", type=PATH, help="instead of /etc/hostbrake/sensor.yml")
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
    cgroup_root: Path | None,
    agents_dir: Path | None,
    config: Path | None,
    as_json: bool,
    timeout: float,
) -> None:
    """Kill every process of AGENT, of a cgroup, or of all agents, now.

    Exits 0 only when nothing is left alive, 1 when something is (it is named), 2 where what was asked for is
    not known or must not be killed.
    """
    start = time.monotonic()
    if [agent is not None, cgroup is not None, everyone].count(True) != 1:
        raise click.UsageError("give one of AGENT, --cgroup PATH and --all")
    root, scope = hierarchy(cgroup_root)
    found = of_agents(root, scope, agent, agents_dir, config) if cgroup is None else one(root, cgroup)
    processes, survivors = kill_cgroups(opened(root, found), timeout)
    _report(found, processes, survivors, (time.monotonic() - start) * 1000, as_json)
    sys.exit(1 if survivors or found.left else 0)


def _report(found: Found, processes: int, survivors: list[str], spent_ms: float, as_json: bool) -> None:
    if as_json:
        from sensor.record.encode import encode

        report = {
            "cgroups": found.paths,
            "processes": processes,
            "ms": round(spent_ms, 1),
            "survivors": survivors,
            "left": found.left,
        }
        click.echo(encode(report))
        return
    where = plural(len(found.paths), "cgroup")
    click.echo(f"killed {plural(processes, 'process')} in {where} in {spent_ms:.1f} ms")
    for survivor in survivors[:_NAMED]:
        click.echo(f"alive: {survivor}", err=True)
    if len(survivors) > _NAMED:
        click.echo(f"alive: {len(survivors) - _NAMED} more", err=True)
    for left in found.left:
        click.echo(f"not killed: {left}", err=True)
