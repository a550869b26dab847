"""One cgroup v2 directory, held by descriptor, so that a cgroup remade under the same path is never acted on.

Interface files: Documentation/admin-guide/cgroup-v2.rst, section "Core Interface Files". What happens to a
cgroup that has been removed is no error here: it has no members, is not populated, and takes no writes.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = {errno.ENOENT, errno.ENODEV, errno.ESTALE}
_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h
_MAX_DEPTH = 200
_MAX_CGROUPS = 10_000


class _FileHandle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2) with kernfs's 64-bit id as the handle."""

    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("id", ctypes.c_uint64),
    )


class CgroupRoot:
    """The mounted cgroup v2 hierarchy, from which every cgroup is opened."""

    def __init__(self, mount: str | Path) -> None:
        """Raises OSError where `mount` is no directory."""
        self.mount = str(Path(mount).resolve())
        self.fd = os.open(self.mount, _DIRECTORY)

    def close(self) -> None:
        os.close(self.fd)

    def open(self, path: str, cgroup_id: int | None = None) -> Cgroup | None:
        """The cgroup at `path` ("/a/b", from the root), or None where there is none.

        With `cgroup_id`, only the cgroup of that id: it is found by id alone where its name is no UTF-8 or its
        path was cut, which needs CAP_DAC_READ_SEARCH. Raises OSError where the kernel refuses the open.
        """
        fd = self._open_path(path)
        if fd is not None and (cgroup_id is None or os.fstat(fd).st_ino == cgroup_id):
            return Cgroup(fd, _normal(path))
        if fd is not None:
            os.close(fd)
        if cgroup_id is None:
            return None
        fd = self._open_id(cgroup_id)
        return None if fd is None else Cgroup(fd, self.path_of(fd))

    def below(self, path: str) -> list[str]:
        """The paths of all cgroups below `path`, without itself; as many as `Cgroup.descendants` visits."""
        cgroup = self.open(path)
        if cgroup is None:
            return []
        try:
            return [self.path_of(fd) for fd in cgroup.descendants() if fd != cgroup.fd]
        finally:
            cgroup.close()

    def _open_path(self, path: str) -> int | None:
        parts = _normal(path).split("/")
        if ".." in parts or "\0" in path:
            return None
        try:
            return os.open("/".join(parts)[1:] or ".", _DIRECTORY, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _GONE | {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}:
                return None
            raise
        except UnicodeEncodeError:
            return None

    def _open_id(self, cgroup_id: int) -> int | None:
        handle = _FileHandle(8, _FILEID_KERNFS, cgroup_id)
        fd: int = _libc().open_by_handle_at(self.fd, ctypes.byref(handle), _DIRECTORY)
        if fd >= 0:
            return fd
        if ctypes.get_errno() in _GONE | {errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL}:
            return None
        raise OSError(ctypes.get_errno(), f"open_by_handle_at: cgroup {cgroup_id}")

    def path_of(self, fd: int) -> str:
        """The path, from the root, of the cgroup that a directory descriptor holds."""
        absolute = os.fsencode(Path(f"/proc/self/fd/{fd}").readlink()).decode(errors="backslashreplace")
        return absolute.removeprefix(self.mount.rstrip("/")) or "/"


class Cgroup:
    """One cgroup, for as long as its descriptor is held."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self._events: int | None = None

    def close(self) -> None:
        for fd in (self.fd, self._events):
            if fd is not None:
                os.close(fd)

    @property
    def id(self) -> int:
        """The cgroup id that the kernel's programs see: the inode number."""
        return os.fstat(self.fd).st_ino

    def freeze(self, frozen: bool = True) -> None:
        """Ask the kernel to freeze or thaw this cgroup and all below it; `is_frozen` tells when it is done."""
        self._write("cgroup.freeze", b"1" if frozen else b"0")

    def kill(self) -> bool:
        """SIGKILL to every member, descendants included, forks in flight too (Linux 5.14).

        False where the kernel has no cgroup.kill, or none for this cgroup: it has none for a threaded one.
        """
        try:
            return self._write("cgroup.kill", b"1")
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False
            raise

    def is_populated(self) -> bool:
        """A process that is no zombie is in this cgroup or below it."""
        return b"populated 1" in self._read_events()

    def is_frozen(self) -> bool:
        """Every member has stopped."""
        data = self._read_events()
        return b"frozen 1" in data or not data

    def is_held(self) -> bool:
        """This cgroup itself was told to freeze, whatever holds of those above it; False once removed."""
        return self._read("cgroup.freeze").startswith(b"1")

    def is_held_above(self) -> bool:
        """A cgroup above this one was told to freeze."""
        above = "../"
        while told := self._read(above + "cgroup.freeze"):  # the root has no such file
            if told.startswith(b"1"):
                return True
            above += "../"
        return False

    def events_fd(self) -> int | None:
        """cgroup.events, which polls POLLPRI when it changed since last read; None once removed.

        The kernel holds a second change within 10 ms back (CGROUP_FILE_NOTIFY_MIN_INTV), so whoever wants to
        know sooner has to read.
        """
        if self._events is None:
            try:
                self._events = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
        return self._events

    def processes(self) -> set[int]:
        """Thread group ids of the members, descendants included; a process in part here counts."""
        found: set[int] = set()
        for fd in self.descendants():
            found |= _members(fd)
        found.discard(0)  # a process that this PID namespace does not see
        return found

    def members(self) -> set[int]:
        """As `processes`, of this cgroup alone."""
        return _members(self.fd) - {0}

    def ids(self) -> set[int]:
        """Of this cgroup and all below it, however many they are and however deep: one descriptor is open at a time."""
        found = {self.id}
        fd = os.open(".", _DIRECTORY, dir_fd=self.fd)
        try:
            path = [_directories(fd)]
            while path:
                if not path[-1]:
                    path.pop()
                    name = ".."
                else:
                    name = path[-1].pop()
                if not path:
                    break
                try:
                    other = os.open(name, _DIRECTORY, dir_fd=fd)
                except OSError as error:
                    if error.errno in _GONE and name != "..":
                        continue
                    raise
                os.close(fd)
                fd = other
                if name != "..":
                    found.add(os.fstat(fd).st_ino)
                    path.append(_directories(fd))
        finally:
            os.close(fd)
        return found

    def descendants(self) -> Iterator[int]:
        """Directory descriptors of this cgroup and all below it, each open until the next is asked for."""
        budget = [_MAX_CGROUPS]
        yield from _walk(self.fd, 0, budget)

    def _read_events(self) -> bytes:
        fd = self.events_fd()
        if fd is None:
            return b""
        try:
            return os.pread(fd, 256, 0)
        except OSError as error:
            if error.errno in _GONE:
                return b""
            raise

    def _read(self, name: str) -> bytes:
        """A small file's content; b"" where it is gone."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _GONE:
                return b""
            raise
        try:
            return os.read(fd, 256)
        except OSError as error:
            if error.errno in _GONE:
                return b""
            raise
        finally:
            os.close(fd)

    def _write(self, name: str, value: bytes) -> bool:
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        try:
            os.write(fd, value)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        finally:
            os.close(fd)
        return True


def _normal(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part and part != ".")


def _walk(fd: int, depth: int, budget: list[int]) -> Iterator[int]:
    yield fd
    if os.fstat(fd).st_nlink <= 2 or depth >= _MAX_DEPTH:  # kernfs counts subdirectories in st_nlink
        return
    for name in _directories(fd):
        if budget[0] == 0:
            return
        budget[0] -= 1
        try:
            child = os.open(name, _DIRECTORY, dir_fd=fd)
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise
        try:
            yield from _walk(child, depth + 1, budget)
        finally:
            os.close(child)


def _directories(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def _members(directory: int) -> set[int]:
    try:
        return _read_ids(directory, "cgroup.procs")
    except OSError as error:
        if error.errno in _GONE:
            return set()
        if error.errno != errno.EOPNOTSUPP:
            raise
    threads = _read_ids(directory, "cgroup.threads")
    return {tgid for tgid in map(_thread_group, threads) if tgid is not None}


def _read_ids(directory: int, name: str) -> set[int]:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
    except OSError as error:
        if error.errno not in _GONE:
            raise
    finally:
        os.close(fd)
    return {int(line) for line in b"".join(chunks).split()}


def _thread_group(tid: int) -> int | None:
    try:
        status = Path(f"/proc/{tid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    _, found, after = status.partition(b"\nTgid:")
    return int(after.split(None, 1)[0]) if found else None


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
