"""`hostbrake check`: is this node ready, and are configuration, agents and rules valid?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson
from rich.console import Console
from rich.text import Text

from sensor.agents_file import AgentFile, Match
from sensor.cli.links import links
from sensor.cli.reach import unreachable
from sensor.config import usable_config
from sensor.context.agents import Agents
from sensor.context.containers import Containers
from sensor.context.recognise import missing
from sensor.context.slurm import Jobs
from sensor.faults import Fault, FaultsError
from sensor.match import ir
from sensor.match.ir import Rule, RuleSet
from sensor.readiness import Item, node_items
from sensor.startup import Loaded, load_everything

_PATH = click.Path(path_type=Path)


@click.command("check")
@click.option("--config", "config_path", type=_PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml")
@click.option("--agents", type=_PATH, metavar="DIR", help="agents, instead of the configured")
@click.option("--rules", type=_PATH, metavar="DIR", multiple=True, help="rules, instead of the configured; repeatable")
@click.option("--mode", type=click.Choice(["monitor", "enforce"]), help="as if this were the configured one")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
def check(
    config_path: Path | None, agents: Path | None, rules: tuple[Path, ...], mode: str | None, as_json: bool
) -> None:
    """Is this node ready, and are configuration, agents and rules valid?

    Exits 0 if so, 1 if the node lacks something, 2 if a file has a fault.
    """
    given = {"agents": agents, "rules": list(rules), "mode": mode}
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


def _warnings(loaded: Loaded) -> list[tuple[str, str]]:
    """What is valid and yet not as its author may think: the subject, and one sentence."""
    untold = missing(Agents(loaded.agents), Containers(), Jobs())
    unsupported = [(agent, match) for agent in loaded.agents for match in agent.match if match.form in untold]
    warnings = [
        (
            "agents",
            f"agent {agent.agent}: nothing is recognised by {match.form} ({match.pattern}): {untold[match.form]}",
        )
        for agent, match in unsupported
    ]
    warnings += [("agents", says) for says in links(loaded.agents)]
    warnings += [("notify", says) for says in unreachable(loaded)]
    warnings += [("rules", says) for says in _idle(loaded.rules)]
    if loaded.config.mode == "enforce" and not _may_use_gpus(loaded.agents, [match for _, match in unsupported]):
        warnings += [
            ("gpu", f"no agent that can be recognised has gpu: {{allow: true}}, so {_every_gpu_open(rule)}")
            for rule in loaded.rules
            if rule.info.action != "alert" and _reads(rule.condition, "agent_gpu")
        ]
    return warnings


def _idle(rules: RuleSet) -> Iterator[str]:
    """Rules that do less than they say, or none at all."""
    if not rules:
        yield "there are none, so nothing is ever found; `rules` in the configuration replaces the shipped ones"
    if rules.limited():
        yield f"{rules.limited()}; why: hostbrake rules coverage"


def _may_use_gpus(agents: list[AgentFile], unsupported: list[Match]) -> bool:
    granted = (agent for agent in agents if agent.gpu is not None and agent.gpu.allow)
    return any(match not in unsupported for agent in granted for match in agent.match)


def _every_gpu_open(rule: Rule) -> str:
    info = rule.info
    return f"`{info.title}` answers every workload that opens a GPU with {info.action} of its {info.scope}"


def _reads(node: ir.Node, attribute: str) -> bool:
    if isinstance(node, ir.Not):
        return _reads(node.node, attribute)
    if isinstance(node, ir.All | ir.AnyOf):
        return any(_reads(below, attribute) for below in node.nodes)
    return getattr(node, "attribute", None) == attribute


def _report(
    items: list[Item], faults: list[Fault], warnings: list[tuple[str, str]], loaded: Loaded | None
) -> dict[str, Any]:
    return {
        "ready": not faults and all(item.ready for item in items),
        "node": [msgspec.structs.asdict(item) for item in items],
        "faults": [msgspec.structs.asdict(fault) for fault in faults],
        "warnings": [says for _, says in warnings],
        "mode": loaded.config.mode if loaded else None,
        "agents": len(loaded.agents) if loaded else None,
        "rules": Counter(rule.coverage.status for rule in loaded.rules) if loaded else None,
    }


def _show(items: list[Item], faults: list[Fault], warnings: list[tuple[str, str]], loaded: Loaded | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for item in items:
        _line(console, "ok" if item.ready else "missing", item.name, item.says)
    for subject, says in warnings:
        _line(console, "warning", subject, says)
    if loaded:
        agents = _count(len(loaded.agents), "agent") if loaded.agents else "no agent, so nobody owns what runs here"
        summary = f"{_count(len(loaded.rules), 'rule')}, no fault, {agents}"
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
