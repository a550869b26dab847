"""The control socket: one JSON request a line, one JSON reply, then the connection ends.

Who asks is decided by the kernel's word on the peer (unix(7), SO_PEERCRED and SO_PEERGROUPS), taken when it connected.
"""

from __future__ import annotations

import grp
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

REQUEST_BYTES = 64 * 1024
CLIENTS = 16
BACKLOG = 128
PATIENCE_S = 2.0

_SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h
_GROUPS_BYTES = 1024
"""As much as Python's getsockopt takes: 256 groups."""


class ControlError(Exception):
    """The sensor cannot be asked, or refuses; the message is one sentence."""


class NoSensorError(ControlError):
    """Nobody listens."""


class Peer(NamedTuple):
    """Who asks."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    """Supplementary groups; none where they are more than 256."""
    user: str | None = None

    def __str__(self) -> str:
        return f"{self.user} (uid {self.uid})" if self.user else f"uid {self.uid}"


class Request(NamedTuple):
    """What the audit is told of every request."""

    peer: Peer
    command: str | None
    """None where the request names none."""
    arguments: dict[str, Any]
    verdict: Literal["answered", "refused", "malformed", "unknown", "unfinished"]
    """refused: to this peer, or in this case; unfinished: too long or too slow."""
    why: str | None = None
    """The sentence that the peer was given where it was not answered."""


Handler = Callable[[dict[str, Any], Peer], dict[str, Any]]
"""(arguments, who asks) -> reply; raises ControlError to refuse."""
Audit = Callable[[Request], object]


class _Client:
    def __init__(self, connection: socket.socket, peer: Peer) -> None:
        self.connection = connection
        self.peer = peer
        self.deadline = time.monotonic() + PATIENCE_S
        self.request = bytearray()
        self.reply: memoryview | None = None
        """What is still to be sent of it."""

    def receive(self) -> bool:
        """Append what has come; False once nothing more can."""
        try:
            chunk = self.connection.recv(REQUEST_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.request.extend(chunk)
        return bool(chunk)

    def answer(self, reply: dict[str, Any]) -> None:
        self.reply = memoryview(orjson.dumps(reply) + b"\n")
        self.deadline = time.monotonic() + PATIENCE_S

    def send(self) -> bool:
        """Send what the peer takes now; True once it has all, or is gone: nothing is lost but its answer."""
        try:
            while self.reply:
                self.reply = self.reply[self.connection.send(self.reply) :]
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


class ControlServer:
    """Serves without blocking: `accept` when the listener is readable, `serve` at every turn of the loop."""

    def __init__(
        self,
        path: Path,
        commands: dict[str, Handler],
        *,
        operators: int | None = None,
        audit: Audit | None = None,
        user_of: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        """`operators`: the group whose members may ask, besides root. `audit` is told of every request.

        Raises ControlError where another sensor listens at `path` or the socket cannot be made.
        """
        self._path = path
        self._commands = dict(commands)
        self._operators = operators
        self._audit = audit
        self._user_of = user_of
        self._clients: dict[socket.socket, _Client] = {}
        self.refused = 0
        """Requests that were malformed, too large, too slow or of nobody who may ask, and clients over the limit."""
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._path.exists():
                _remove_stale(self._path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            if self._operators is not None:
                os.chown(self._path, -1, self._operators)
                self._path.chmod(0o660)
            listener.listen(BACKLOG)
        except OSError as error:  # a path that is too long has no strerror
            raise ControlError(f"the control socket {self._path} cannot be made: {error.strerror or error}") from None
        return listener

    def add(self, commands: dict[str, Handler]) -> None:
        """Answer these too from now on."""
        self._commands |= commands

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> None:
        """Take in whoever waits. Over the limit the oldest go: they have had time, and may only sit there."""
        for _turn in range(BACKLOG):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # none left, or it has already gone
                return
            if len(self._clients) >= CLIENTS:
                self.serve()
            if len(self._clients) >= CLIENTS:
                oldest = next(iter(self._clients.values()))
                self._give_up(oldest)
                self._drop(oldest)
            connection.setblocking(False)
            self._clients[connection] = _Client(connection, _peer(connection))

    def serve(self) -> bool:
        """Answer whoever has sent a whole line; True while somebody has not, or has not taken the answer."""
        for client in list(self._clients.values()):
            if client.reply is None and not self._hear(client):
                continue
            if client.reply is None or client.send():
                self._drop(client)
            elif time.monotonic() > client.deadline:
                self.refused += 1
                self._drop(client)
        return bool(self._clients)

    def _hear(self, client: _Client) -> bool:
        """True once the request is there and answered, or never will be."""
        open_ = client.receive()
        line, ended, _ = client.request.partition(b"\n")
        if len(line) > REQUEST_BYTES or (not ended and (not open_ or time.monotonic() > client.deadline)):
            self._give_up(client)
            return True
        if ended:
            client.answer(self._reply(bytes(line), client.peer))
        return bool(ended)

    def _give_up(self, client: _Client) -> None:
        self.refused += 1
        if self._audit is not None and client.reply is None:
            self._audit(Request(client.peer, None, {}, "unfinished"))

    def _reply(self, line: bytes, peer: Peer) -> dict[str, Any]:
        try:
            arguments = orjson.loads(line)
            orjson.dumps([[[[arguments]]]])  # so deep that no log and no audit trail could hold it
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            arguments = None
        command = arguments.pop("command", None) if isinstance(arguments, dict) else None
        name = command if isinstance(command, str) else None
        handler = self._commands.get(name or "")
        arguments = arguments if isinstance(arguments, dict) else {}
        peer = peer._replace(user=self._user_of(peer.uid))
        allowed = self._may_ask(peer)
        verdict: Literal["answered", "refused", "malformed", "unknown"] = "answered"
        why = None
        reply: dict[str, Any] = {}
        if not allowed:
            verdict, why = "refused", f"{peer} may not ask the sensor: only root and its operators may"
        elif handler is None:
            verdict = "malformed" if name is None else "unknown"
            why = f"unknown request; known commands: {', '.join(self._commands)}"
        else:
            try:
                reply = handler(arguments, peer)
            except ControlError as error:
                verdict, why = "refused", str(error)
        if self._audit is not None:
            self._audit(Request(peer, name, arguments, verdict, why))
        self.refused += handler is None or not allowed
        return reply if why is None else {"error": why}

    def _may_ask(self, peer: Peer) -> bool:
        return peer.uid == 0 or (
            self._operators is not None and (peer.gid == self._operators or self._operators in peer.groups)
        )

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection]
        client.connection.close()

    def close(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        self._listener.close()
        self._path.unlink(missing_ok=True)


def _peer(connection: socket.socket) -> Peer:
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:  # too many (ERANGE)
        groups = b""
    return Peer(pid, uid, gid, frozenset(gid for (gid,) in struct.iter_unpack("I", groups)))


def group_id(name: str | None) -> int | None:
    """The number of the group `name`; raises ControlError where there is no such group."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # a name with a NUL
        raise ControlError(f"there is no group {name!r}") from None


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
        raise NoSensorError(f"no sensor runs: nobody listens at {path}") from None
    except PermissionError:
        raise ControlError(f"not allowed to ask the sensor at {path}; run as root or one of its operators") from None
    except OSError as error:
        raise ControlError(f"the sensor at {path} does not answer: {error}") from None
    except orjson.JSONDecodeError:
        raise ControlError(f"the sensor at {path} gave no JSON") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise ControlError(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer
