"""The trail's files, below the state directory:

audit/trail-000000000000.jsonl   segments, each named by the index of its first record
audit/checkpoint                 the last signed checkpoint; copy it to another machine
audit/checkpoints                all of them
audit/key.pub                    the public key (vkey); copy it to another machine, once
audit/state                      where to go on after a restart; holds nothing that is trusted
audit/lock                       one writer at a time
audit/torn-*, audit/aside-*/     what a crash left unfinished; trails that could not be continued
audit.key                        the private key, mode 0600
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from sensor.record.audit.merkle import Tree
from sensor.record.audit.note import NoteError, read_checkpoint

AUDIT_DIR = "audit"
PRIVATE_KEY = "audit.key"
CHECKPOINT = "checkpoint"
CHECKPOINTS = "checkpoints"
PUBLIC_KEY = "key.pub"
STATE = "state"
LOCK = "lock"
_SEGMENT = re.compile(r"trail-([0-9]{12})\.jsonl")
_STATE_BYTES = 1 << 20


class Segment(NamedTuple):
    """Sorts by `first`, the index of its first record."""

    first: int
    path: Path


class Place(msgspec.Struct, frozen=True):
    """Where in the files the trail's records end: `offset` bytes into `segment`, whose last line begins at `last`."""

    segment: str
    last: int
    offset: int


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was so when `checkpoint` was signed; the compact range proves itself against the checkpoint's root."""

    checkpoint: str
    nodes: list[str]
    place: Place
    kept: int
    """How long the file of all checkpoints was with this one, bytes: years of them need not be read at a start."""

    def tree(self) -> Tree | None:
        """None where nodes and checkpoint do not belong together."""
        try:
            checkpoint = read_checkpoint(self.checkpoint.encode())
            tree = Tree(checkpoint.size, [bytes.fromhex(node) for node in self.nodes])
        except (NoteError, ValueError):
            return None
        return tree if tree.root() == checkpoint.root else None


def segment_name(first: int) -> str:
    return f"trail-{first:012d}.jsonl"


def segments(directory: Path) -> list[Segment]:
    """In order; raises OSError."""
    found = ((_SEGMENT.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted(Segment(int(match[1]), path) for match, path in found if match)


def read_state(directory: Path) -> State | None:
    """None where there is none that makes sense; raises OSError."""
    try:
        with open(directory / STATE, "rb") as file:
            return msgspec.json.decode(file.read(_STATE_BYTES), type=State)
    except (FileNotFoundError, msgspec.DecodeError, ValueError):
        return None


def read_notes(path: Path, offset: int = 0) -> tuple[list[bytes], bytes]:
    """The notes of a file that holds one or more, a blank line after each (the last may lack it), and what comes after
    them unfinished; from `offset` on, where a note begins. Raises OSError.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        chunks = file.read().split(b"\n\n")
    ends_blank = len(chunks) % 2 == 1
    rest = chunks.pop() if ends_blank else b""
    notes = [
        text + b"\n\n" + signatures.removesuffix(b"\n") + b"\n"
        for text, signatures in zip(chunks[::2], chunks[1::2], strict=True)
    ]
    if not ends_blank and not chunks[-1].endswith(b"\n"):
        notes.pop()
        rest = b"\n\n".join(chunks[-2:])
    return notes, rest
