"""What takes too long for the event loop, in a thread of its own: fsync, and signing a checkpoint.

A checkpoint is signed only once what it covers is on the disk, so no power cut makes the trail fall short of it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from pathlib import Path

import msgspec

from sensor.node import host
from sensor.record.audit import layout
from sensor.record.audit.layout import Place, State
from sensor.record.audit.merkle import Tree
from sensor.record.audit.note import Checkpoint, NoteError, PrivateKey, parse_private_key

FILE_MODE = 0o640
_KEY_BYTES = 4096


class Round(threading.Thread):
    """Syncs `descriptors` and closes them, then signs for `tree` (None: syncs only). Ends by itself; raises nothing."""

    def __init__(self, directory: Path, key: Path, descriptors: list[int], tree: Tree | None, place: Place) -> None:
        super().__init__(name="audit", daemon=True)
        self.note: str | None = None
        """The checkpoint, once it is signed and kept."""
        self.size = tree.size if tree else 0
        self.faults: dict[str, str] = {}
        """What could not be done ("sync", "checkpoint"), and why."""
        self._directory = directory
        self._key = key
        self._descriptors = descriptors
        self._tree = tree
        self._place = place

    def run(self) -> None:
        if not self._sync() or self._tree is None:
            return
        try:
            self.note = self._sign(self._tree)
        except OSError as error:
            self.faults["checkpoint"] = f"{error.filename or self._directory}: {error.strerror}"
        except (ImportError, NoteError) as error:
            self.faults["checkpoint"] = str(error)

    def _sync(self) -> bool:
        for descriptor in self._descriptors:
            try:
                os.fsync(descriptor)
            except OSError as error:
                self.faults["sync"] = error.strerror or errno.errorcode.get(error.errno or 0, "unknown")
            finally:
                os.close(descriptor)
        return not self.faults

    def _sign(self, tree: Tree) -> str:
        key = _read_key(self._key) if self._key.exists() else _make_key(self._key)
        public = self._directory / layout.PUBLIC_KEY
        if not public.exists():
            _replace(public, f"{key.public()}\n".encode())
        note = key.sign(Checkpoint(key.name, tree.size, tree.root()))
        kept = _append(self._directory / layout.CHECKPOINTS, f"{note}\n".encode())
        state = State(note, [node.hex() for node in tree.nodes], self._place, kept)
        _replace(self._directory / layout.STATE, msgspec.json.encode(state))
        _replace(self._directory / layout.CHECKPOINT, note.encode())
        _sync_directory(self._directory)
        return note


def _read_key(path: Path) -> PrivateKey:
    """Raises OSError and NoteError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise NoteError(f"{path}: others may read the private key; it must have mode 0600")
        try:
            return parse_private_key(file.read(_KEY_BYTES).decode())
        except (UnicodeDecodeError, NoteError) as error:
            raise NoteError(f"{path}: {error}") from None


def _make_key(path: Path) -> PrivateKey:
    """A new key for a new trail, with a name that no other trail has; raises OSError."""
    node = re.sub(r"[^A-Za-z0-9.-]+", "-", host()[0])[:200] or "node"
    key = PrivateKey(f"{node}/hostbrake/{os.urandom(4).hex()}", os.urandom(32))
    _replace(path, f"{key}\n".encode(), mode=0o600)
    _sync_directory(path.parent)
    return key


def _replace(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """In one step, and on the disk before that."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def _append(path: Path, data: bytes) -> int:
    """All of it or nothing; how long the file is after that, bytes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, data) != len(data):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
        return before + len(data)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
