"""`hostbrake audit`: verify, show and export the audit trail. Reads files only; no sensor need run."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import orjson

from sensor.config import Config
from sensor.faults import printable

if TYPE_CHECKING:
    from sensor.record.audit.note import PublicKey
    from sensor.record.audit.verify import Report

_FILE = click.Path(path_type=Path, readable=False)  # what cannot be read is told so by us
PATIENCE_S = 10.0
"""How long `export` waits for the checkpoint that covers what it exports."""
_WIDE = 500
"""How wide lines are where no terminal is."""

_trail = click.option(
    "--trail",
    type=_FILE,
    default=f"{Config().state_dir}/audit",
    show_default=True,
    metavar="DIR",
    help="the trail, or a copy of it",
)
_key = click.option(
    "--key",
    metavar="VKEY|FILE",
    help="the sensor's public key, as `audit key` prints it; without it, the one beside the trail is taken at its word",
)


@click.group("audit")
def audit() -> None:
    """What the sensor saw, meant and did: a record that nobody changes unnoticed.

    Every record holds the hash of the one before, and signed checkpoints cover them all. Who can write the trail can
    cut its end; what shows that is a checkpoint kept elsewhere:

    \b
      hostbrake audit key > sensor.vkey    # once, to another machine
      cp /var/lib/hostbrake/audit/checkpoint elsewhere/checkpoint    # often
      hostbrake audit verify --key sensor.vkey --checkpoint elsewhere/checkpoint

    The log (the journal) has every checkpoint too.
    """


@audit.command("verify", short_help="is it what the sensor wrote? says where not; exits 1 then")
@_trail
@_key
@click.option(
    "--checkpoint",
    "checkpoints",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="one that was kept elsewhere: shows that nothing before it was cut off or rewritten; repeatable",
)
@click.option("--bundle", type=_FILE, metavar="FILE", help="verify an exported incident instead; needs --key")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
def verify(trail: Path, key: str | None, checkpoints: tuple[Path, ...], bundle: Path | None, as_json: bool) -> None:
    """Is the trail, or a bundle, what the sensor wrote?

    Finds every changed, missing, moved, inserted and cut-off record and says where, and every response that was not
    preceded by its intent. Works on a copy, without root, and while the sensor writes. Exits 1 for any finding.
    """
    from sensor.record.audit.bundle import verify_bundle
    from sensor.record.audit.verify import verify_trail

    if bundle is not None and key is None:
        raise click.UsageError("--bundle needs --key: the bundle's own key would prove nothing")
    try:
        if bundle is not None:
            report = verify_bundle(bundle, _keys(trail, key))
        else:
            report = verify_trail(trail, _keys(trail, key), checkpoints_of(checkpoints))
    except OSError as error:
        _refuse(f"{error.filename or trail}: {error.strerror}")
    if as_json:
        from msgspec.structs import asdict

        findings = [asdict(finding) | {"text": printable(str(finding))} for finding in report.findings]
        sys.stdout.buffer.write(orjson.dumps(asdict(report) | {"good": report.is_good(), "findings": findings}) + b"\n")
    else:
        _tell(report, str(bundle or trail), is_trusted=key is not None, is_bundle=bundle is not None)
    sys.exit(0 if report.is_good() else 1)


@audit.command("show", short_help="print records")
@_trail
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="only records of this kind; repeatable")
@click.option("--agent", metavar="NAME", help="only records that name this agent")
@click.option("--id", "identifier", metavar="ID", help="only records of this alert or incident")
@click.option("--since", metavar="TIME", help="only records from this time on (2026-03-01T12:00:00Z), or from 2h ago")
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="N", help="only the last N of them")
@click.option("--json", "as_json", is_flag=True, help="the records as they stand in the trail, one a line")
def show(trail: Path, as_json: bool, last: int | None, **filters: Any) -> None:
    """Print records. Whether they are genuine, `hostbrake audit verify` says."""
    from sensor.record.audit.bundle import records

    is_wanted = _filter(**filters)
    try:
        wanted = ((line, record) for line, record in records(trail) if is_wanted(record))
        found = wanted if last is None else deque(wanted, maxlen=last)
        if as_json:
            sys.stdout.buffer.writelines(line + b"\n" for line, _ in found)
            sys.stdout.buffer.flush()
        else:
            _print([record for _, record in found])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing more to say at exit
    except OSError as error:
        _refuse(f"{error.filename or trail}: {error.strerror}")


@audit.command("export", short_help="one incident as a file that proves itself")
@click.argument("identifier", metavar="[ID]", required=False)
@_trail
@_key
@click.option("--incident", metavar="ID", help="an incident, with all of its alerts, instead of one alert")
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="where the bundle goes")
def export(identifier: str | None, trail: Path, key: str | None, incident: str | None, output: Path) -> None:
    """Write one alert (ID is the alert's event.id) as a bundle that proves itself.

    It holds every record of the alert, and for each the proof that it is in the trail that the sensor signed for.
    `hostbrake audit verify --bundle FILE --key VKEY` needs nothing else.
    """
    from msgspec import json

    from sensor.record.audit import bundle
    from sensor.record.audit.note import NoteError

    wanted = incident or identifier
    if wanted is None or (incident and identifier):
        raise click.UsageError("give either the ID of an alert or --incident ID")
    keys = _keys(trail, key)
    try:
        made = _patiently(lambda: bundle.export(trail, keys[0], wanted, is_incident=incident is not None))
        output.write_bytes(json.encode(made) + b"\n")
    except (bundle.BundleError, NoteError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or trail}: {error.strerror}")
    click.echo(f"{len(made.records)} records to {printable(str(output))}")


@audit.command("key", short_help="print the public key, to be kept elsewhere")
@_trail
def key_(trail: Path) -> None:
    """Print the sensor's public key (a vkey, https://c2sp.org/signed-note), to be kept on another machine."""
    click.echo(str(_keys(trail, None)[0]))


def _keys(trail: Path, given: str | None) -> list[PublicKey]:
    from sensor.record.audit.layout import PUBLIC_KEY
    from sensor.record.audit.note import NoteError, parse_public_key

    text, source = given, "--key"
    try:
        if text is None:
            source = str(trail / PUBLIC_KEY)
            text = (trail / PUBLIC_KEY).read_text()
        elif Path(text).is_file():
            text = Path(text).read_text()
        return [parse_public_key(text)]
    except OSError as error:
        _refuse(f"{source}: {error.strerror}")
    except (NoteError, UnicodeDecodeError) as error:
        _refuse(f"{source}: {error}", status=2 if given else 1)


def checkpoints_of(paths: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Those that were kept elsewhere, each with its file's name; raises OSError."""
    from sensor.record.audit.layout import read_notes

    found: list[tuple[str, bytes]] = []
    for path in paths:
        notes, rest = read_notes(path)
        found += [(str(path), note) for note in [*notes, *([rest] if rest or not notes else [])]]
    return found


def _patiently(make: Callable[[], Any]) -> Any:
    """What `make` makes, once it is signed: a running sensor signs for an incident within a few seconds."""
    from sensor.record.audit.bundle import NotSignedYetError

    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return make()
        except NotSignedYetError:
            if time.monotonic() > until:
                raise
        time.sleep(0.5)


def _filter(
    kinds: tuple[str, ...], agent: str | None, identifier: str | None, since: str | None
) -> Callable[[dict[str, Any]], bool]:
    from sensor.cli.since import since_ns
    from sensor.events import rfc3339
    from sensor.record.audit.bundle import ids_of

    start = "" if since is None else rfc3339(since_ns(since))

    def is_wanted(record: dict[str, Any]) -> bool:
        return (
            (not kinds or record["kind"] in kinds)
            and (agent is None or record.get("agent") == agent)
            and (identifier is None or identifier in ids_of(record))
            and record["time"] >= start
        )

    return is_wanted


def _tell(report: Report, name: str, is_trusted: bool, is_bundle: bool) -> None:
    for finding in report.findings:
        click.echo(printable(str(finding)))
    if report.more_findings:
        click.echo(f"and {report.more_findings:,} findings more")
    span = f", {printable(report.first)} to {printable(report.last)}" if report.first and report.last else ""
    where = "in the bundle" if is_bundle else f"in {report.segments:,} segments"
    click.echo(f"{printable(name)}: {'good' if report.is_good() else 'NOT what the sensor wrote'}")
    click.echo(f"  records      {report.records:,} {where}{span}")
    unsigned = 0 if is_bundle else max(0, report.records - report.signed)
    later = f"; {unsigned:,} after that are not signed yet" if unsigned else ""
    click.echo(f"  checkpoints  {report.checkpoints:,} verified; the first {report.signed:,} records are signed{later}")
    click.echo(f"  responses    {report.responses:,}, each after its intent{_odd_deeds(report)}")
    losses = ", ".join(f"{count:,} {printable(what)}" for what, count in report.losses.items())
    click.echo(f"  losses       {losses or 'none'}")
    if not is_trusted:
        click.echo("  the key is the one beside the trail; --key with a copy kept elsewhere proves more")


def _odd_deeds(report: Report) -> str:
    text = f"; {report.by_kernel:,} denied by the kernel" if report.by_kernel else ""
    text += f"; {report.without_intent:,} whose intent was lost" if report.without_intent else ""
    if report.open_intents:
        some = ", ".join(str(index) for index in report.open_intents[:5])
        text += f"; {len(report.open_intents):,} intents without an action (record {some})"
    return text


def _print(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("record", "time", "kind", "agent", "what"):
        table.add_column(column, justify="right" if column == "record" else "left", no_wrap=column != "what")
    for record in records:
        cells = (record["index"], record["time"], record["kind"], record.get("agent") or "", _in_words(record))
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print(table)


_TOLD_ELSEWHERE = frozenset({"index", "time", "kind", "prev", "agent", "event"})


def _in_words(record: dict[str, Any]) -> str:
    event = record.get("event")
    if isinstance(event, dict):
        what = event.get("CommandLine") or event.get("Image") or ""
        where = event.get("DestinationHostname") or event.get("DestinationIp")
        to = f" -> {where}:{event.get('DestinationPort')}" if where else ""
        return f"{event.get('category')}: {what}{to} in {event.get('CgroupPath')} (alert {record.get('alert')})"
    rest = {name: value for name, value in record.items() if name not in _TOLD_ELSEWHERE and value is not None}
    return " ".join(
        f"{name}={value if isinstance(value, str) else orjson.dumps(value).decode()}" for name, value in rest.items()
    )


def _refuse(why: str, status: int = 1) -> NoReturn:
    click.echo(f"hostbrake: {printable(why)}", err=True)
    sys.exit(status)
