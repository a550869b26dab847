"""One incident out of the trail, as a file that proves itself: its records, and how each hangs in the signed tree."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sensor.record.audit import layout
from sensor.record.audit.line import LINE_BYTES, LineError, parse_line
from sensor.record.audit.merkle import Prover, leaf_hash, proves_inclusion
from sensor.record.audit.note import Checkpoint, NoteError, PublicKey, open_checkpoint, unbase64
from sensor.record.audit.verify import Deeds, Finding, Report

FORMAT = "hostbrake audit bundle 1"
BUNDLE_BYTES = 1 << 30


class BundleError(Exception):
    """The incident cannot be exported; the message is one sentence."""


class NotSignedYetError(BundleError):
    """The last checkpoint does not reach the incident's last record."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One record: its line as it stands in the trail, and its inclusion proof (RFC 9162), lowest sibling first."""

    line: str
    proof: list[str]


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is whose signature the checkpoint carries; only a verifier's own copy of it proves anything."""

    format: str
    id: str
    key: str
    checkpoint: str
    records: list[Entry]


def export(directory: Path, key: PublicKey, identifier: str, is_incident: bool = False) -> Bundle:
    """All records of an alert, or of an incident and its alerts. Raises BundleError, NoteError and OSError."""
    note = (directory / layout.CHECKPOINT).read_bytes()
    checkpoint = open_checkpoint(note, [key])
    wanted = _alerts_of(directory, identifier) if is_incident else {identifier}
    chosen = {index: line for index, line in _raw_lines(directory) if wanted & ids_of(_record(line))}
    if not chosen:
        raise BundleError(f"no record of the trail has the id {identifier}")
    if max(chosen) >= checkpoint.size:
        raise NotSignedYetError(
            f"record {max(chosen)} is not signed yet: the last checkpoint covers {checkpoint.size} records. "
            "A running sensor signs within a minute, and when it starts"
        )
    prover = Prover(chosen)
    for index, line in _raw_lines(directory):
        if index == checkpoint.size:
            break
        prover.append(leaf_hash(line))
    root, proofs = prover.finish()
    if (prover.size, root) != (checkpoint.size, checkpoint.root):
        raise BundleError("the trail does not fit its checkpoint; `hostbrake audit verify` says where")
    entries = [
        Entry(line.decode(), [base64.b64encode(node).decode() for node in proofs[index]])
        for index, line in sorted(chosen.items())
    ]
    return Bundle(FORMAT, identifier, str(key), note.decode(), entries)


def verify_bundle(path: Path, keys: Sequence[PublicKey]) -> Report:
    """Is each record in the trail that was signed for, unchanged? Raises OSError."""
    report = Report()
    try:
        with open(path, "rb") as file:
            bundle = msgspec.json.decode(file.read(BUNDLE_BYTES), type=Bundle)
        if bundle.format != FORMAT:
            raise ValueError("it is of another format")
        checkpoint = open_checkpoint(bundle.checkpoint.encode(errors="surrogatepass"), keys)
    except (msgspec.DecodeError, ValueError) as error:
        report.found(Finding(f"is no bundle: {error}", path.name))
        return report
    except NoteError as error:
        report.found(Finding(f"checkpoint not accepted: {error}", path.name))
        return report
    report.checkpoints, report.signed = 1, checkpoint.size
    deeds = Deeds(report)
    last = -1
    for number, entry in enumerate(bundle.records, 1):
        line = entry.line.encode(errors="surrogatepass")
        try:
            record = parse_line(line)
        except LineError as error:
            report.found(Finding(str(error), path.name, number))
            continue
        for fault in _entry_fault(entry, line, record["index"], last, checkpoint), deeds.read(record):
            if fault:
                report.found(Finding(fault, path.name, number, record["index"]))
        last = record["index"]
        report.first = report.first or record["time"]
        report.last = record["time"]
        report.records += 1
    deeds.end()
    if not report.records:
        report.found(Finding("holds no record", path.name))
    return report


def _entry_fault(entry: Entry, line: bytes, index: int, last: int, checkpoint: Checkpoint) -> str | None:
    proof = [unbase64(node) or b"" for node in entry.proof]
    if not proves_inclusion(leaf_hash(line), index, checkpoint.size, proof, checkpoint.root):
        return "is not in the trail that was signed for"
    return "stands behind a later one, or twice" if index <= last else None


def ids_of(record: dict[str, Any]) -> set[str]:
    """The alerts and the incident that the record belongs to."""
    many = record.get("alerts")
    ids = [record.get("alert"), record.get("incident"), *(many if isinstance(many, list) else ())]
    return {one for one in ids if isinstance(one, str)}


def records(directory: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every whole record with its line, unverified; lines that are none are left out. Raises OSError."""
    for _, line in _raw_lines(directory):
        record = _record(line)
        if record:
            yield line, record


def _alerts_of(directory: Path, incident: str) -> set[str]:
    found = {incident}
    for _, line in _raw_lines(directory):
        record = _record(line)
        if record.get("incident") == incident:
            found |= ids_of(record)
    return found


def _record(line: bytes) -> dict[str, Any]:
    try:
        return parse_line(line)
    except LineError:
        return {}


def _raw_lines(directory: Path) -> Iterator[tuple[int, bytes]]:
    """Line by line with its number from the trail's start, as the tree counts; an unfinished last one is left out."""
    number = 0
    for segment in layout.segments(directory):
        with open(segment.path, "rb") as file:
            while line := file.readline(LINE_BYTES):
                if line.endswith(b"\n"):
                    yield number, line[:-1]
                    number += 1
