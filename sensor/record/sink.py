"""JSON lines to a file or a pipe. A record that cannot be written is counted, never raised and never waited for.

- A file stays one record a line: what a full disk cut short is taken back, or ends before the next record.
- A file that was rotated away is opened anew.
- A pipe or terminal that nobody reads fills up and then holds `BACKLOG` bytes here; what comes after is lost.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections import Counter
from pathlib import Path

from sensor.record.encode import encode
from sensor.record.log import Limited, has_room

BACKLOG = 1 << 20
_CLOSE_WAIT_S = 1.0
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Sink:
    """Where records of one kind go."""

    def __init__(self, target: str, wait_s: float = 0.0) -> None:
        """`target`: a path, or "-" for standard output. `wait_s`: how long a write waits for a slow reader.

        Raises OSError where the target cannot be opened, but for a named pipe that nobody reads yet.
        """
        self.losses: Counter[str] = Counter()
        """Records lost, by errno name, or "unread"."""
        self._target = target
        self._wait_s = wait_s
        self._trouble = Limited()
        self._fd: int | None = None
        self._identity: tuple[int, int] | None = None
        self._is_file = False
        self._is_socket = False
        self._may_block = False
        self._is_torn = False
        self._backlog = bytearray()
        try:
            self._open()
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise

    def write(self, record: object, counts: bool = True) -> bool:
        """Append `record` as a line. False: it is lost, and counted unless the caller will come with it again."""
        line = encode(record) + b"\n"
        try:
            fd = self._open()
            if self._is_file:
                self._write_file(fd, line)
            else:
                self._write_stream(fd, line)
        except OSError as error:
            if counts:
                self._lost(error)
            return False
        return True

    def flush(self) -> None:
        """Pass on what a slow reader has left room for. Every `write` does so too."""
        if not self._backlog or self._fd is None:
            return
        try:
            del self._backlog[: self._send(self._fd, self._backlog)]
        except OSError as error:
            self._drop_backlog(error)

    def close(self) -> None:
        """Flush, waiting up to a second for a slow reader, and let go of the target."""
        self._wait(max(self._wait_s, _CLOSE_WAIT_S))
        if self._backlog:
            self._drop_backlog(None)
        self._forget()

    def _open(self) -> int:
        if self._fd is not None and not self._was_rotated():
            return self._fd
        self._forget()
        fd = _open_stdout() if self._target == "-" else os.open(self._target, _FLAGS, 0o640)
        info = os.fstat(fd)
        self._fd = fd
        self._identity = info.st_dev, info.st_ino
        self._is_file = stat.S_ISREG(info.st_mode)
        self._is_socket = stat.S_ISSOCK(info.st_mode)
        self._may_block = not self._is_file and not self._is_socket and os.get_blocking(fd)
        self._is_torn = self._is_file and info.st_size > 0 and not self._ends_a_line(info.st_size)
        return fd

    def _was_rotated(self) -> bool:
        if not self._is_file or self._target == "-":
            return False
        try:
            info = Path(self._target).stat()
        except OSError:
            return True
        return (info.st_dev, info.st_ino) != self._identity

    def _ends_a_line(self, size: int) -> bool:
        if self._target == "-":
            return True
        try:
            with open(self._target, "rb") as file:
                file.seek(size - 1)
                return file.read(1) == b"\n"
        except OSError:
            return False

    def _write_file(self, fd: int, line: bytes) -> None:
        data = b"\n" + line if self._is_torn else line
        before = os.fstat(fd).st_size
        written = os.write(fd, data)
        if written == len(data):
            self._is_torn = False
            return
        self._is_torn = not self._take_back(fd, before + written, before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @staticmethod
    def _take_back(fd: int, end: int, before: int) -> bool:
        """Cut a broken last line off, unless another writer has appended since."""
        try:
            if os.fstat(fd).st_size != end:
                return False
            os.ftruncate(fd, before)
        except OSError:
            return False
        return True

    def _write_stream(self, fd: int, line: bytes) -> None:
        self.flush()
        if self._backlog and len(self._backlog) + len(line) > BACKLOG:
            self._wait(self._wait_s)
            if self._backlog:
                raise BlockingIOError(errno.EAGAIN, "nobody reads")
        data = b"\n" + line if self._is_torn and not self._backlog else line
        sent = 0 if self._backlog else self._send(fd, data)
        self._backlog += data[sent:]

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.flush()
        while self._backlog and self._fd is not None and time.monotonic() < until:
            has_room(self._fd, _CLOSE_WAIT_S)
            self.flush()

    def _send(self, fd: int, data: bytes | bytearray) -> int:
        try:
            if self._is_socket:
                with socket.socket(fileno=os.dup(fd)) as peer:
                    sent = peer.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            elif self._may_block and not has_room(fd):
                return 0
            else:
                sent = os.write(fd, data[: select.PIPE_BUF] if self._may_block else data)
        except BlockingIOError:
            return 0
        self._is_torn = data[sent - 1 : sent] != b"\n"
        return sent

    def _drop_backlog(self, error: OSError | None) -> None:
        records = self._backlog.count(b"\n")
        self._backlog.clear()
        self._lost(error, records)

    def _lost(self, error: OSError | None, records: int = 1) -> None:
        unread = error is None or error.errno == errno.EAGAIN
        name = "unread" if error is None or unread else errno.errorcode.get(error.errno or 0, "unknown")
        self.losses[name] += records
        why = "nobody reads" if error is None else error.strerror
        self._trouble.error("records were lost", to=self._target, why=why, lost=self.losses.total())

    def _forget(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = self._identity = None


def _open_stdout() -> int:
    """Standard output, not blocking, and without changing that for others who hold the same pipe or terminal."""
    try:
        return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EACCES):  # a socket; another user's pipe
            raise
    return os.dup(1)
