"""`hostbrake isolate`: the running sensor cuts a workload off; only it holds the kernel's programs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sensor.cli.approve import socket_option
from sensor.cli.freeze import chosen
from sensor.cli.targets import PATH, plural, printable
from sensor.control import ControlError, ask
from sensor.respond.cgroupfs import CgroupRoot


@click.command("isolate")
@click.argument("agent", required=False)
@click.option("--cgroup", metavar="PATH", help="this cgroup, from the cgroup v2 root or as a directory below its mount")
@click.option("--cgroup-root", type=PATH, help="look for the agent only in this cgroup v2 directory")
@click.option("--agents", "agents_dir", type=PATH, metavar="DIR", help="agents, instead of the configured")
@click.option("--config", type=PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml")
@socket_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
def isolate(
    *,
    agent: str | None,
    cgroup: str | None,
    cgroup_root: Path | None,
    agents_dir: Path | None,
    config: Path | None,
    control_socket: Path,
    as_json: bool,
) -> None:
    """Cut every process of AGENT or of a cgroup off from the network and from GPUs, until `hostbrake release`.

    It runs on, so that it can be looked at; `isolation_allow` in sensor.yml names where it may still go. Live
    connections are ended. Exits 0 only when all of it is verified, 1 when something is not or no sensor runs, 2 where
    what was asked for is not known or must not be cut off.
    """
    root, found = chosen(agent, cgroup, cgroup_root, agents_dir, config, "cut off")
    answers, left = [], list(found.left)
    for given in found.paths:
        path = printable(given)
        try:
            answer = ask(control_socket, "isolate", cgroup=path, **_id_of(root, given))
        except ControlError as error:
            left.append(f"{path}: {error}")
            continue
        answers.append({"cgroup": path, **answer})
        if not answer["verified"]:
            left.append(f"{path}: the kernel does not have it so")
    if as_json:
        from sensor.record.encode import encode

        click.echo(encode({"isolated": answers, "failed": left}))
    else:
        for answer in answers:
            said = f"{plural(answer['processes'], 'process')}, {plural(answer['sockets'], 'live socket')} ended"
            click.echo(f"cut off {answer['cgroup']}: {said}, in {answer['ms']:.1f} ms, verified")
            for fault in answer["faults"]:
                click.echo(f"note: {fault}; its packets are dropped", err=True)
        for line in left:
            click.echo(f"not cut off: {line}", err=True)
    sys.exit(1 if left or not answers else 0)


def _id_of(root: CgroupRoot, path: str) -> dict[str, int]:
    """What else tells which cgroup is meant, where its name is no text."""
    cgroup = root.open(path) if printable(path) != path else None
    if cgroup is None:
        return {}
    try:
        return {"id": cgroup.id}
    finally:
        cgroup.close()
