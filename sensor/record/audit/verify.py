"""Is the trail what the sensor wrote? Needs the files and a public key, neither root nor the sensor.

Every line is held to the chain, the tree over all to each checkpoint, and each response to its intent. A finding says
where; the walk goes on behind it, so that one change does not hide another.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sensor.record.audit import layout
from sensor.record.audit.layout import Segment
from sensor.record.audit.line import LINE_BYTES, NO_HEAD, LineError, parse_line
from sensor.record.audit.merkle import Tree, leaf_hash
from sensor.record.audit.note import Checkpoint, NoteError, PublicKey, open_checkpoint

FINDINGS = 100
"""How many are kept; the rest is counted."""
DEEDS = ("done", "pending", "failed")
"""The outcomes of a response that was begun."""
_SETTLE_S = 0.02
_SETTLE_TRIES = 10


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that is not as the sensor wrote it."""

    what: str
    file: str
    line: int | None = None
    """Counts from 1."""
    index: int | None = None
    """Of the record."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.what}" if self.index is None else f"{place}: record {self.index} {self.what}"


class Report(msgspec.Struct):
    """What was found."""

    records: int = 0
    segments: int = 0
    first: str | None = None
    """Time of the first record."""
    last: str | None = None
    checkpoints: int = 0
    """Signatures that hold."""
    signed: int = 0
    """So many records, from the first on, are covered by a checkpoint."""
    responses: int = 0
    """Actions that were begun, each after its intent."""
    by_kernel: int = 0
    """What the kernel denied by an agent's limits, before the sensor knew."""
    without_intent: int = 0
    """Actions whose intent is among the records that are missing."""
    open_intents: list[int] = []
    """Intents without an action: still under way, or the sensor died."""
    losses: dict[str, int] = {}
    """What the trail itself says is missing: records by errno name, and what happened to it."""
    findings: list[Finding] = []
    more_findings: int = 0

    def is_good(self) -> bool:
        return not self.findings

    def found(self, finding: Finding) -> None:
        if len(self.findings) < FINDINGS:
            self.findings.append(finding)
        else:
            self.more_findings += 1


class Signed(msgspec.Struct, frozen=True):
    """A checkpoint whose signature holds, and where it was found."""

    checkpoint: Checkpoint
    source: str


def verify_trail(directory: Path, keys: Sequence[PublicKey], elsewhere: Iterable[tuple[str, bytes]] = ()) -> Report:
    """`elsewhere`: checkpoints that were kept away from the trail, each with a name for it. Raises OSError."""
    report = Report()
    signed = _checkpoints(report, directory, keys, elsewhere)
    walk = _Walk(report, signed)
    found = layout.segments(directory)
    for number, segment in enumerate(found):
        walk.enter(segment)
        for line in _lines(segment.path, is_last=number == len(found) - 1):
            walk.take(line)
    walk.end()
    report.segments = len(found)
    return report


def _checkpoints(
    report: Report, directory: Path, keys: Sequence[PublicKey], elsewhere: Iterable[tuple[str, bytes]]
) -> list[Signed]:
    notes = [*_kept_notes(report, directory), *elsewhere]
    signed: list[Signed] = []
    roots: dict[int, bytes] = {}
    for source, note in notes:
        try:
            checkpoint = open_checkpoint(note, keys)
        except NoteError as error:
            report.found(Finding(f"checkpoint not accepted: {error}", source))
            continue
        if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            report.found(Finding(f"two different histories were signed for {checkpoint.size} records", source))
            continue
        signed.append(Signed(checkpoint, source))
    report.checkpoints = len(signed)
    return sorted(signed, key=lambda one: one.checkpoint.size)


def _kept_notes(report: Report, directory: Path) -> Iterator[tuple[str, bytes]]:
    path = directory / layout.CHECKPOINTS
    rest = b""
    notes: list[bytes] = []
    if path.exists():
        for _ in range(_SETTLE_TRIES):
            notes, rest = layout.read_notes(path)
            if not rest:
                break
            time.sleep(_SETTLE_S)  # the sensor may be writing it just now
    if rest:
        report.found(Finding("the last checkpoint is unfinished", path.name))
    last = directory / layout.CHECKPOINT
    if not notes and not last.exists():
        report.found(Finding("there is no checkpoint here: nothing shows that the trail is whole", path.name))
    for number, note in enumerate(notes, 1):
        yield f"{path.name}, number {number}", note
    if last.exists():
        yield last.name, last.read_bytes()


def _lines(path: Path, is_last: bool) -> Iterator[bytes]:
    """What the file holds now, line by line; one that is too long comes in pieces."""
    with open(path, "rb") as file:
        end = path.stat().st_size
        offset = 0
        while offset < end:
            line = file.readline(LINE_BYTES)
            for _ in range(_SETTLE_TRIES if is_last else 0):
                if line.endswith(b"\n") or len(line) == LINE_BYTES:
                    break
                time.sleep(_SETTLE_S)  # the sensor may be writing it just now
                file.seek(offset)
                line = file.readline(LINE_BYTES)
            if not line:  # cut since we looked
                return
            offset += len(line)
            yield line


class Deeds:
    """Holds each response to its intent, record by record, and gathers what the trail says is missing."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._intents: dict[int, object] = {}
        self._losses: Counter[str] = Counter()

    def read(self, record: dict[str, Any]) -> str | None:
        """What is wrong with the record, as a clause."""
        kind = record["kind"]
        if kind == "intent":
            self._intents[record["index"]] = record.get("alert")
        elif kind == "loss":
            self._read_loss(record)
        elif kind == "action" and record.get("outcome") in DEEDS:
            intent = record.get("intent")
            if record.get("by") == "kernel":
                self._report.by_kernel += 1
            elif intent is None and self._losses:
                self._report.without_intent += 1
            elif not isinstance(intent, int) or self._intents.pop(intent, record) != record.get("alert"):
                return "is an action without its intent before it"
            else:
                self._report.responses += 1
        return None

    def end(self) -> None:
        self._report.open_intents = list(self._intents)
        self._report.losses = dict(self._losses)

    def _read_loss(self, record: dict[str, Any]) -> None:
        why = record.get("why")
        if record.get("what") == "missing" and isinstance(why, dict):
            self._losses.update({name: count for name, count in why.items() if isinstance(count, int)})
        else:
            self._losses[str(record.get("what"))] += 1


class _Place(msgspec.Struct, frozen=True):
    file: str
    line: int
    index: int


class _Walk:
    """Goes through the records in order."""

    def __init__(self, report: Report, signed: list[Signed]) -> None:
        self._report = report
        self._signed = deque(signed)
        self._tree = Tree()
        self._file = ""
        self._line = 0
        self._index = -1
        """Of the record before."""
        self._head: str | None = NO_HEAD
        """Its hash; None: it was no record, so what comes next cannot continue it."""
        self._before: _Place | None = None
        """The record before."""
        self._breaks: list[_Place] = []
        """The records just before, each of which does not continue its predecessor."""
        self._before_breaks: _Place | None = None
        self._unproven: _Place | None = None
        """The first record behind those that fit a checkpoint."""
        self._is_forged = False
        self._deeds = Deeds(report)
        self._hold_to_checkpoints()

    def enter(self, segment: Segment) -> None:
        expected = self._index + 1
        if segment.first != expected:
            self._settle(attested=False)
            what = "a segment is missing" if segment.first > expected else "it does not follow the one before"
            where = f"begins with record {segment.first}, where record {expected} belongs: {what}"
            self._report.found(Finding(where, segment.path.name))
            self._index, self._head = segment.first - 1, None
        self._file, self._line = segment.path.name, 0

    def take(self, line: bytes) -> None:
        self._line += 1
        whole = line.removesuffix(b"\n")
        leaf = leaf_hash(whole)
        try:
            if line == whole:
                raise LineError("is unfinished: a crash, or somebody cut it")
            record = parse_line(whole)
        except LineError as error:
            self._settle(attested=False)
            self._index, self._head = self._index + 1, None
            self._found(str(error))
        else:
            self._link(record, leaf)
            self._read(record)
        self._before = self._place()
        self._tree.append(leaf)
        self._report.records += 1
        if self._unproven is None:
            self._unproven = self._place()
        self._hold_to_checkpoints()

    def end(self) -> None:
        self._settle(attested=False)
        self._deeds.end()
        beyond = [one for one in self._signed if one.checkpoint.size > self._tree.size]
        if beyond:
            what = f"is the last of {self._tree.size}, and for {beyond[-1].checkpoint.size} was signed"
            self._found(f"{what} ({beyond[-1].source}): the end is missing")

    def _link(self, record: dict[str, Any], leaf: bytes) -> None:
        expected = self._index + 1
        self._index = record["index"]
        if self._index != expected:
            self._settle(attested=False)
            self._found(f"stands where record {expected} belongs: {_displaced(expected, self._index)}")
        elif self._head is None or record["prev"] == self._head:
            self._settle(attested=True)
        else:
            if not self._breaks:
                self._before_breaks = self._before
            self._breaks.append(self._place())
        self._head = leaf.hex()

    def _settle(self, attested: bool) -> None:
        """Say which records were changed, now that the links that break have come to an end.

        A changed record breaks the link to it and, if its own `prev` was changed too, the one before. `attested`: the
        last of those that break is itself continued by its successor.
        """
        breaks, self._breaks = self._breaks, []
        if not breaks:
            return
        changed = breaks[:-1] if len(breaks) > 1 else [self._before_breaks or breaks[0]]
        what = "was changed: the record after it holds another hash of it"
        if len(breaks) == 1 and (self._before_breaks is None or not attested):
            what = "was changed, or the record after it" if self._before_breaks else "does not begin the chain"
        for place in changed:
            self._report.found(Finding(what, place.file, place.line, place.index))

    def _hold_to_checkpoints(self) -> None:
        while self._signed and self._signed[0].checkpoint.size <= self._tree.size:
            one = self._signed.popleft()
            checkpoint, source = one.checkpoint, one.source
            if checkpoint.root == self._tree.root():
                self._report.signed = checkpoint.size
                self._unproven = None
            elif not self._is_forged and self._unproven is not None:
                self._is_forged = True
                at = self._unproven
                what = f"or one after it, up to the {checkpoint.size}th, is not what was signed for ({source})"
                self._report.found(Finding(what, at.file, at.line, at.index))

    def _read(self, record: dict[str, Any]) -> None:
        self._report.first = self._report.first or record["time"]
        self._report.last = record["time"]
        fault = self._deeds.read(record)
        if fault:
            self._found(fault)

    def _found(self, what: str) -> None:
        self._report.found(Finding(what, self._file, self._line or None, max(self._index, 0)))

    def _place(self) -> _Place:
        return _Place(self._file, self._line, self._index)


def _displaced(expected: int, index: int) -> str:
    if index < expected:
        return "it was inserted, repeated or moved"
    return f"{index - expected} before it {'is' if index - expected == 1 else 'are'} missing"
