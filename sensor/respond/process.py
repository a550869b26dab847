"""Processes held by pidfd, so that a reused pid is never signalled."""

from __future__ import annotations

import errno
import os
import select
import signal
from pathlib import Path
from typing import NamedTuple

from sensor.context.identity import parse_guid

PF_KTHREAD = 0x00200000  # include/linux/sched.h
STOPPED = "TtZXx"
"""States of proc(5) in which a thread forks no more: stopped, traced, zombie, dead."""


class Stat(NamedTuple):
    """The part of /proc/PID/stat (proc(5)) that is used here."""

    comm: str
    state: str
    parent: int
    flags: int
    start_ticks: int


def read_proc(name: str) -> bytes | None:
    """A small file below /proc, without the 20 microseconds that a file object costs; None where it is gone."""
    try:
        fd = os.open(f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return os.read(fd, 1 << 16)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def read_stat(pid: int | str) -> Stat | None:
    """None where there is no such process (`pid`), or thread ("PID/task/TID")."""
    data = read_proc(f"{pid}/stat")
    if data is None:
        return None
    start, end = data.index(b"(") + 1, data.rindex(b")")
    fields = data[end + 2 :].split()
    comm = data[start:end].decode(errors="backslashreplace")
    return Stat(comm, fields[0].decode(), int(fields[1]), int(fields[6]), int(fields[19]))


def is_alive(pid: int) -> bool:
    """Whether any of its threads is; a zombie's are not. What cannot be told is taken for alive."""
    try:
        fd = open_pid(pid)
    except OSError:
        return True
    if fd is None:
        return False
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(fd)


def open_pid(pid: int) -> int | None:
    """A pidfd, or None where there is no such process. Raises OSError where descriptors ran out."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        # EINVAL and ENOENT: the number now belongs to a thread that leads no process
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise


def open_process(guid: str) -> tuple[int, int] | None:
    """(pid, pidfd) of exactly the process that has this ProcessGuid; None where it is gone."""
    identity = parse_guid(guid)
    if identity is None:
        return None
    pid, ticks = identity
    pidfd = open_pid(pid)
    if pidfd is None:
        return None
    stat = read_stat(pid)
    if stat is not None and stat.start_ticks == ticks:
        return pid, pidfd
    os.close(pidfd)
    return None


def send(pidfd: int, number: signal.Signals) -> None:
    """Signal the process as a whole; that it has exited is no error."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def children(pid: int) -> list[int]:
    """Child processes of all threads of `pid`; complete once all its threads have stopped.

    From /proc/PID/task/TID/children (proc(5)), or from every process's parent where the kernel was built
    without CONFIG_PROC_CHILDREN.
    """
    found: list[int] = []
    for thread in _threads(pid):
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
        except ProcessLookupError:
            continue
        except FileNotFoundError:
            if Path("/proc/self/task", str(os.getpid()), "children").exists():
                continue
            return [other for other in _all_pids() if (stat := read_stat(other)) and stat.parent == pid]
    return found


def has_stopped(pid: int) -> bool:
    """No thread of the process can fork any more."""
    stats = (read_stat(f"{pid}/task/{thread}") for thread in _threads(pid))
    return all(stat is None or stat.state in STOPPED for stat in stats)


def is_kernel_thread(stat: Stat) -> bool:
    return bool(stat.flags & PF_KTHREAD)


def lineage(pid: int) -> set[int]:
    """`pid` and its ancestors."""
    found: set[int] = set()
    while pid and pid not in found:
        found.add(pid)
        stat = read_stat(pid)
        pid = stat.parent if stat else 0
    return found


def describe(pid: int) -> str | None:
    """The process in words, for a message, or None where it is gone: `7 (dd, state D, traced by 9)`."""
    stat = read_stat(pid)
    if stat is None:
        return None
    tracer = _tracer(pid)
    name = "".join(c if c.isprintable() else "?" for c in stat.comm)
    return f"{pid} ({name}, state {stat.state}{f', traced by {tracer}' if tracer else ''})"


def _tracer(pid: int) -> int:
    status = read_proc(f"{pid}/status")
    return 0 if status is None else int(status.partition(b"\nTracerPid:")[2].split(None, 1)[0])


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return []


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208
