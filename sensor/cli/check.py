"""`hostbrake check`: is this node ready, and are configuration, agents and rules valid?"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson
from rich.console import Console
from rich.text import Text

from sensor.config import usable_config
from sensor.context.agents import Agents
from sensor.faults import Fault, FaultsError
from sensor.readiness import Item, node_items
from sensor.startup import Loaded, load_everything


@click.command("check")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="instead of sensor.yml in /etc/hostbrake"
)
@click.option("--agents", type=click.Path(path_type=Path), help="directory of agents, instead of the configured one")
@click.option("--rules", type=click.Path(path_type=Path), multiple=True, help="directory of rules; repeatable")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
def check(config_path: Path | None, agents: Path | None, rules: tuple[Path, ...], as_json: bool) -> None:
    """Is this node ready, and are configuration, agents and rules valid?

    Exits 0 if so, 1 if the node lacks something, 2 if a file has a fault.
    """
    given = {"agents": agents, "rules": list(rules)}
    overrides = {name: value for name, value in given.items() if value}
    loaded: Loaded | None = None
    faults: list[Fault] = []
    try:
        loaded = load_everything(config_path, overrides)
        config = loaded.config
    except FaultsError as error:
        faults = error.faults
        config = usable_config(config_path, overrides)
    items = node_items(cgroup_root=Path(config.cgroup_root) if config.cgroup_root else None)
    warnings = _warnings(loaded) if loaded else []
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(_report(items, faults, warnings, loaded)) + b"\n")
    else:
        _show(items, faults, warnings, loaded)
    sys.exit(2 if faults else 0 if all(item.ready for item in items) else 1)


def _warnings(loaded: Loaded) -> list[str]:
    return [
        f"agent {agent.agent}: no workload is recognised by {match.form} ({match.pattern}) in this version"
        for agent, match in Agents(loaded.agents).unsupported
    ]


def _report(items: list[Item], faults: list[Fault], warnings: list[str], loaded: Loaded | None) -> dict[str, Any]:
    return {
        "ready": not faults and all(item.ready for item in items),
        "node": [msgspec.structs.asdict(item) for item in items],
        "faults": [msgspec.structs.asdict(fault) for fault in faults],
        "warnings": warnings,
        "mode": loaded.config.mode if loaded else None,
        "agents": len(loaded.agents) if loaded else None,
        "rules": Counter(rule.coverage.status for rule in loaded.rules) if loaded else None,
    }


def _show(items: list[Item], faults: list[Fault], warnings: list[str], loaded: Loaded | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for item in items:
        _line(console, "ok" if item.ready else "missing", item.name, item.says)
    for warning in warnings:
        _line(console, "warning", "agents", warning)
    if loaded:
        summary = f"{_count(len(loaded.rules), 'rule')}, {_count(len(loaded.agents), 'agent')}, no fault"
        _line(console, "ok", "files", f"{loaded.config.mode} mode, {summary}")
        return
    files = len({fault.path for fault in faults})
    _line(console, "fault", "files", f"{_count(len(faults), 'fault')} in {_count(files, 'file')}:")
    for fault in faults:
        click.echo(str(fault), err=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_STYLES = {"ok": "green", "missing": "bold red", "fault": "bold red", "warning": "yellow"}


def _line(console: Console, state: str, name: str, says: str) -> None:
    console.print(Text.assemble((f"{state:8}", _STYLES[state]), (f"{name:12}", "bold"), says))
