"""`hostbrake deny`."""

from __future__ import annotations

from pathlib import Path

import click

from sensor.cli.approve import decide, socket_option


@click.command("deny")
@click.argument("case_id", metavar="ID")
@socket_option
def deny(case_id: str, control_socket: Path) -> None:
    """Kill the workload of case ID.

    Exits 0 only when nothing of it is left alive, 1 where something is, or nothing waits under ID.
    """
    decide(control_socket, "deny", case_id)
