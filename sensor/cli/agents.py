"""`hostbrake agents`: who owns what on this node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson
from rich.console import Console
from rich.table import Table

from sensor.agents_file import AgentFile, read_agents
from sensor.cli.owners import owners_of
from sensor.config import usable_config
from sensor.faults import printable
from sensor.node import NodeError, cgroup2_mount
from sensor.respond.cgroupfs import CgroupRoot

_PATH = click.Path(path_type=Path)
_SHOWN = 5


@click.group("agents")
def agents() -> None:
    """Who owns what on this node."""


@agents.command("list")
@click.option("--config", type=_PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml")
@click.option("--agents", "directory", type=_PATH, metavar="DIR", help="agents, instead of the configured")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
def list_(config: Path | None, directory: Path | None, as_json: bool) -> None:
    """Each agent: owner, limits, and its cgroups now.

    With its purpose and how many processes there are. Asks the node itself, sensor or no sensor. Processes that are
    an agent's by their user alone are not counted. Exits 2 where a file has a fault; the others are still listed.
    """
    configured = usable_config(config, {})
    files, faults = read_agents(directory or configured.agents)
    try:
        mount = cgroup2_mount()
    except NodeError as error:
        _refuse(str(error))
    root = CgroupRoot(mount)
    owners = owners_of(Path(root.mount), files, ["/", *root.below("/")])
    found = [_describe(file, Path(root.mount), owners) for file in files]
    if as_json:
        sys.stdout.buffer.write(orjson.dumps({"mode": configured.mode, "agents": found}) + b"\n")
    else:
        _show(found, configured.mode, directory or Path(configured.agents))
    for fault in faults:
        click.echo(str(fault), err=True)
    sys.exit(2 if faults else 0)


def _describe(file: AgentFile, mount: Path, owners: dict[str, str]) -> dict[str, Any]:
    cgroups = sorted(path for path, owner in owners.items() if owner == file.agent)
    return {
        "agent": file.agent,
        "owner": file.owner.name,
        "purpose": file.purpose,
        "limits": _limits(file),
        "cgroups": cgroups,
        "processes": sum(_count(mount / path.lstrip("/")) for path in cgroups),
    }


def _limits(file: AgentFile) -> list[str]:
    limits = []
    if file.egress is not None and file.egress.default == "deny":
        limits.append(f"egress to {', '.join(file.egress.allow) or 'nowhere'}")
    if file.gpu is not None and not file.gpu.allow:
        limits.append("no GPU")
    if file.exec is not None and file.exec.deny:
        limits.append(f"not {', '.join(file.exec.deny)}")
    if file.exec is not None and file.exec.allow:
        limits.append(f"only {', '.join(file.exec.allow)}")
    return limits


def _count(cgroup: Path) -> int:
    try:
        return len((cgroup / "cgroup.procs").read_bytes().split())
    except OSError:  # gone, or threaded
        return 0


def _show(found: list[dict[str, Any]], mode: str, directory: Path) -> None:
    if not found:
        click.echo(f"no agents in {printable(str(directory))}")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("agent", "owner", "purpose", f"limits ({mode})", "processes", "cgroups"):
        table.add_column(name, justify="right" if name == "processes" else "left")
    for each in found:
        cgroups = [printable(path) for path in each["cgroups"][:_SHOWN]]
        more = len(each["cgroups"]) - len(cgroups)
        table.add_row(
            each["agent"],
            printable(each["owner"]),
            printable(each["purpose"]),
            printable("; ".join(each["limits"])) or "none",
            str(each["processes"]),
            "\n".join([*cgroups, *([f"and {more} more"] if more else [])]) or "none",
        )
    Console(highlight=False, markup=False).print(table)


def _refuse(why: str) -> NoReturn:
    click.echo(f"hostbrake: {why}", err=True)
    sys.exit(1)
