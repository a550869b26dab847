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
from sensor.faults import Fault, FaultsError
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.pipeline import Pipeline
from sensor.record.log import configure
from sensor.record.sink import Sink
from sensor.respond.rehearsal import rehearsal


@click.command("replay")
@click.argument("recording", type=click.File("rb"))
@click.option(
    "--rules", type=click.Path(path_type=Path, exists=True), multiple=True, help="directory of rules; repeatable"
)
@click.option("--alerts", default="-", help="file that alerts are appended to  [default: standard output]")
@click.option(
    "--alert-window",
    "alert_window_s",
    type=click.FloatRange(0, 86_400),
    default=Config().alert_window_s,
    metavar="SECONDS",
    help="count equal alerts for so long and write them as one, as alert_window_s in sensor.yml; 0: write each",
)
def replay(recording: BinaryIO, rules: tuple[Path, ...], alerts: str, alert_window_s: float) -> None:
    """Run the events of RECORDING (from `run --events`; - is standard input) through the rules.

    Needs no root and touches nothing: alerts say what the response would have been. Exits 2 if a line is no event.
    """
    configure()
    matcher = Matcher(load_rules(list(rules) or default_rules()).rules)
    sink = Sink(alerts)
    pipeline = Pipeline(matcher=matcher, executor=rehearsal(), alerts=sink, alert_window_s=alert_window_s)
    faults: list[Fault] = []
    for event in _events(recording, faults):
        pipeline.advance(kernel_time(event))
        pipeline.judge(event)
    pipeline.finish()
    judged = sum(pipeline.seen.values())
    click.echo(f"{judged} events, {sum(pipeline.outcomes.values())} alerts", err=True)
    sink.close()
    if faults:
        raise FaultsError(faults)
    if sink.losses:
        sys.exit(1)


def _events(recording: BinaryIO, faults: list[Fault]) -> Iterator[AnyEvent]:
    for number, line in enumerate(recording, 1):
        if not line.strip():
            continue
        try:
            yield from_record(orjson.loads(line))
        except (orjson.JSONDecodeError, RecordError) as error:
            faults.append(Fault(recording.name, number, str(error)))
