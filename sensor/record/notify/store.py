"""Incidents on disk: one file, replaced in one step and forced to the disk, so that a crash forgets no message."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from sensor.record.notify.incidents import INCIDENTS, Incident

NOTIFY_DIR = "notify"
"""Its name in the state directory."""
_NAME = "incidents.json"
_LARGEST = 16 << 20


class _File(msgspec.Struct):
    version: int
    incidents: list[Incident]


_decoder = msgspec.json.Decoder(_File)


class DamagedError(Exception):
    """The file is none of ours, or somebody else could have written it; the message says why."""


class Store:
    """`directory`/incidents.json."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / _NAME

    def load(self) -> list[Incident]:
        """Oldest first. Raises DamagedError, and OSError where it cannot be read."""
        try:
            # Follows no link, and waits for no writer of a FIFO.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                raise DamagedError("it is no file of this size")
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise DamagedError("others may write it")
            content = file.read()
        try:
            found = _decoder.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise DamagedError(str(error)) from None
        if found.version != 1 or len(found.incidents) > INCIDENTS:
            raise DamagedError("it is of another version or size")
        return found.incidents

    def save(self, incidents: list[Incident]) -> None:
        """Raises OSError; the file then holds what it held before."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{_NAME}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(_File(1, incidents)))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def set_aside(self) -> None:
        """Keep a damaged file for a person to look at; raises OSError."""
        self.path.replace(self.path.with_name(f"{_NAME}.damaged"))
