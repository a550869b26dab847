"""The sensor's end of the sender process: started when there is something to send, ended when there is nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import orjson

from sensor.record.notify.notifier import MISSING
from sensor.record.notify.sender import NO_APPRISE
from sensor.record.notify.text import Message

_LARGEST = 1 << 20


class _Answer(msgspec.Struct):
    number: int
    why: str | None


_decoder = msgspec.json.Decoder(_Answer)


class Courier:
    """At most one process; its answers are asked for when `fileno` is readable."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._read = bytearray()

    def fileno(self) -> int | None:
        return self._process.stdout.fileno() if self._process and self._process.stdout else None

    def send(self, number: int, url: str, message: Message) -> None:
        """Raises OSError where the process cannot be started or takes nothing."""
        process = self._process or self._start()
        assert process.stdin is not None
        request = orjson.dumps({"number": number, "url": url, **message._asdict()}) + b"\n"
        if os.write(process.stdin.fileno(), request) < len(request):
            self.close()
            raise OSError("the sender is stuck")

    def replies(self) -> tuple[dict[int, str | None], str | None]:
        """Number -> why not, or None where it arrived; and why the process has ended, where it has."""
        assert self._process is not None and self._process.stdout is not None
        try:
            chunk = os.read(self._process.stdout.fileno(), 65536)
        except BlockingIOError:
            return {}, None
        self._read += chunk
        whole, _, rest = self._read.rpartition(b"\n")
        self._read = bytearray(rest)
        ended = None
        try:
            answers = [_decoder.decode(line) for line in whole.splitlines()]
        except msgspec.DecodeError:
            answers, chunk = [], b""
        if not chunk or len(rest) > _LARGEST:
            ended = MISSING if self.close() == NO_APPRISE else "the sender ended"
        return {answer.number: answer.why for answer in answers}, ended

    def close(self) -> int | None:
        """End the process; its exit status, where there was one."""
        process, self._process = self._process, None
        self._read.clear()
        if process is None:
            return None
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            return process.wait(0.5)  # at the end of its input it ends by itself
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m", "sensor.record.notify.sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the sensor
        )
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        self._process = process
        return process
