"""The report's first sentence: how long until we knew, and how long until it was stopped."""

from __future__ import annotations

import msgspec

from sensor.record.report.model import Latency, Report
from sensor.record.report.words import duration

QUESTION = "If our biggest agent did something we did not authorise right now"


class Answer(msgspec.Struct, frozen=True):
    """In words that need no explanation; `known` and `stopped` are None where nothing measured them."""

    sentence: str
    basis: str
    """What it was measured on."""
    known: Latency | None
    stopped: Latency | None
    caveats: list[str]


def answer(report: Report) -> Answer:
    """Real responses count; drills only where there were none."""
    known, known_by = _measured(report.overall.known, report.drills.known, "alert")
    stopped, stopped_by = _measured(report.overall.stopped, report.drills.stopped, "response")
    sentence = _sentence(known, stopped, report.watch.mode == "monitor")
    said = sentence[0].upper() + sentence[1:]
    return Answer(said, _basis(known_by, stopped_by), known, stopped, _caveats(report))


def _measured(real: Latency, drilled: Latency, what: str) -> tuple[Latency | None, str]:
    if real.count:
        return real, f"{real.count:,} real {what}{'' if real.count == 1 else 's'}"
    if drilled.count:
        return drilled, f"{drilled.count:,} measurement{'' if drilled.count == 1 else 's'} in drills"
    return None, ""


def _sentence(known: Latency | None, stopped: Latency | None, monitors: bool) -> str:
    first = "nothing shows when we would know" if known is None else f"known after {duration(known.median_ms or 0)}"
    if monitors:
        return f"{first}, not stopped: the sensor only watches (monitor mode)"
    if stopped is None:
        return f"{first}, and nothing shows when it would be stopped"
    return f"{first}, stopped after {duration(stopped.median_ms or 0)}"


def _basis(known: str, stopped: str) -> str:
    if not known and not stopped:
        return "Nothing was measured in this period: no response and no drill."
    return f"Medians of {' and '.join(dict.fromkeys(filter(None, (known, stopped))))}."


def _caveats(report: Report) -> list[str]:
    """What makes the answer worse than it sounds, though it is no reason to doubt it."""
    found = []
    watch, deeds = report.watch, report.overall.deeds
    if watch.gaps_in_all:
        times = "once" if watch.gaps_in_all == 1 else f"{watch.gaps_in_all:,} times"
        found.append(f"No sensor ran {times} in this period, {duration(watch.unwatched_s * 1000)} in all.")
    if not report.drills.agents:
        found.append("No agent is declared: nobody owns what runs here, and nothing can be drilled.")
    if deeds.would:
        found.append(f"{deeds.would:,} would have been stopped, but the sensor was in monitor mode.")
    if deeds.pending:
        found.append(f"{deeds.pending:,} frozen and waiting for a decision.")
    if report.losses:
        found.append("There were losses, which are listed below: what was lost could not be judged.")
    if report.crowded_out:
        found.append("There was more than this report holds; what was left out is counted below.")
    if report.trail.unreadable:
        found.append(f"{report.trail.unreadable:,} records have no usable time and are in no number here.")
    if report.trail.set_aside:
        found.append("Parts of the trail were put aside as damaged; what they hold is not in this report.")
    return found
