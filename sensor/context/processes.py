"""The processes of this node: what each runs, seeded from /proc and kept by exec and exit events."""

from __future__ import annotations

from itertools import islice

import msgspec
import psutil

from sensor.context.identity import TICK, start_ticks, stat_fields

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_ARGS_LIMIT = 4096  # as much as the exec event carries

Ancestry = tuple[tuple[int, int], ...]
"""(tgid, start in nanoseconds), the nearest first."""


class Process(msgspec.Struct, frozen=True, gc=False):
    """What a process runs since its last exec."""

    image: str
    command_line: str
    args: list[str]
    piped: bool = False
    """Its standard input and output were pipes or unix sockets when it began; not known of those from /proc."""


class Processes:
    """Processes by (tgid, start in ticks), so that a pid used again is another process.

    A process that was forked and never called exec has no entry: it runs what its parent ran. The table holds
    at most `limit` processes and `text_limit` characters of command lines; past either the oldest go.
    """

    def __init__(self, limit: int = 65_536, text_limit: int = 64 << 20) -> None:
        self.evicted = 0
        self._limit = limit
        self._text_limit = text_limit
        self._text = 0
        self._table: dict[tuple[int, int], Process] = {}

    def __len__(self) -> int:
        return len(self._table)

    def seed(self) -> None:
        """Take in every process that runs now; those that end meanwhile are left out."""
        for tgid in psutil.pids():
            self._read(tgid)

    def executed(self, tgid: int, start: int, process: Process) -> None:
        """The process now runs `process`."""
        self._put((tgid, start // TICK), process)

    def exited(self, tgid: int, start: int) -> None:
        """Its last thread ended."""
        process = self._table.pop((tgid, start // TICK), None)
        if process is not None:
            self._text -= len(process.command_line)

    def get(self, tgid: int, start: int) -> Process | None:
        """The process's own entry; None where it has none."""
        return self._table.get((tgid, start // TICK))

    def find(self, tgid: int, start: int, image: str, ancestors: Ancestry) -> Process | None:
        """What the process runs, where it has no entry by inheritance, else from /proc if it still lives.

        Inherited is only from an ancestor that runs the same image: a daemon whose parent is gone hangs below
        init, and does not run init's command line.
        """
        table = self._table
        process = table.get((tgid, start // TICK))
        if process is not None:
            return process
        for ancestor, began in ancestors:
            process = table.get((ancestor, began // TICK))
            if process is not None:
                if process.image == image:
                    return process
                break
        return self._read(tgid, start // TICK)

    def images(self, ancestors: Ancestry) -> list[str]:
        """The image of each ancestor in turn; one without an entry runs what the next known one runs.

        The list ends early where nothing is known of the rest.
        """
        table = self._table
        images: list[str] = []
        unknown = 1
        for tgid, start in ancestors:
            process = table.get((tgid, start // TICK))
            if process is None:
                unknown += 1
            elif unknown == 1:
                images.append(process.image)
            else:
                images += [process.image] * unknown
                unknown = 1
        return images

    def _put(self, key: tuple[int, int], process: Process) -> None:
        replaced = self._table.pop(key, None)  # so that it becomes the newest
        if replaced is not None:
            self._text -= len(replaced.command_line)
        self._table[key] = process
        self._text += len(process.command_line)
        while len(self._table) > self._limit or self._text > self._text_limit:
            self._evict()

    def _evict(self) -> None:
        # By the batch: the first key of a dict is found by stepping over all that were deleted before it.
        for key in list(islice(self._table, max(1, len(self._table) // 16))):
            self._text -= len(self._table.pop(key).command_line)
            self.evicted += 1

    def _read(self, tgid: int, ticks: int | None = None) -> Process | None:
        """The process from /proc, and into the table; None where it is gone or did not begin at `ticks`."""
        fields = stat_fields(tgid)
        if fields is None or int(fields[6]) & _PF_KTHREAD:
            return None
        began = int(fields[19])
        if ticks is not None and began != ticks:
            return None
        try:
            image = psutil.Process(tgid).exe()
            args = _args(tgid)
        except (psutil.Error, OSError):
            return None
        if not image or start_ticks(tgid) != began:
            return None
        process = Process(_text(image).removesuffix(" (deleted)"), " ".join(args), args)
        self._put((tgid, began), process)
        return process


def _args(tgid: int) -> list[str]:
    # Not psutil's cmdline(), which takes "\r" in an argument for an end of line and makes it "\n".
    with open(f"/proc/{tgid}/cmdline", "rb") as cmdline:
        text = cmdline.read(_ARGS_LIMIT)
    return text.removesuffix(b"\0").decode("utf-8", "backslashreplace").split("\0") if text else []


def _text(surrogates: str) -> str:
    """psutil's undecodable bytes (lone surrogates, which no JSON holds) as the kernel events give them."""
    if surrogates.isascii():
        return surrogates
    return surrogates.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
