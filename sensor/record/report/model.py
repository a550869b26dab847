"""What a report says. `hostbrake report --json` is exactly this; docs/REPORT.md describes it.

Times are RFC 3339 UTC, durations milliseconds. Text is as the trail has it, so it may be hostile: whoever shows it
escapes it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

FORMAT = "hostbrake report 1"


class Latency(msgspec.Struct, frozen=True):
    """How long it took, over `count` measurements; None where there are none."""

    count: int = 0
    median_ms: float | None = None
    p99_ms: float | None = None
    """By nearest rank: a value that was measured, and below a hundred of them the worst."""
    worst_ms: float | None = None


def latency(values: Sequence[float]) -> Latency:
    """`values` in milliseconds, in any order."""
    if not values:
        return Latency()
    ordered = sorted(values)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return Latency(len(ordered), *(round(value, 3) for value in (statistics.median(ordered), p99, ordered[-1])))


class Deeds(msgspec.Struct):
    """What became of the responses that were asked for. Each is counted in one place."""

    done: int = 0
    """Killed, frozen or isolated, and verified."""
    denied: int = 0
    """Refused by the kernel before it happened; takes no time, so it is in no time to stop."""
    pending: int = 0
    """Frozen, and waits for a decision."""
    approved: int = 0
    """Frozen, and then let go on by a person."""
    would: int = 0
    """Monitor mode: nothing was done."""
    refused: int = 0
    """Not done, since a guard forbids it."""
    failed: int = 0
    unfinished: int = 0
    """Begun, and nothing says that it ended."""

    def not_stopped(self) -> int:
        return self.refused + self.failed + self.unfinished


class Row(msgspec.Struct, frozen=True):
    """One agent, owner, rule or action, or all together."""

    name: str | None
    """None: what the trail names none for."""
    title: str | None
    """A rule's title, an agent's owner."""
    alerts: int
    known: Latency
    """From the kernel's event to the verdict."""
    stopped: Latency
    """From the kernel's event until it was verified dead, frozen or cut off; what was denied is not in it."""
    deeds: Deeds


class Step(msgspec.Struct, frozen=True):
    """One line of an incident's timeline."""

    time: str
    kind: str
    text: str


class Incident(msgspec.Struct):
    """Alerts of one workload that follow each other within ten minutes."""

    id: str
    """The first alert's."""
    agent: str | None
    owner: str | None
    cgroup: str | None
    opened: str
    last: str
    level: str = "informational"
    """The gravest."""
    rules: list[str] = []
    """Titles, at most ten."""
    alerts: int = 0
    outcome: str = "alert"
    """The worst of its responses': failed, unfinished, refused, would, pending, approved, done, denied; or alert, where
    none was asked for.
    """
    known_ms: float | None = None
    """The first alert's."""
    stopped_ms: float | None = None
    """The slowest response's."""
    processes: int = 0
    steps: list[Step] = []
    steps_left_out: int = 0


class Behaviour(msgspec.Struct, frozen=True):
    """One thing that a drill's canary did."""

    name: str
    passed: bool
    known_ms: float | None = None
    stopped_ms: float | None = None
    limit_ms: float | None = None
    error: str | None = None


class Drill(msgspec.Struct):
    """One run for one agent; `agent` None: of the node."""

    time: str
    agent: str | None
    passed: bool | None = None
    """None: the run has no summary, so it did not come to its end."""
    expected: int | None = None
    """How many behaviours its summary speaks of."""
    behaviours: list[Behaviour] = []


class DrillState(msgspec.Struct, frozen=True):
    """When an agent was last drilled, over the whole trail."""

    agent: str
    owner: str
    state: str
    """ok, failed, unfinished, overdue or never."""
    last: str | None = None


class Drills(msgspec.Struct):
    limit_days: int
    agents: list[DrillState]
    runs: list[Drill]
    """Of the period, the newest first, at most a hundred."""
    runs_in_all: int
    known: Latency
    stopped: Latency


class Gap(msgspec.Struct, frozen=True):
    """A time without a sensor."""

    start: str
    end: str
    why: str
    """stopped; ended: without saying so, after its last record; unrecorded: the trail begins later."""


class Watch(msgspec.Struct, frozen=True):
    """When there was a sensor, as far as the trail says."""

    gaps: list[Gap]
    """The newest hundred."""
    gaps_in_all: int
    unwatched_s: float
    mode: str | None
    """The mode that the sensor last started in."""
    host: str | None


class Trail(msgspec.Struct):
    """The record that all this was read from."""

    directory: str
    problem: str | None = None
    """Why it cannot be read."""
    good: bool = False
    """`hostbrake audit verify` holds."""
    records: int = 0
    signed: int = 0
    """So many records the last checkpoint covers."""
    signed_until: str | None = None
    """The time of the last of these."""
    first: str | None = None
    last: str | None = None
    trusted_key: bool = False
    """The key was given, and not found beside the trail."""
    findings: list[str] = []
    findings_in_all: int = 0
    set_aside: list[str] = []
    """Trails and parts of them that a crash or damage put aside: what they hold is not in this report."""
    unreadable: int = 0
    """Records whose time makes no sense: they are in no number here."""


class Report(msgspec.Struct, kw_only=True):
    format: str = FORMAT
    made: str
    since: str
    until: str
    good: bool = True
    reasons: list[str] = []
    """Why not, in sentences for people."""
    trail: Trail
    watch: Watch
    overall: Row
    agents: list[Row]
    owners: list[Row]
    rules: list[Row]
    actions: list[Row]
    drills: Drills
    incidents: list[Incident]
    """The newest; of those that were not stopped, more."""
    incidents_in_all: int
    losses: dict[str, int]
    """What was lost in the period, by what it is."""
    crowded_out: dict[str, int]
    """What did not fit into this report's own tables."""
    agent_faults: list[str]
    """Faults of agents' files: who else should have been drilled is not known."""
