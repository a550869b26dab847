"""`hostbrake pending`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from sensor.cli.approve import socket_option
from sensor.control import ControlError, ask
from sensor.duration import in_words
from sensor.faults import printable
from sensor.node import NodeError, cgroup2_mount
from sensor.respond.cgroupfs import Cgroup, CgroupRoot
from sensor.respond.process import read_proc, read_stat

_SHOWN = 40
"""Processes of a case that are shown."""
_COMMAND_LENGTH = 160
_URGENT_S = 120


@click.command("pending")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
@socket_option
def pending(as_json: bool, control_socket: Path) -> None:
    """What was frozen and waits for an answer: what it wanted to do, its processes, and what it did before.

    Names what is frozen without a case too: by hand, or by a sensor whose state is lost. Exits 1 where no sensor
    answers; what is frozen is listed all the same.
    """
    answer: dict[str, Any] = {"mode": None, "cases": [], "grants": []}
    failed: ControlError | None = None
    try:
        answer = ask(control_socket, "pending")
    except ControlError as error:
        failed = error
    try:
        _look(answer)
    except NodeError as error:
        click.echo(f"hostbrake: {error}", err=True)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    else:
        _show(answer, asked=failed is None)
    if failed is not None:
        click.echo(f"hostbrake: {failed}", err=True)
        sys.exit(1)


def _look(answer: dict[str, Any]) -> None:
    """Add what the node itself shows: each case's processes, and what is frozen without one."""
    root = CgroupRoot(cgroup2_mount())
    ours: set[int] = set()
    for case in answer["cases"]:
        pids: set[int] = set()
        for ref in case["cgroups"]:
            ours.add(ref["id"])
            cgroup = root.open(ref["path"], ref["id"])
            if cgroup is not None:
                pids |= cgroup.processes()
                cgroup.close()
        case["processes"] = [found for pid in sorted(pids) if (found := _process(pid))]
    answer["frozen"] = sorted(_frozen(root, ours))
    root.close()


def _process(pid: int) -> dict[str, Any] | None:
    stat = read_stat(pid)
    if stat is None:
        return None
    arguments = (read_proc(f"{pid}/cmdline") or b"").rstrip(b"\0").replace(b"\0", b" ")
    return {
        "pid": pid,
        "parent": stat.parent,
        "name": stat.comm,
        "command_line": arguments.decode(errors="backslashreplace") or None,
    }


def _frozen(root: CgroupRoot, but: set[int]) -> list[str]:
    """The cgroups that were told to freeze, without those whose ids are given."""
    top = root.open("/")
    if top is None:
        return []
    found = []
    for fd in top.descendants():
        cgroup = Cgroup(fd, "")
        if cgroup.is_held() and cgroup.id not in but:
            found.append(root.path_of(fd))
    top.close()
    return found


def _show(answer: dict[str, Any], asked: bool) -> None:
    console = Console(highlight=False)
    for case in answer["cases"]:
        console.print(_panel(case))
    if asked and not answer["cases"]:
        console.print("nothing waits for an answer")
    elif answer["mode"] == "monitor":
        console.print("monitor mode: what is overdue is not denied by itself", style="yellow")
    for grant in answer["grants"]:
        says = (
            f"{grant['for']} may: {grant['rule']['name']}, for another {in_words(grant['left_s'])}, says {grant['by']}"
        )
        console.print(Text(printable(f"approved: {says}")))
    for path in answer.get("frozen", ()):
        console.print(Text(printable(f"frozen without a case: {path}; hostbrake thaw --cgroup {path}, or kill")))


def _panel(case: dict[str, Any]) -> Panel:
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("agent", _line(case["agent"] or "none"))
    facts.add_row("owner", _line(case["owner"] or "nobody"))
    for ref in case["cgroups"]:
        facts.add_row("cgroup", _line(ref["path"]))
    facts.add_row("wanted", _line(case["wanted"]))
    left = case["left_s"]
    overdue = f"overdue by {in_words(-left)}" if left < 0 else f"in {in_words(left)} it is denied"
    facts.add_row("answer", Text(overdue, style="bold red" if left < _URGENT_S else ""))
    if not case["frozen"]:
        facts.add_row("frozen", Text("not yet, or not all of it", style="bold red"))
    parts: list[RenderableType] = [facts, _tree(case["processes"])]
    if case["recent"]:
        before = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
        for line in case["recent"]:
            before.add_row(_line(line))
        parts += [Text("before", style="bold"), before]
    name = case["id"]
    parts.append(Text(f"hostbrake approve {name} [--for 1h]    hostbrake deny {name}", style="dim"))
    title = Text.assemble((name, "bold"), f"  {case['rule']['level'].upper()}  {printable(case['rule']['name'])}")
    return Panel(Group(*parts), title=title, title_align="left", border_style="yellow")


def _tree(processes: list[dict[str, Any]]) -> Tree:
    tree = Tree(Text(f"{len(processes)} frozen process{'' if len(processes) == 1 else 'es'}", style="bold"))
    nodes = {process["pid"]: process for process in processes[:_SHOWN]}
    branches: dict[int, Tree] = {}

    def branch(pid: int) -> Tree:
        if pid not in branches:
            process = nodes[pid]
            above = branch(process["parent"]) if process["parent"] in nodes else tree
            command = process["command_line"] or f"[{process['name']}]"
            branches[pid] = above.add(_line(f"{pid} {command}"[:_COMMAND_LENGTH]))
        return branches[pid]

    for pid in nodes:
        branch(pid)
    if len(processes) > _SHOWN:
        tree.add(f"{len(processes) - _SHOWN} more")
    return tree


def _line(text: str) -> Text:
    """Hostile text as it may be shown: no control characters, no markup."""
    return Text(printable(text))
