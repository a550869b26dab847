"""The writer of the audit trail.

`Audit.append` is one write(2): the record is the kernel's once it returns, and outlives the sensor, a SIGKILL
included. It is on the disk a few seconds later (fsync in a thread, from `Audit.tick`), so a power cut or a crash of
the kernel can take the last seconds along, but nothing that a checkpoint was signed for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import structlog

from sensor.events import rfc3339
from sensor.record.audit import layout
from sensor.record.audit.layout import Place
from sensor.record.audit.line import LINE_BYTES, NO_HEAD, Kind, encode_line
from sensor.record.audit.merkle import Tree, leaf_hash
from sensor.record.audit.recover import recover
from sensor.record.audit.signer import FILE_MODE, Round

SEGMENT_BYTES = 64 << 20
CHECKPOINT_RECORDS = 1000
CHECKPOINT_S = 60.0
URGENT: frozenset[Kind] = frozenset({"start", "action", "approval", "drill"})
"""After these a checkpoint is signed at the next tick, so that an incident can be proven at once."""
_RETRY_S = 30.0
_CLOSE_S = 10.0
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

log = structlog.get_logger()


class AuditError(Exception):
    """Another sensor writes this trail; the message is one sentence."""


class Audit:
    """Appends records, whatever happens: what cannot be written is counted, and a `loss` record tells of it later."""

    def __init__(self, state_dir: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Raises AuditError where another sensor writes the trail. Where the disk does not let it be opened,
        `unavailable` says why, and every tick tries again.
        """
        self.losses: Counter[str] = Counter()
        """Records lost, by errno name; and "torn", "trail_aside", "checkpoint", "sync", "changed": how often."""
        self.unavailable: str | None = None
        self._directory = state_dir / layout.AUDIT_DIR
        self._key = state_dir / layout.PRIVATE_KEY
        self._segment_bytes = segment_bytes
        self._mutex = threading.Lock()
        self._lock_fd: int | None = None
        self._fd: int | None = None
        self._closed = errno.EBADF
        """Why there is no descriptor."""
        self._retired: list[int] = []
        self._tree = Tree()
        self._head = NO_HEAD
        self._name = ""
        self._last = self._offset = self._synced = 0
        self._is_torn = False
        self._missing: Counter[str] = Counter()
        self._missing_since = 0
        self._signed = 0
        self._due_at: float | None = None
        """When to sign at the latest (time.monotonic); None: nothing is new."""
        self._not_before = 0.0
        self._round: Round | None = None
        self._open(again=False)

    def append(self, kind: Kind, /, **fields: Any) -> int | None:
        """The index of the new record; None: it is lost, and counted. Raises nothing and never waits for the disk."""
        with self._mutex:
            if self._missing:
                self._tell_missing()
            written = self._append(kind, fields)
            if isinstance(written, int):
                return written
            self._lose(written)
            return None

    def tick(self) -> None:
        """To be called every few seconds: what is on the disk, signed and told comes about here."""
        with self._mutex:
            if self._fd is None:
                self._open()
            if self._missing and self._fd is not None:
                self._tell_missing()
            self._look()
            if self._round is not None and not self._round.is_alive():
                self._finish_round()
            if self._round is None:
                self._start_round()

    def close(self) -> None:
        """Sign for all that there is and let go; waits some seconds for the disk."""
        with self._mutex:
            self._end_round()
            if self._fd is not None and self._tree.size > self._signed:
                self._due_at = self._not_before = 0
                self._start_round()
                self._end_round()
            for descriptor in (self._fd, self._lock_fd, *self._retired):
                if descriptor is not None:
                    os.close(descriptor)
            self._fd = self._lock_fd = None
            self._retired = []

    def summary(self) -> dict[str, Any]:
        """For `status`."""
        return {"records": self._tree.size, "signed": self._signed, "segment": self._name}

    def _append(self, kind: Kind, fields: dict[str, Any]) -> int | str:
        """The index, or the name of what kept the record from being written."""
        index = self._tree.size
        try:
            line = encode_line(index, kind, fields, self._head)
        except (TypeError, ValueError, RecursionError):
            return "unencodable"
        if len(line) >= LINE_BYTES:
            return "oversized"
        try:
            self._write(line + b"\n")
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "unknown")
        leaf = leaf_hash(line)
        self._tree.append(leaf)
        self._head = leaf.hex()
        if kind in URGENT:
            self._due_at = 0
        elif self._due_at is None:
            self._due_at = time.monotonic() + CHECKPOINT_S
        return index

    def _write(self, data: bytes) -> None:
        if self._fd is not None and self._offset >= self._segment_bytes:
            self._roll()
        fd = self._fd
        if fd is None:
            raise OSError(self._closed, "the trail is not open")
        if self._is_torn:
            os.ftruncate(fd, self._offset)
            self._is_torn = False
        written = os.write(fd, data)
        if written != len(data):
            self._is_torn = True
            os.ftruncate(fd, self._offset)
            self._is_torn = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._last, self._offset = self._offset, self._offset + written

    def _lose(self, name: str) -> None:
        if not self._missing:
            self._missing_since = time.time_ns()
        self._missing[name] += 1
        self.losses[name] += 1

    def _tell_missing(self) -> None:
        """One record for all that are missing; what cannot be written even now is told later."""
        since = rfc3339(self._missing_since)
        told = {"what": "missing", "missing": self._missing.total(), "why": dict(self._missing), "since": since}
        if isinstance(self._append("loss", told), int):
            self._missing.clear()

    def _tell(self, told: dict[str, Any]) -> None:
        self.losses[told["what"]] += 1
        written = self._append("loss", told)
        if isinstance(written, str):
            self._lose(written)

    def _open(self, again: bool = True) -> None:
        try:
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._take_lock()
            recovered = recover(self._directory, self._key)
            self._fd = os.open(self._directory / recovered.place.segment, _FLAGS, FILE_MODE)
        except OSError as error:
            self._closed = error.errno or errno.EIO
            self._refused(f"{error.filename or self._directory}: {error.strerror}")
            return
        except AuditError as error:
            if not again:
                raise
            self._refused(str(error))
            return
        self.unavailable = None
        self._tree, self._head, self._signed = recovered.tree, recovered.head, recovered.signed
        self._name, self._last = recovered.place.segment, recovered.place.last
        self._offset = self._synced = recovered.place.offset
        for told in recovered.told:
            log.error("the audit trail was damaged", **told)
            self._tell(told)

    def _refused(self, why: str) -> None:
        if why != self.unavailable:
            log.error("the audit trail cannot be opened", why=why)
        self.unavailable = why

    def _take_lock(self) -> None:
        if self._lock_fd is not None:
            return
        lock = os.open(self._directory / layout.LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise AuditError(f"another sensor writes the audit trail in {self._directory}") from None
        self._lock_fd = lock

    def _roll(self) -> bool:
        """Begin a new segment; where that cannot be, the old one grows on."""
        name = layout.segment_name(self._tree.size)
        try:
            fd = os.open(self._directory / name, _FLAGS | os.O_EXCL, FILE_MODE)
        except OSError:
            return False
        if self._fd is not None:
            self._retired.append(self._fd)
        self._fd, self._name = fd, name
        self._last = self._offset = self._synced = 0
        self._is_torn = False
        return True

    def _look(self) -> None:
        """Has somebody else cut, appended to or removed the segment? What comes now begins a whole one."""
        if self._fd is None or self._is_torn:
            return
        info = os.fstat(self._fd)
        if info.st_nlink and info.st_size == self._offset:
            return
        what = {"segment": self._name, "bytes": info.st_size, "expected": self._offset, "removed": not info.st_nlink}
        log.error("somebody else changed the audit trail", **what)
        if not self._roll():
            self._offset = info.st_size
        self._tell({"what": "changed", **what})

    def _start_round(self) -> None:
        unsigned = self._tree.size - self._signed
        now = time.monotonic()
        is_due = unsigned >= CHECKPOINT_RECORDS or (self._due_at is not None and now >= self._due_at)
        signs = bool(unsigned) and is_due and now >= self._not_before
        if self._fd is None or (not signs and self._synced == self._offset and not self._retired):
            return
        try:
            descriptors = [os.dup(self._fd)]
        except OSError as error:
            self._failed({"sync": error.strerror or "no descriptor is left"})
            return
        place = Place(self._name, self._last, self._offset)
        tree = self._tree.copy() if signs else None
        started = Round(self._directory, self._key, [*self._retired, *descriptors], tree, place)
        try:
            started.start()
        except RuntimeError as error:  # the limit on threads
            os.close(descriptors[0])
            self._failed({"sync": str(error)})
            return
        self._round = started
        self._retired = []
        self._synced = self._offset
        if signs:
            self._due_at = None

    def _end_round(self) -> None:
        if self._round is not None:
            self._round.join(_CLOSE_S)
            if not self._round.is_alive():
                self._finish_round()

    def _finish_round(self) -> None:
        done, self._round = self._round, None
        if done is None:
            return
        self._failed(done.faults)
        if done.note is not None:
            self._signed = done.size
            log.info("audit checkpoint", size=done.size, checkpoint=done.note)

    def _failed(self, faults: dict[str, str]) -> None:
        for what, why in faults.items():
            self.losses[what] += 1
            log.error(f"audit trail: {what} failed", why=why)
        if faults:
            self._due_at = self._not_before = time.monotonic() + _RETRY_S
