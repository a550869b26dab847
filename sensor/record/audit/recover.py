"""Where the trail goes on after a start: nothing is trusted but what leads to the last checkpoint.

What a crash left unfinished behind the last checkpoint is set aside and told in a record. A trail that does not reach
or fit its checkpoints cannot go on, since no log may sign two histories: it is set aside whole, and a new one begins,
with a key of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sensor.events import rfc3339
from sensor.record.audit import layout
from sensor.record.audit.layout import Place, Segment
from sensor.record.audit.line import LINE_BYTES, NO_HEAD, LineError, parse_line
from sensor.record.audit.merkle import Tree, leaf_hash
from sensor.record.audit.note import Checkpoint, NoteError, read_checkpoint

REPLAY_BYTES = 256 << 20
"""More than this is not read again at start, which would take seconds: without a usable state such a trail ends."""


class Recovered(msgspec.Struct):
    """Where to go on."""

    tree: Tree
    head: str
    place: Place
    """Its segment need not exist yet."""
    signed: int = 0
    """Size of the last checkpoint."""
    told: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """What happened, one `loss` record each."""


class DamageError(Exception):
    """The trail cannot go on; the message is a clause."""


def recover(directory: Path, key: Path) -> Recovered:
    """Raises OSError."""
    try:
        return _continue(directory, key)
    except DamageError as damage:
        checkpoint = directory / layout.CHECKPOINT
        last = checkpoint.read_text(errors="backslashreplace") if checkpoint.exists() else None
        aside = _set_aside(directory, key)
        fresh = _fresh()
        fresh.told = [
            {"what": "trail_aside", "why": f"the trail before this one: {damage}", "aside": aside, "checkpoint": last}
        ]
        return fresh


def _fresh() -> Recovered:
    return Recovered(Tree(), NO_HEAD, Place(layout.segment_name(0), 0, 0))


def _continue(directory: Path, key: Path) -> Recovered:
    state = layout.read_state(directory)
    if state is not None and state.tree() is None:
        state = None
    signed = _signed(directory, state.kept if state else 0)
    if state is not None:
        signed.append(read_checkpoint(state.checkpoint.encode()))
    found = layout.segments(directory)
    largest = max((checkpoint.size for checkpoint in signed), default=0)
    if not found:
        if signed:
            raise DamageError("its segments are gone")
        return _fresh()
    if signed and not key.exists():
        raise DamageError("its private key is gone")
    walk = _Walk(found, {checkpoint.size: checkpoint.root for checkpoint in signed})
    if state is None or not walk.enter(state):
        if sum(segment.path.stat().st_size for segment in found) > REPLAY_BYTES:
            raise DamageError("the state that says where to go on is gone")
        if found[0].first != 0:
            raise DamageError("its first segment is gone")
    broken = walk.run()
    if walk.tree.size < largest:
        raise DamageError(f"it ends or breaks at record {walk.tree.size}, and {largest} were signed for")
    recovered = Recovered(walk.tree, walk.head, walk.place(), largest)
    if broken:
        recovered.told = list(_tear(directory, found, walk))
    return recovered


def _signed(directory: Path, known: int) -> list[Checkpoint]:
    """What the checkpoints after `known` bytes say; whether they are genuine, `audit verify` tells."""
    path = directory / layout.CHECKPOINTS
    if not path.exists():
        return []
    notes, rest = layout.read_notes(path, known if known <= path.stat().st_size else 0)
    if rest:  # a crash cut it short; the checkpoint was told nobody
        os.truncate(path, path.stat().st_size - len(rest))
    read = []
    for note in notes:
        try:
            read.append(read_checkpoint(note))
        except NoteError:
            continue
    return read


class _Walk:
    """Reads segments again, and knows where it stands."""

    def __init__(self, found: list[Segment], roots: dict[int, bytes]) -> None:
        self.tree = Tree()
        self.head = NO_HEAD
        self.number = 0
        """Of the segment in `found`."""
        self.last = 0
        self.offset = 0
        self._found = found
        self._roots = roots

    def place(self) -> Place:
        return Place(self._found[self.number].path.name, self.last, self.offset)

    def enter(self, state: layout.State) -> bool:
        """Start where `state` says; False where that leads nowhere. Raises DamageError for another record there."""
        tree = state.tree()
        names = [segment.path.name for segment in self._found]
        if tree is None or state.place.segment not in names or not 0 <= state.place.last < state.place.offset:
            return False
        number = names.index(state.place.segment)
        with open(self._found[number].path, "rb") as file:
            file.seek(state.place.last)
            line = file.read(min(state.place.offset - state.place.last, LINE_BYTES))
        try:
            record = parse_line(line[:-1])
        except LineError:
            record = {}
        if record.get("index") != tree.size - 1 or not line.endswith(b"\n"):
            raise DamageError(f"record {tree.size - 1}, which was signed for, is not where it was")
        self.tree, self.head, self.number = tree, leaf_hash(line[:-1]).hex(), number
        self.last, self.offset = state.place.last, state.place.offset
        return True

    def run(self) -> bool:
        """To the end, or to where the trail breaks: True. Raises DamageError where a checkpoint does not fit."""
        while True:
            if not self._read(self._found[self.number].path):
                return True
            if self.number + 1 == len(self._found):
                return False
            if self._found[self.number + 1].first != self.tree.size:
                return True
            self.number += 1
            self.last = self.offset = 0

    def _read(self, path: Path) -> bool:
        with open(path, "rb") as file:
            file.seek(self.offset)
            while line := file.readline(LINE_BYTES):
                if not line.endswith(b"\n") or not self._takes(line[:-1]):
                    return False
                self.last, self.offset = self.offset, self.offset + len(line)
        return True

    def _takes(self, line: bytes) -> bool:
        try:
            record = parse_line(line)
        except LineError:
            return False
        if record["index"] != self.tree.size or record["prev"] != self.head:
            return False
        leaf = leaf_hash(line)
        self.tree.append(leaf)
        self.head = leaf.hex()
        root = self._roots.get(self.tree.size)
        if root is not None and root != self.tree.root():
            raise DamageError(f"its first {self.tree.size} records are not those that were signed for")
        return True


def _tear(directory: Path, found: list[Segment], walk: _Walk) -> Iterator[dict[str, Any]]:
    """Move all behind the last whole record into files of its own."""
    stamp = _stamp()
    path = found[walk.number].path
    size = path.stat().st_size
    if size > walk.offset:
        aside = directory / f"torn-{walk.tree.size:012d}-{stamp}"
        digest = _copy_tail(path, walk.offset, aside)
        os.truncate(path, walk.offset)
        yield _torn("the last record was unfinished", path, size - walk.offset, digest, aside)
    for segment in found[walk.number + 1 :]:
        aside = directory / f"torn-{segment.first:012d}-{stamp}"
        segment.path.rename(aside)
        with open(aside, "rb") as file:
            digest = _digest(file)
        yield _torn("this segment does not continue the one before", segment.path, aside.stat().st_size, digest, aside)


def _torn(why: str, path: Path, size: int, digest: str, aside: Path) -> dict[str, Any]:
    return {"what": "torn", "why": why, "segment": path.name, "bytes": size, "sha256": digest, "aside": aside.name}


def _copy_tail(path: Path, offset: int, aside: Path) -> str:
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(path, "rb") as source, open(descriptor, "wb") as target:
        source.seek(offset)
        digest = _digest(source, target)
        target.flush()
        os.fsync(target.fileno())
    return digest


def _digest(source: BinaryIO, target: BinaryIO | None = None) -> str:
    """SHA-256 of what is left of `source`, which goes to `target` on the way."""
    digest = sha256()
    while chunk := source.read(LINE_BYTES):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest()


def _set_aside(directory: Path, key: Path) -> str:
    aside = directory / f"aside-{_stamp()}"
    aside.mkdir(mode=0o700)
    for path in list(directory.iterdir()):
        if path.name != layout.LOCK and not path.name.startswith(("aside-", "torn-")):
            path.rename(aside / path.name)
    if key.exists():
        key.rename(key.with_name(f"{key.name}.{aside.name}"))
    return aside.name


def _stamp() -> str:
    """The time as part of a file's name."""
    return rfc3339(time.time_ns()).replace(":", "").replace("-", "")
