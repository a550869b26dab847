"""Compiled rules kept on disk, so that a start with unchanged rules needs neither YAML nor pySigma.

The file holds a digest, a newline and JSON. The digest covers the JSON and everything that the rules came from,
so a cache that is old, damaged or of other rules is no cache. One that another user could have written is
ignored too.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from sensor import __version__
from sensor.events import CLASSES, fields_of
from sensor.match import ir

_LARGEST = 64 << 20
_decoder = msgspec.json.Decoder(tuple[ir.Rule, ...])


def key_of(files: Iterable[tuple[str, str, bytes]]) -> bytes:
    """A digest of the rule files (path, name, content) and of all code that gives them meaning."""
    digest = sha256()
    fields = str([(category, fields_of(category)) for category in CLASSES])
    versions = (__version__, str(ir.SCHEMA), fields, _pysigma_version(), sys.version)
    for part in versions:
        digest.update(sha256(part.encode()).digest())
    for path, name, content in files:
        for field in (os.fsencode(path), os.fsencode(name), content):
            digest.update(sha256(field).digest())
    return digest.digest()


def _pysigma_version() -> str:
    """pySigma's metadata directory, which names its version.

    As `importlib.metadata.version`, but that alone costs 30 ms and 3 MB to import.
    """
    for place in sys.path:
        with suppress(OSError):
            for entry in os.listdir(place or "."):  # noqa: PTH208 (no Path is needed)
                if entry.lower().startswith("pysigma-") and entry.endswith("-info"):
                    return entry
    from importlib.metadata import version  # noqa: PLC0415 (see above)

    return version("pysigma")


def read(path: Path, key: bytes) -> tuple[ir.Rule, ...] | None:
    """The rules kept under `key`; None where there are none that can be trusted."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            if not ours or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_size > _LARGEST:
                return None
            digest, _, content = file.read().partition(b"\n")
    except OSError:
        return None
    if digest != _seal(key, content):
        return None
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return None


def _open(path: str, flags: int) -> int:
    """Follows no link, and waits for no writer of a FIFO."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode=0o600)


def write(path: Path, key: bytes, rules: tuple[ir.Rule, ...]) -> None:
    """Replace the cache in one step, readable by us alone; raises OSError."""
    content = msgspec.json.encode(rules)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb", opener=_open) as file:
            file.write(_seal(key, content) + b"\n" + content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _seal(key: bytes, content: bytes) -> bytes:
    return sha256(key + content).hexdigest().encode()
