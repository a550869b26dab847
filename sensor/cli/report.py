"""`hostbrake report`. Reads files only; no sensor need run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import orjson

from sensor.faults import printable

if TYPE_CHECKING:
    from sensor.record.audit.note import PublicKey
    from sensor.record.report.model import Report

_PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is told in the report


@click.command("report")
@click.option(
    "--since", default="30d", show_default=True, metavar="TIME", help="an age (7d), a day (2026-03-01) or a time"
)
@click.option("--html", type=_PATH, metavar="FILE", help="write one self-contained page")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
@click.option("--config", "config_path", type=_PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml")
@click.option("--state-dir", type=_PATH, metavar="DIR", help="where the sensor keeps its state; the trail is in audit/")
@click.option("--agents", type=_PATH, metavar="DIR", help="directory of agents, instead of the configured one")
@click.option(
    "--key", metavar="VKEY|FILE", help="the sensor's public key, kept elsewhere; else the one beside the trail"
)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=_PATH,
    multiple=True,
    metavar="FILE",
    help="one that was kept elsewhere: shows that nothing before it was cut off; repeatable",
)
def report(
    *,
    since: str,
    html: Path | None,
    as_json: bool,
    config_path: Path | None,
    state_dir: Path | None,
    agents: Path | None,
    key: str | None,
    checkpoints: tuple[Path, ...],
) -> None:
    """How long until we knew, how long until it was stopped, and how we know: out of the audit trail.

    By agent, owner and rule, with what was refused or failed apart; the drills and who lacks one; the incidents with
    their timeline; what was lost; and whether the trail verifies. docs/REPORT.md describes the JSON.

    Exits 1, and says why, where the trail does not verify, something was not stopped, or an agent has had no drill
    that passed within 31 days.
    """
    from sensor.cli.since import since_ns
    from sensor.config import load_config

    start, now = since_ns(since), time.time_ns()
    if start >= now:
        raise click.BadParameter(f"{since!r} is not in the past", param_hint="--since")
    given = {"agents": agents, "state_dir": state_dir}
    config = load_config(config_path, {name: value for name, value in given.items() if value is not None})
    made, known, stopped = _made(Path(config.state_dir), Path(config.agents), (start, now), key, checkpoints)
    if html is not None:
        from sensor.record.report.page import render

        _write(html, render(made, known, stopped))
    if as_json:
        import msgspec

        sys.stdout.buffer.write(orjson.dumps(msgspec.to_builtins(made)) + b"\n")
    else:
        from sensor.cli.report_text import show

        show(made, html)
    sys.exit(0 if made.good else 1)


def _made(
    state_dir: Path, agents_dir: Path, period: tuple[int, int], key: str | None, checkpoints: Sequence[Path]
) -> tuple[Report, list[float], list[float]]:
    from sensor.agents_file import read_agents
    from sensor.cli.audit import checkpoints_of
    from sensor.record.audit.layout import AUDIT_DIR
    from sensor.record.report.gather import gather, make_report

    directory = state_dir / AUDIT_DIR
    try:
        elsewhere = checkpoints_of(checkpoints)
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    gathered, trail = gather(directory, _keys(directory, key), elsewhere, *period)
    trail.trusted_key = key is not None
    try:
        declared, faults = read_agents(agents_dir)
    except OSError as error:
        _refuse(f"{error.filename or agents_dir}: {error.strerror}")
    since, until = period
    made = make_report(
        gathered, trail, agents=declared, agent_faults=[str(fault) for fault in faults], since=since, until=until
    )
    return made, *gathered.tally.measurements()


def _keys(directory: Path, given: str | None) -> list[PublicKey]:
    """The given one, else the one beside the trail; none where that cannot be used, which the report tells."""
    from sensor.record.audit.layout import PUBLIC_KEY
    from sensor.record.audit.note import NoteError, parse_public_key

    try:
        if given is None:
            text = (directory / PUBLIC_KEY).read_text()
        else:
            text = Path(given).read_text() if Path(given).is_file() else given
        return [parse_public_key(text)]
    except (NoteError, UnicodeDecodeError, OSError) as error:
        if given is not None:
            _refuse(f"--key: {error}", status=2)
        return []


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        _refuse(f"{path}: {error.strerror}")


def _refuse(why: str, status: int = 1) -> NoReturn:
    click.echo(f"hostbrake: {printable(why)}", err=True)
    sys.exit(status)
