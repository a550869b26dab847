"""`hostbrake ack`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from sensor.config import Config
from sensor.control import ControlError, ask


@click.command("ack")
@click.argument("incident_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
@click.option(
    "--control-socket",
    type=click.Path(path_type=Path, readable=False),  # who may not ask is told so below
    default=Config().control_socket,
    show_default=True,
    help="where the sensor listens",
)
def ack(incident_id: str | None, as_json: bool, control_socket: Path) -> None:
    """Acknowledge incident ID: somebody looks after it.

    Nobody else is told then, and of this incident nothing more unless it gets worse. Without ID: the incidents of
    late, newest first. Exits 1 where there is no such incident, or no sensor.
    """
    try:
        answer = ask(control_socket, "ack", id=incident_id) if incident_id else ask(control_socket, "incidents")
    except ControlError as error:
        click.echo(f"hostbrake: {error}", err=True)
        sys.exit(1)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    elif incident_id:
        click.echo(f"{incident_id}: acknowledged by {answer['incident']['acknowledged']}")
    else:
        for incident in answer["incidents"]:
            click.echo(_line(incident))


def _line(incident: dict[str, Any]) -> str:
    what = ", ".join(f"{name} ({count})" for name, count in incident["rules"].items())
    who = f"agent {incident['agent']}" if incident["agent"] else incident["cgroup"] or "the sensor"
    state = f"acknowledged by {incident['acknowledged']}" if incident["acknowledged"] else "NOT acknowledged"
    return f"{incident['id']}  {incident['opened'][:19]}Z  {incident['level']}  {who}: {what}; {state}"
