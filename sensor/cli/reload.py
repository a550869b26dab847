"""`hostbrake reload`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from sensor.config import Config
from sensor.control import ControlError, ask
from sensor.faults import Fault

_POLL_S = 0.05


@click.command("reload")
@click.option(
    "--control-socket",
    type=click.Path(path_type=Path, readable=False),  # who may not ask is told so below
    default=Config().control_socket,
    show_default=True,
    help="where the sensor listens",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="how long to wait until the sensor has read everything",
)
def reload(control_socket: Path, timeout: float) -> None:
    """Make the running sensor read agents, rules and configuration anew.

    All or nothing: where any file has a fault each one is named, what was in use stays, and this exits 2. Settings
    that need a restart are named. Exits 1 where no sensor answers.
    """
    try:
        result = _reload(control_socket, timeout)
    except ControlError as error:
        click.echo(f"hostbrake: {error}", err=True)
        sys.exit(1)
    for fault in result["faults"]:
        click.echo(str(Fault(**fault)), err=True)
    if result["faults"]:
        click.echo("hostbrake: nothing was changed", err=True)
        sys.exit(2)
    said = result["summary"]
    click.echo(f"reloaded: {said['mode']} mode, rules: {said['rules']}, agents: {said['agents']}")
    for name in result["restart"]:
        click.echo(f"needs a restart: {name}", err=True)


def _reload(control_socket: Path, timeout: float) -> dict[str, Any]:
    number = ask(control_socket, "reload")["number"]
    deadline = time.monotonic() + timeout
    while (result := ask(control_socket, "reloaded"))["number"] < number:
        if time.monotonic() > deadline:
            raise ControlError(f"the sensor has not read everything within {timeout:g} s")
        time.sleep(_POLL_S)
    return result
