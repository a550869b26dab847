"""The control socket: one JSON request a line, one JSON reply, then the connection ends."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

REQUEST_BYTES = 64 * 1024
CLIENTS = 16
BACKLOG = 128
PATIENCE_S = 2.0

_CREDENTIALS = struct.Struct("3i")
"""struct ucred, unix(7)."""


class ControlError(Exception):
    """The sensor cannot be asked, or refuses; the message is one sentence."""


class Peer(NamedTuple):
    """Who asks (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid}"


NOBODY = Peer(-1, -1, -1)
Observer = Callable[[str, str, Peer | None], None]
"""Told of every request: the command, "done" or "refused", and who asked. Must neither raise nor wait."""
Handler = Callable[[dict[str, Any], Peer], dict[str, Any]]
"""(arguments, who asks) -> reply; raises ControlError to refuse."""


class ControlServer:
    """Serves without blocking: `accept` when the listener is readable, `serve` at every turn of the loop."""

    def __init__(self, path: Path, commands: dict[str, Handler], observer: Observer | None = None) -> None:
        """Raises ControlError where another sensor listens at `path` or the socket cannot be made."""
        self._path = path
        self._commands = commands
        self._observer = observer
        self._clients: dict[socket.socket, tuple[float, bytearray]] = {}
        self.refused = 0
        """Requests that were malformed, too large or too slow, and clients over the limit."""
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._path.exists():
                _remove_stale(self._path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(BACKLOG)
        except OSError as error:  # a path that is too long has no strerror
            raise ControlError(f"the control socket {self._path} cannot be made: {error.strerror or error}") from None
        return listener

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> None:
        """Take in whoever waits. Over the limit the oldest go: they have had time, and may only sit there."""
        for _turn in range(BACKLOG):
            try:
                client, _ = self._listener.accept()
            except OSError:  # none left, or it has already gone
                return
            if len(self._clients) >= CLIENTS:
                self.serve()
            if len(self._clients) >= CLIENTS:
                oldest = next(iter(self._clients))
                self._refuse(oldest, "unfinished")
                del self._clients[oldest]
                oldest.close()
            client.setblocking(False)
            self._clients[client] = (time.monotonic() + PATIENCE_S, bytearray())

    def serve(self) -> bool:
        """Answer whoever has sent a whole line; True while somebody has not."""
        for client, (deadline, request) in list(self._clients.items()):
            over = not _receive(client, request)
            if b"\n" in request:
                self._answer(client, bytes(request.partition(b"\n")[0]))
            elif over or len(request) > REQUEST_BYTES or time.monotonic() > deadline:
                self._refuse(client, "unfinished")
            else:
                continue
            del self._clients[client]
            client.close()
        return bool(self._clients)

    def _answer(self, client: socket.socket, line: bytes) -> None:
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            request = None
        command = str(request.get("command")) if isinstance(request, dict) else "malformed"
        handler = self._commands.get(command) if isinstance(request, dict) else None
        if handler is None:
            self._refuse(client, "malformed" if command == "malformed" else "unknown")
            reply: dict[str, Any] = {"error": f"unknown request; known commands: {', '.join(self._commands)}"}
        else:
            self._observe(client, command, "done")
            try:
                reply = handler(request, _peer(client) or NOBODY)
            except ControlError as error:
                reply = {"error": str(error)}
        with contextlib.suppress(OSError):  # it may have gone; nothing is lost but its answer
            client.settimeout(PATIENCE_S / 10)
            client.sendall(orjson.dumps(reply) + b"\n")

    def _refuse(self, client: socket.socket, what: str) -> None:
        self.refused += 1
        self._observe(client, what, "refused")

    def _observe(self, client: socket.socket, command: str, answer: str) -> None:
        if self._observer is not None:
            self._observer(command, answer, _peer(client))

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)


def _peer(client: socket.socket) -> Peer | None:
    try:
        data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return Peer(*_CREDENTIALS.unpack(data))


def _receive(client: socket.socket, request: bytearray) -> bool:
    """Append what has come; False once nothing more can."""
    try:
        chunk = client.recv(REQUEST_BYTES)
    except BlockingIOError:
        return True
    except OSError:
        return False
    request.extend(chunk)
    return bool(chunk)


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        raise ControlError(f"the control socket {path} cannot be made: something else has that name")
    try:
        with _connect(path):
            raise ControlError(f"another sensor already runs: it listens at {path}")
    except ConnectionRefusedError:
        path.unlink()


def _connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client


def ask(path: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """The running sensor's reply to `command`; raises ControlError where there is none."""
    try:
        with _connect(path) as client:
            client.sendall(orjson.dumps({**arguments, "command": command}) + b"\n")
            reply = bytearray()
            while chunk := client.recv(65536):
                reply += chunk
        answer = orjson.loads(bytes(reply))
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(f"no sensor runs: nobody listens at {path}") from None
    except PermissionError:
        raise ControlError(f"not allowed to ask the sensor at {path}; run as root") from None
    except OSError as error:
        raise ControlError(f"the sensor at {path} does not answer: {error}") from None
    except orjson.JSONDecodeError:
        raise ControlError(f"the sensor at {path} gave no JSON") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise ControlError(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer
