"""Profiles on disk: one JSON file for each agent in the state directory, so that damage costs one agent its profile.

Writing does not wait for the disk (no fsync): the event loop has kills to carry out. What a power cut leaves half
written is damaged, and a damaged file is set aside and its agent learned anew.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

from sensor.match.profile import KEEP_DAYS, LIMIT, NOVELTY, TOLD_LIMIT, Profile

PROFILES_DIR = "profiles"
"""Its name in the state directory."""
_LARGEST = 8 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
_decoder = msgspec.json.Decoder(Profile)


class DamagedError(Exception):
    """The file is no profile, or one that somebody else could have written; the message says why."""


def path_of(directory: Path, agent: str) -> Path | None:
    """Where the agent's profile is kept; None for what is no agent's name."""
    return directory / f"{agent}.json" if _NAME.fullmatch(agent) else None


def read(path: Path, agent: str) -> Profile | None:
    """The profile, or None where there is no file. Raises DamagedError; OSError where it cannot be read."""
    try:
        # Follows no link, and waits for no writer of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise DamagedError("it is no file of a profile's size")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DamagedError("others may write it")
        content = file.read()
    try:
        profile = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(str(error)) from None
    if profile.agent != agent or profile.version != 1 or not _is_bounded(profile):
        raise DamagedError("it is of another agent, version or size")
    return profile


def _is_bounded(profile: Profile) -> bool:
    facets = (profile.destinations, profile.programs)
    return (
        all(len(facet.seen) <= LIMIT and len(facet.told) <= TOLD_LIMIT for facet in facets)
        and all(len(facet.new) <= NOVELTY for facet in facets)
        and len(profile.names) <= LIMIT
        and len(profile.volume.hours) <= KEEP_DAYS * 24
    )


def write(path: Path, profile: Profile) -> None:
    """Replace the file in one step, readable by its owner alone; raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(profile))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def set_aside(path: Path) -> None:
    """Keep a damaged file for a person to look at, in the place of an earlier one; raises OSError."""
    path.replace(path.with_name(f"{path.name}.damaged"))
