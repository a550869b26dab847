"""`hostbrake notify`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from sensor.config import Config
from sensor.control import ControlError, ask

_PATIENCE_S = 60.0
_POLL_S = 0.2


@click.command("notify")
@click.argument("agent", required=False)
@click.option("--operators", is_flag=True, help="those who are told of what belongs to no agent")
@click.option(
    "--control-socket",
    type=click.Path(path_type=Path, readable=False),  # who may not ask is told so below
    default=Config().control_socket,
    show_default=True,
    help="where the sensor listens",
)
def notify(agent: str | None, operators: bool, control_socket: Path) -> None:
    """Have the running sensor send the owner of AGENT a test message, to every address.

    Exits 0 when every service has taken it, else 1.
    """
    if (agent is not None) == operators:
        raise click.UsageError("give one of AGENT and --operators")
    try:
        ticket = ask(control_socket, "notify", agent=agent, operators=operators)["test"]
        answers = _wait(control_socket, ticket)
    except ControlError as error:
        click.echo(f"hostbrake: {error}", err=True)
        sys.exit(1)
    for number, why in enumerate(answers, 1):
        says = "arrived" if why == "" else f"FAILED: {why or 'no answer yet'}"
        click.echo(f"address {number}: {says}")
    if not answers:
        click.echo("hostbrake: there is no address: notify.operators in sensor.yml names none", err=True)
    sys.exit(0 if answers and all(why == "" for why in answers) else 1)


def _wait(control_socket: Path, ticket: int) -> list[Any]:
    until = time.monotonic() + _PATIENCE_S
    answer: dict[str, Any] = {"addresses": None}
    while (answer["addresses"] is None or None in answer["addresses"]) and time.monotonic() < until:
        time.sleep(_POLL_S)
        answer = ask(control_socket, "notified", test=ticket)
    return list(answer["addresses"] or [])
