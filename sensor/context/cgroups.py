"""Cgroup id -> path in the v2 hierarchy, from a scan at the start and the kernel's events after it."""

from __future__ import annotations

import ctypes
import os
from itertools import islice
from pathlib import Path

_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h: the handle is the 64-bit id, which for a cgroup is its own


class _FileHandle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("type", ctypes.c_int), ("id", ctypes.c_uint64))


_open_by_handle_at = ctypes.CDLL(None, use_errno=True).open_by_handle_at


class Cgroups:
    """Paths by cgroup id, the inode number of the cgroup's directory; at most `limit` of them.

    `root` is where the whole v2 hierarchy is mounted (`sensor.node.cgroup2_mount`). An id that no event told
    of is asked of the kernel (open_by_handle_at(2), which takes CAP_DAC_READ_SEARCH), and not again before
    `retry` is called.
    """

    def __init__(self, root: Path, limit: int = 16_384) -> None:
        self.evicted = 0
        self.unknown = 0
        """Look-ups of cgroups that were gone already, or that the kernel would not tell."""
        self._limit = limit
        self._root = os.fsencode(root)
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._paths: dict[int, str] = {}
        self._missing: set[int] = set()

    def __len__(self) -> int:
        return len(self._paths)

    def close(self) -> None:
        os.close(self._root_fd)

    def seed(self) -> None:
        """Take in every cgroup that exists now."""
        self._paths[os.fstat(self._root_fd).st_ino] = "/"
        pending = [b""]
        while pending and len(self._paths) < self._limit:
            above = pending.pop()
            try:
                with os.scandir(self._root + above) as entries:
                    below = [(entry.inode(), entry.name) for entry in entries if entry.is_dir()]
            except OSError:  # removed since its name was read
                continue
            for cgroup_id, name in below:
                path = above + b"/" + name
                self.learn(cgroup_id, path.decode("utf-8", "backslashreplace"))
                pending.append(path)

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
        """Ask again for those that could not be found; call this about once a second."""
        self._missing.clear()

    def path(self, cgroup_id: int) -> str | None:
        """The path from the hierarchy's root, which is "/"; None where it can't be told."""
        path = self._paths.get(cgroup_id)
        if path is not None or cgroup_id in self._missing:
            return path
        path = self._ask(cgroup_id)
        if path is not None:
            self.learn(cgroup_id, path)
        else:
            self.unknown += 1
            if len(self._missing) < self._limit:
                self._missing.add(cgroup_id)
        return path

    def _ask(self, cgroup_id: int) -> str | None:
        handle = _FileHandle(8, _FILEID_KERNFS, cgroup_id)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        fd: int = _open_by_handle_at(self._root_fd, ctypes.byref(handle), flags)
        if fd < 0:
            return None
        try:
            found = Path(f"/proc/self/fd/{fd}").readlink()
            if found.stat().st_ino != cgroup_id:  # removed since, or hidden by another mount
                return None
        except OSError:
            return None
        finally:
            os.close(fd)
        path = os.fsencode(found)
        if path == self._root:
            return "/"
        if not path.startswith(self._root + b"/"):
            return None
        return path[len(self._root) :].decode("utf-8", "backslashreplace")
