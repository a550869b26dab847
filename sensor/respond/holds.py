"""Holds: agents and cgroups that a person stopped and that must not start again until `hostbrake release`.

Each is a file of its own in the state directory, which says what was frozen for it: that survives the sensor, and
works without one. What is frozen takes in processes, but none of them runs (cgroup-v2.rst, "cgroup.freeze").
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sensor.respond.cgroupfs import Cgroup, CgroupRoot

HOLDS_DIR = "holds"
"""Its name in the state directory."""
_AGENT, _CGROUP, _SUFFIX = "agent-", "cgroup-", ".json"
_BYTES = 1 << 20
_LOCK_S = 1.0


class Target(NamedTuple):
    """What is held: an agent, or the cgroup at a path."""

    kind: str
    """"agent" or "cgroup"."""
    name: str

    def __str__(self) -> str:
        return self.name if self.kind == "agent" else f"cgroup {self.name}"


class Hold(NamedTuple):
    """One hold, as its file says."""

    target: Target
    since: float
    """Seconds since the epoch."""
    frozen: dict[str, int]
    """path -> id of the cgroups that were frozen for it, and were not before."""


def hold(directory: Path, target: Target, frozen: dict[str, int]) -> None:
    """Remember that `target` is held, and these cgroups frozen for it, besides those already known.

    Raises OSError where that cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory):
        known = _read(directory / _name(target), target)
        since = known.since if known else time.time()
        _write(directory / _name(target), Hold(target, since, (known.frozen if known else {}) | frozen))


def add(directory: Path, target: Target, frozen: dict[str, int]) -> bool:
    """As `hold`, for one that is there already; False: it was released meanwhile."""
    with _locked(directory):
        known = _read(directory / _name(target), target)
        if known is None:
            return False
        _write(directory / _name(target), known._replace(frozen=known.frozen | frozen))
        return True


def forget(directory: Path, target: Target) -> Hold | None:
    """Take the hold back; what had been frozen for it is for the caller to thaw. None: there is none.

    Raises OSError where it cannot be taken back: then it stays.
    """
    if not directory.is_dir():
        return None
    with _locked(directory):
        known = _read(directory / _name(target), target)
        if known is not None:
            (directory / _name(target)).unlink()
        return known


def read_holds(directory: Path) -> tuple[list[Hold], list[str]]:
    """Every hold, and the files that do not say what they hold. Raises OSError where the directory cannot be read."""
    found: list[Hold] = []
    damaged: list[str] = []
    if not directory.is_dir():
        return found, damaged
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        named = path.name.removesuffix(_SUFFIX)
        agent = Target("agent", named.removeprefix(_AGENT)) if named.startswith(_AGENT) else None
        known = _read(path, agent)
        if known is not None:
            found.append(known)
        elif path.exists():
            damaged.append(path.name)
    return found, damaged


def freeze(cgroups: Iterable[Cgroup]) -> dict[str, int]:
    """Freeze them; path -> id of those that were not frozen by themselves before. Raises OSError."""
    frozen = {}
    for cgroup in cgroups:
        if not cgroup.is_held():
            frozen[cgroup.path] = cgroup.id
            cgroup.freeze()
    return frozen


def thaw(root: CgroupRoot, frozen: dict[str, int]) -> list[str]:
    """Thaw what `freeze` froze, where it still is the same cgroup; what could not be thawed, in words."""
    failed = []
    for path, cgroup_id in frozen.items():
        try:
            cgroup = root.open(path)
            if cgroup is None:
                continue
            with contextlib.closing(cgroup):
                if cgroup.id == cgroup_id:
                    cgroup.freeze(False)
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
    return failed


def _name(target: Target) -> str:
    if target.kind == "agent":
        return f"{_AGENT}{target.name}{_SUFFIX}"
    return f"{_CGROUP}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{_SUFFIX}"


def _read(path: Path, target: Target | None) -> Hold | None:
    """None where there is no such file, or it does not say what it holds; of an agent the file's name says it."""
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read(_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        data = {}
    said: dict[str, Any] = data if isinstance(data, dict) else {}
    if target is None and isinstance(said.get("cgroup"), str):
        target = Target("cgroup", said["cgroup"])
    frozen = said.get("frozen")
    pairs = frozen.items() if isinstance(frozen, dict) else ()
    since = said.get("since")
    return target and Hold(
        target,
        float(since) if isinstance(since, int | float) else 0.0,
        {path: number for path, number in pairs if isinstance(number, int)},
    )


def _write(path: Path, held: Hold) -> None:
    data = json.dumps({held.target.kind: held.target.name, "since": held.since, "frozen": held.frozen}).encode()
    fresh = path.with_suffix(".new")
    with open(fresh, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer at a time; raises OSError where another does not end."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)
        yield
    finally:
        os.close(fd)
