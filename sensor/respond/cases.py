"""Cases: what was frozen and asked about, what was decided, and how both are kept on disk.

Times are CLOCK_BOOTTIME, which no change of the clock moves and which goes on while the sensor is down; they and cgroup
ids mean nothing after a reboot, so what another boot left is dropped: nothing is frozen then.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import msgspec

from sensor.duration import LONGEST_S
from sensor.events import RecordError, from_record
from sensor.node import boot_id
from sensor.verdict import RuleInfo

STATE_FILE = "approvals.json"
"""Its name in the state directory."""
CASES_LIMIT = 256
GRANTS_LIMIT = 1024
_LARGEST = 64 << 20

Decision = Literal["approve", "deny"]


class CgroupRef(msgspec.Struct, frozen=True):
    """One cgroup: whatever else has its path by now is not meant."""

    path: str
    id: int


class Case(msgspec.Struct, kw_only=True):
    """One question to the owner of a workload that was frozen for it."""

    id: str
    rule: RuleInfo
    agent: str | None
    owner: str | None
    cgroups: list[CgroupRef]
    event: dict[str, Any]
    """As recordings have it."""
    wanted: str
    """Who did what, in one sentence."""
    recent: list[str]
    """What the workload did before, the latest last."""
    asked: int
    """Nanoseconds since the Unix epoch."""
    deadline: int
    within_s: int
    held: bool = False
    """The cgroups were told to freeze; until then a crash may have come between this record and the act."""
    repeats: int = 0
    """Further matches of the rule before the freeze took effect."""
    loosened: int = 0
    """How often others thawed it meanwhile."""
    decision: Decision | None = None
    by: str | None = None
    """Who decided, in words."""

    @property
    def whom(self) -> str:
        """Whom a decision is remembered for: the agent, or the cgroup of what belongs to none."""
        return self.agent or self.cgroups[0].path


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that holds for a while."""

    rule: str
    """Its id."""
    title: str
    whom: str
    until: int
    by: str
    case: str


class State(msgspec.Struct, kw_only=True):
    """All that is kept."""

    version: Literal[1] = 1
    boot: str = msgspec.field(default_factory=boot_id)
    cases: list[Case] = []
    grants: list[Grant] = []


class DamagedError(Exception):
    """The file is no state of ours, or one that somebody else could have written; the message says why."""


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def new_id(taken: Collection[str]) -> str:
    """Five letters that can be read out on the telephone: consonants and vowels in turn, 65,536 of them.

    https://arxiv.org/html/0901.4016 (proquints).
    """
    while True:
        word = "".join(secrets.choice(letters) for letters in ("bdfghjklmnprstvz", "aiou") * 2)
        word += secrets.choice("bdfghjklmnprstvz")
        if word not in taken:
            return word


def read(path: Path) -> State:
    """What was kept; nothing where there is no file. Raises DamagedError; OSError where it cannot be read."""
    try:
        # Follows no link, and waits for no writer of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return State()
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise DamagedError("it is no file of such a size")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DamagedError("others may write it")
        content = file.read()
    try:
        state = msgspec.json.decode(content, type=State)
        for case in state.cases:
            from_record(case.event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RecordError) as error:
        raise DamagedError(str(error)) from None
    if not all(case.cgroups for case in state.cases) or len({case.id for case in state.cases}) != len(state.cases):
        raise DamagedError("a case without a cgroup, or two of one name")
    latest = now() + LONGEST_S * 1_000_000_000
    if state.boot == boot_id() and any(until > latest for until in _ends(state)):
        raise DamagedError("a time beyond all bounds")
    return state


def _ends(state: State) -> list[int]:
    return [case.deadline for case in state.cases] + [grant.until for grant in state.grants]


def write(path: Path, content: bytes) -> None:
    """Replace the file in one step, readable by its owner alone; raises OSError.

    There is no fsync: what is kept has to outlive the sensor, not the boot.
    """
    temporary = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
    except OSError:  # no directory yet, or left from before; a workload runs on until this is written
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def set_aside(path: Path) -> None:
    """Keep a damaged file for a person to look at, in the place of an earlier one; raises OSError."""
    path.replace(path.with_name(f"{path.name}.damaged"))
