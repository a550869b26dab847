"""Cgroup id -> path in the v2 hierarchy, from a scan at the start and the kernel's events after it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

_RESCAN_S = 0.05
"""How long a look-up may hold up the event that asks."""


class Cgroups:
    """Paths by cgroup id, the inode number of the cgroup's directory; at most `limit` of them.

    `root` is where the whole v2 hierarchy is mounted (`sensor.node.cgroup2_mount`). For an id that no event told
    of, because one was lost or the table was full, the hierarchy is scanned again, once until `retry` is called.
    (open_by_handle_at(2) would tell of one alone, for one more capability.)
    """

    def __init__(self, root: Path, limit: int = 65_536) -> None:
        self.evicted = 0
        self.unknown = 0
        """Look-ups that found nothing: the cgroup is gone, or the scan did not come to it in time."""
        self.rescans = 0
        self._limit = limit
        self._root = os.fsencode(root)
        self._root_id = root.stat().st_ino
        self._paths: dict[int, str] = {}
        self._missing: set[int] = set()
        self._may_rescan = True

    def __len__(self) -> int:
        return len(self._paths)

    def items(self) -> list[tuple[int, str]]:
        """(id, path) of all that are known."""
        return list(self._paths.items())

    def seed(self) -> None:
        """Take in every cgroup that exists now."""
        self._scan(float("inf"))

    def learn(self, cgroup_id: int, path: str) -> None:
        """The kernel told of this cgroup."""
        self._paths[cgroup_id] = path
        if len(self._paths) > self._limit:
            for old in list(islice(self._paths, max(1, self._limit // 16))):
                del self._paths[old]
                self.evicted += 1

    def forget(self, cgroup_id: int) -> None:
        """It was removed. The kernel does not use its id again."""
        self._paths.pop(cgroup_id, None)

    def retry(self) -> None:
        """Look again for those that could not be found; call this about once a second."""
        self._missing.clear()
        self._may_rescan = True

    def path(self, cgroup_id: int) -> str | None:
        """The path from the hierarchy's root, which is "/"; None where it can't be told."""
        path = self._paths.get(cgroup_id)
        if path is not None or cgroup_id in self._missing:
            return path
        if self._may_rescan:
            self._may_rescan = False
            self.rescans += 1
            self._scan(time.monotonic() + _RESCAN_S)
            path = self._paths.get(cgroup_id)
        if path is None:
            self.unknown += 1
            if len(self._missing) < self._limit:
                self._missing.add(cgroup_id)
        return path

    def members(self, cgroup_ids: Iterable[int], most: int) -> list[int] | None:
        """The processes that are in these cgroups and below them now; None for more than `most`, or where a cgroup
        does not tell.
        """
        found: set[int] = set()
        for cgroup_id in cgroup_ids:
            path = self.path(cgroup_id)
            if path is None:
                return None
            pending = [self._root + path.rstrip("/").encode()]
            for directory in pending:
                try:
                    with open(directory + b"/cgroup.procs", "rb") as procs:
                        found.update(map(int, procs.read().split()))
                    with os.scandir(directory) as entries:
                        pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
                except FileNotFoundError:
                    if directory == pending[0]:  # or its name is not what we hold it for
                        return None
                except OSError:
                    return None
                if len(found) > most or len(pending) > most:
                    return None
        return list(found)

    def _scan(self, deadline: float) -> None:
        self.learn(self._root_id, "/")
        pending = [b""]
        scanned = 0
        while pending and scanned < self._limit and time.monotonic() < deadline:
            above = pending.pop()
            scanned += 1
            try:
                with os.scandir(self._root + above) as entries:
                    below = [(entry.inode(), entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:  # removed since its name was read
                continue
            for cgroup_id, name in below:
                path = above + b"/" + name
                self.learn(cgroup_id, path.decode("utf-8", "backslashreplace"))
                pending.append(path)
