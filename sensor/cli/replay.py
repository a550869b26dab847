"""`hostbrake replay`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import orjson

from sensor.config import Config, default_rules
from sensor.events import AnyEvent, RecordError, from_record, kernel_time
from sensor.faults import Fault
from sensor.match.fanout import FanOut
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.match.mining import Mining
from sensor.match.profiles import Profiles
from sensor.pipeline import Pipeline
from sensor.record.log import configure
from sensor.record.sink import Sink
from sensor.respond.rehearsal import rehearsal

_READER_S = 60.0
"""How long a reader of the alerts may do nothing before alerts count as lost."""


@click.command("replay")
@click.argument("recording", type=click.File("rb"))
@click.option(
    "--rules",
    type=click.Path(path_type=Path, exists=True, readable=False),  # access(2) does not count capabilities
    multiple=True,
    help="directory of rules, repeatable; default: the shipped ones and /etc/hostbrake/rules.d",
)
@click.option("--alerts", default="-", metavar="FILE", help="append alerts to FILE; default: standard output")
@click.option(
    "--alert-window",
    "alert_window_s",
    type=click.IntRange(0, 86_400),
    default=Config().alert_window_s,
    metavar="SECONDS",
    help="count equal alerts for so long and write them as one, as alert_window_s in sensor.yml; 0: write each",
)
@click.option(
    "--profiles",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="directory of the profiles that agents begin with, only read; default: they begin with none",
)
def replay(
    recording: BinaryIO, rules: tuple[Path, ...], alerts: str, alert_window_s: int, profiles: Path | None
) -> None:
    """Run the events of RECORDING through the rules.

    RECORDING comes from `run --events`; - is standard input. Needs no root and touches nothing: alerts say what the
    response would have been. Exits 2 if a line is no event (the others are judged), 1 if an alert could not be
    written.
    """
    configure()
    matcher = Matcher(load_rules(list(rules) or default_rules()).rules)
    try:
        sink = Sink(alerts, wait_s=_READER_S)
    except OSError as error:
        click.echo(f"hostbrake: alerts cannot be written to {alerts}: {error.strerror}", err=True)
        sys.exit(1)
    watchers = (FanOut().match, Profiles(profiles, keeps=False).match, Mining().match)
    pipeline = Pipeline(
        matcher=matcher, executor=rehearsal(), alerts=sink, alert_window_s=alert_window_s, watchers=watchers
    )
    events = _Events(recording)
    for event in events:
        pipeline.advance(kernel_time(event))
        pipeline.judge(event)
    pipeline.finish()
    sink.close()
    counts = (sum(pipeline.seen.values()), "event"), (sum(pipeline.outcomes.values()), "alert")
    click.echo(", ".join(f"{count} {noun}" + "s" * (count != 1) for count, noun in counts), err=True)
    if events.faults:
        sys.exit(2)
    if sink.losses:
        sys.exit(1)


class _Events:
    """The events of a recording; each line that is none is named on standard error and counted."""

    def __init__(self, recording: BinaryIO) -> None:
        self.faults = 0
        self._recording = recording

    def __iter__(self) -> Iterator[AnyEvent]:
        for number, line in enumerate(self._recording, 1):
            if not line.strip():
                continue
            try:
                yield from_record(orjson.loads(line))
            except (orjson.JSONDecodeError, RecordError) as error:
                self.faults += 1
                click.echo(str(Fault(self._recording.name, number, str(error))), err=True)
