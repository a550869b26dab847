"""`hostbrake status`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from sensor.config import Config
from sensor.control import ControlError, ask
from sensor.faults import printable


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
@click.option(
    "--control-socket",
    type=click.Path(path_type=Path, readable=False),  # who may not ask is told so below
    default=Config().control_socket,
    show_default=True,
    help="where the sensor listens",
)
def status(as_json: bool, control_socket: Path) -> None:
    """What the running sensor sees, drops and enforces.

    Exits 0 only once the sensor is ready; 1 before that, and where none runs.
    """
    try:
        answer = ask(control_socket, "status")
    except ControlError as error:
        click.echo(f"hostbrake: {error}", err=True)
        sys.exit(1)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    else:
        _show(answer)
    sys.exit(0 if answer.get("ready") else 1)


def _show(answer: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "sensor", f"{'ready' if answer['ready'] else 'not ready'}, pid {answer['pid']}, up {_up(answer['since'])}"
    )
    pinned = "programs pinned" if answer["pinned"] else "nothing pinned"
    table.add_row("mode", f"{answer['mode']}, backend {answer['backend']}, {pinned}")
    table.add_row("rules", _total(answer["rules"]))
    table.add_row("agents", str(answer["agents"]))
    table.add_row("profiles", f"{answer['profiles']['learned']} learned of {answer['profiles']['agents']}")
    table.add_row("events", _total(answer["events"]))
    table.add_row("alerts", _total(answer["alerts"]))
    table.add_row("merged", f"{answer['merged']:,} of these alerts were counted in an equal one and not written")
    trail = answer["audit"]
    table.add_row("audit", f"{_some(trail['records'], 'record')}, {trail['signed']:,} under a signed checkpoint")
    collapsed = sum(counts["collapsed"] for counts in answer["kernel"].values())
    table.add_row("collapsed", f"{_some(collapsed, 'repeat')}, counted in the kernel and not sent")
    if answer["control_refused"]:
        table.add_row("refused", f"{_some(answer['control_refused'], 'request')} at the control socket")
    if waiting := answer["approvals"]["pending"]:
        table.add_row("pending", f"{waiting} frozen, waiting for an answer: hostbrake pending", style="yellow")
    if isolated := answer["isolated"]:
        table.add_row("isolated", "\n".join(printable(path) for path in isolated), style="yellow")
    table.add_row("notified", _notified(answer["notifications"]))
    lost = answer["lost"]
    table.add_row("lost", "\n".join(_counts(lost)) or "nothing", style="bold red" if lost else "")
    if clashes := answer["agents_that_clash"]:
        table.add_row("agents clash", "\n".join(_counts(clashes)), style="bold red")
    for what, why in answer["not_available"].items():
        table.add_row(what, f"not available: {why}", style="yellow")
    Console(highlight=False).print(table)


def _notified(told: dict[str, Any] | None) -> str:
    if told is None:
        return "nobody: notifications are off"
    parts = [f"{told['sent']:,} sent, {told['waiting']:,} waiting"]
    if told["unacknowledged"]:
        parts.append(f"{_some(told['unacknowledged'], 'incident')} not acknowledged: hostbrake ack lists them")
    if failure := told["last_failure"]:
        parts.append(f"{told['failed']:,} failed, last {failure['time']} to {failure['to']}: {failure['why']}")
    return "\n".join(parts)


def _up(since: int) -> str:
    """The time from `since` (nanoseconds since the epoch) in its two largest units."""
    seconds = max(0, int(time.time() - since / 1e9))
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    largest = next((place for place, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[largest : largest + 2])


def _total(counts: dict[str, int]) -> str:
    """`7: 2 done, 5 none`."""
    return f"{sum(counts.values()):,}" + (f": {', '.join(_counts(counts))}" if counts else "")


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _counts(counts: dict[str, int]) -> list[str]:
    return [f"{count:,} {name}" for name, count in counts.items()]
