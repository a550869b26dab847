"""`hostbrake approve`, and what it shares with `deny`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from sensor.config import Config
from sensor.control import ControlError, ask
from sensor.duration import seconds

_PATIENCE_S = 15.0
_POLL_S = 0.02

socket_option = click.option(
    "--control-socket",
    type=click.Path(path_type=Path, readable=False),  # who may not ask is told so
    default=Config().control_socket,
    show_default=True,
    help="where the sensor listens",
)


def _length(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("approve")
@click.argument("case_id", metavar="ID")
@click.option(
    "--for", "for_s", callback=_length, metavar="TIME", help="and whatever it asks by the same rule, for 1h, 2d"
)
@click.option("--once", is_flag=True, help="this case only (the default)")
@socket_option
def approve(case_id: str, for_s: int | None, once: bool, control_socket: Path) -> None:
    """Let the workload of case ID go on.

    Exits 0 once it does, or waits for the answer to another case; 1 where it does not, or nothing waits under ID.
    """
    if once and for_s is not None:
        raise click.UsageError("give one of --for and --once")
    decide(control_socket, "approve", case_id, for_s=for_s)


def decide(control_socket: Path, command: str, case_id: str, **arguments: Any) -> None:
    """Tell the sensor, wait until it is carried out, say what came of it, and exit."""
    try:
        outcome = ask(control_socket, command, id=case_id, **arguments)["outcome"]
        until = time.monotonic() + _PATIENCE_S
        while outcome is None and time.monotonic() < until:
            time.sleep(_POLL_S)
            outcome = ask(control_socket, "decision", id=case_id)["outcome"]
    except ControlError as error:
        click.echo(f"hostbrake: {error}", err=True)
        sys.exit(1)
    if outcome is None:
        click.echo(f"hostbrake: it is decided, but was not carried out within {_PATIENCE_S:g} s", err=True)
        sys.exit(1)
    done = outcome["outcome"] in ("done", "none")
    click.echo(_said(command, case_id, outcome), err=not done)
    sys.exit(0 if done else 1)


def _said(command: str, case_id: str, outcome: dict[str, Any]) -> str:
    words = [f"{case_id} {'denied' if command == 'deny' else 'approved'}"]
    if outcome["outcome"] == "done":
        count = outcome["processes"] or 0
        did = "killed" if command == "deny" else "let go on"
        words.append(f"{count} process{'' if count == 1 else 'es'} in {outcome['cgroup']} {did}")
    words.append(outcome["reason"])
    if outcome["respond_ms"] is not None:
        words.append(f"verified after {outcome['respond_ms']:.1f} ms")
    return "; ".join(filter(None, words))
