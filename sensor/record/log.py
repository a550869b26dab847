"""The sensor's own log, on stderr: for people on a terminal, else JSON lines."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

from sensor.record.encode import encode

if TYPE_CHECKING:
    from structlog.typing import Processor

RATE_S = 60.0
"""How often at most `limited` logs the same trouble."""


def _import_structlog() -> ModuleType:
    """structlog without rich, which it imports to format tracebacks with and which takes longer than the rest."""
    if "rich" in sys.modules or "structlog" in sys.modules:
        return import_module("structlog")
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes `import rich` fail; structlog does without
    try:
        return import_module("structlog")
    finally:
        del sys.modules["rich"]


_structlog: Any = _import_structlog()


def configure(stream: TextIO | None = None) -> None:
    """Set structlog up for this process, to write to `stream` (default: stderr).

    Where `stream` is no terminal a line is `{"event": ..., "level": ..., "timestamp": ..., ...}`.
    """
    out = stream or sys.stderr or open(os.devnull, "w")  # noqa: SIM115 (there is none to write to: `2>&-`)
    processors: list[Processor] = [
        _structlog.processors.add_log_level,
        _structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if out.isatty():
        processors.append(_structlog.dev.ConsoleRenderer(repr_native_str=True))  # escapes what acts on a terminal
    else:
        processors += [
            _structlog.processors.format_exc_info,
            _structlog.processors.JSONRenderer(lambda value, **_: encode(value).decode()),
        ]
    _structlog.configure(
        processors=processors,
        wrapper_class=_structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: _Lines(out),
        cache_logger_on_first_use=False,  # loggers made at import time have to follow a later `configure`
    )


class Limited:
    """Logs each kind of trouble at most once in `RATE_S`, and then how often it was left out since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def error(self, event: str, **values: object) -> None:
        now = self._clock()
        if event in self._last and now - self._last[event] < RATE_S:
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return
        self._last[event] = now
        left_out = self._left_out.pop(event, 0)
        _structlog.get_logger().error(event, **values, **({"left_out": left_out} if left_out else {}))


def has_room(fd: int, wait_s: float = 0) -> bool:
    """At least PIPE_BUF bytes can be written without waiting (pipe(7))."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(wait_s * 1000))


class _Lines:
    """A stream of lines; that nobody reads them, or nobody can, stops nothing."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        try:
            self._fd: int | None = out.fileno()
        except (OSError, ValueError):
            self._fd = None  # a stream in memory

    def msg(self, line: str) -> None:
        if self._fd is not None and not has_room(self._fd):
            return
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            return

    debug = info = warning = error = critical = exception = msg


configure()  # structlog's own default would be standard output, where alerts may go
