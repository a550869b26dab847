"""`hostbrake freeze`: works on cgroupfs alone, with the sensor alive or dead."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from sensor.cli.targets import PATH, Found, hierarchy, of_agents, one, opened, plural
from sensor.respond.act import freeze_cgroups
from sensor.respond.cgroupfs import CgroupRoot

Command = Callable[..., None]


def target_options(command: Command) -> Command:
    """What `freeze` and `thaw` are told alike."""
    options = (
        click.argument("agent", required=False),
        click.option(
            "--cgroup", metavar="PATH", help="this cgroup, from the cgroup v2 root or as a directory below its mount"
        ),
        click.option("--cgroup-root", type=PATH, help="look for the agent only in this cgroup v2 directory"),
        click.option("--agents", "agents_dir", type=PATH, metavar="DIR", help="agents, instead of the configured"),
        click.option("--config", type=PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml"),
        click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output"),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="how long to wait for what does not follow at once",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("freeze")
@target_options
def freeze(
    *,
    agent: str | None,
    cgroup: str | None,
    cgroup_root: Path | None,
    agents_dir: Path | None,
    config: Path | None,
    as_json: bool,
    timeout: float,
) -> None:
    """Stop every process of AGENT or of a cgroup where it is, now, until `hostbrake thaw`.

    Exits 0 only when all of it has stopped, 1 when something has not (it is named), 2 where what was asked for is not
    known or must not be frozen.
    """
    start = time.monotonic()
    root, found = chosen(agent, cgroup, cgroup_root, agents_dir, config, "frozen")
    processes, moving = freeze_cgroups(opened(root, found), False, timeout)
    report(found, processes, moving, "frozen", (time.monotonic() - start) * 1000, as_json)


def chosen(  # noqa: PLR0917 (the command line's)
    agent: str | None,
    cgroup: str | None,
    cgroup_root: Path | None,
    agents_dir: Path | None,
    config: Path | None,
    done: str,
) -> tuple[CgroupRoot, Found]:
    """What is to be `done` to."""
    if (agent is None) == (cgroup is None):
        raise click.UsageError("give one of AGENT and --cgroup PATH")
    root, scope = hierarchy(cgroup_root)
    return root, of_agents(root, scope, agent, agents_dir, config) if cgroup is None else one(root, cgroup, done)


def report(  # noqa: PLR0917 (what there is to say)
    found: Found, processes: int, unmoved: list[str], done: str, spent_ms: float, as_json: bool
) -> None:
    """Say what was `done`, and end with the exit code that belongs to it."""
    if as_json:
        from sensor.record.encode import encode

        said = {"cgroups": found.paths, "processes": processes, "ms": round(spent_ms, 1)}
        click.echo(encode({**said, "failed": unmoved, "left": found.left}))
    else:
        where = plural(len(found.paths), "cgroup")
        failed = unmoved or found.left
        if processes or not failed:
            verified = "" if failed else ", verified"
            click.echo(f"{done} {plural(processes, 'process')} in {where} in {spent_ms:.1f} ms{verified}")
        for line in [*unmoved, *found.left]:
            click.echo(f"not {done}: {line}", err=True)
    sys.exit(1 if unmoved or found.left else 0)
