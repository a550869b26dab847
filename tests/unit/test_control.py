"""The control socket: whoever asks well is answered, and nobody else does harm."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sensor import control
from sensor.control import CLIENTS, REQUEST_BYTES, ControlError, ControlServer, Handler, Peer, Request, ask, group_id

BIG = {"ready": True, "text": "x" * 1_000_000}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    commands: dict[str, Handler] = {"status": lambda *_: {"ready": True}, "big": lambda *_: BIG, "echo": echo}
    found = ControlServer(tmp_path / "run" / "control.sock", commands)
    yield found
    found.close()


def echo(arguments: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """What it was asked, and by whom."""
    if "refuse" in arguments:
        raise ControlError("not this one")
    return {"arguments": arguments, "pid": peer.pid, "uid": peer.uid}


def path_of(server: ControlServer) -> Path:
    return Path(socket.socket(fileno=os.dup(server.fileno())).getsockname())


def client_of(server: ControlServer, request: bytes = b"") -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path_of(server)))
    client.sendall(request)
    return client


def turn(server: ControlServer) -> bool:
    server.accept()
    return server.serve()


@contextmanager
def serving(server: ControlServer) -> Iterator[None]:
    """As the sensor's loop does, in a thread of its own."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(0.002):
            turn(server)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def read(client: socket.socket) -> bytes:
    with client, client.makefile("rb") as file:
        return file.read()


def test_it_is_asked_and_answers(server: ControlServer) -> None:
    with serving(server):
        assert ask(path_of(server), "status") == {"ready": True}
        with pytest.raises(ControlError, match="unknown request; known commands: status, big, echo"):
            ask(path_of(server), "reboot")
    assert server.refused == 1


def test_only_its_user_may_ask_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        server = ControlServer(tmp_path / "s", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    server.close()
    assert not (tmp_path / "s").exists()


def test_a_request_in_pieces(server: ControlServer) -> None:
    client = client_of(server)
    for byte in b'{"command":"status"}':
        client.send(bytes([byte]))
        assert turn(server) is True
    client.send(b"\nand more")
    assert turn(server) is False
    assert json.loads(read(client)) == {"ready": True}


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"null\n", b"3\n", b"[]\n", b"{}\n", b'{"command":["status"]}\n', b"\xff\0\n", b"[" * 9999 + b"\n"],
)
def test_malformed_requests_get_a_sentence(server: ControlServer, request_: bytes) -> None:
    client = client_of(server, request_)
    turn(server)
    assert json.loads(read(client)) == {"error": "unknown request; known commands: status, big, echo"}
    assert server.refused == 1


@pytest.mark.parametrize("request_", [b"", b'{"command":"status"}', b"x" * 1000])
def test_who_hangs_up_before_the_line_ends_is_forgotten(server: ControlServer, request_: bytes) -> None:
    client_of(server, request_).close()
    turn(server)
    assert server.serve() is False and server.refused == 1


def test_who_sends_without_end_is_cut_off(server: ControlServer) -> None:
    sent = 0
    with serving(server), client_of(server) as client, pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
        while sent < 10_000_000:
            sent += client.send(b"x" * 65536)
    assert sent < 10_000_000 and server.refused == 1


def test_a_line_that_is_too_long_is_no_request(tmp_path: Path) -> None:
    told: list[Request] = []
    server = ControlServer(tmp_path / "s", {}, audit=told.append)
    client = client_of(server)
    sent = b'{"command":"status","x":"' + b"x" * REQUEST_BYTES + b'"}\n'
    with serving(server), contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(sent)
        assert read(client) == b""
    assert server.refused == 1
    server.close()
    assert [(request.verdict, request.peer.uid) for request in told] == [("unfinished", os.geteuid())]


def test_who_sends_nothing_is_let_go(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.0)
    client = client_of(server)
    assert turn(server) is False
    assert read(client) == b"" and server.refused == 1


def test_idle_clients_keep_nobody_out(server: ControlServer) -> None:
    idle = [client_of(server) for _ in range(5 * CLIENTS)]
    turn(server)
    with serving(server):
        assert ask(path_of(server), "status") == {"ready": True}
    assert server.refused >= 4 * CLIENTS
    for client in idle[: 4 * CLIENTS]:
        assert read(client) == b""


def test_more_clients_at_once_than_it_holds_are_all_answered(server: ControlServer) -> None:
    clients = [client_of(server, b'{"command":"status"}\n') for _ in range(5 * CLIENTS)]
    turn(server)
    assert {read(client) for client in clients} == {b'{"ready":true}\n'}


def test_who_does_not_read_the_answer_holds_nobody_up(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = client_of(server, b'{"command":"big"}\n')
    assert turn(server) is True, "it has its time"
    with serving(server):
        assert ask(path_of(server), "status") == {"ready": True}
    monkeypatch.setattr(control, "PATIENCE_S", 0.0)
    other = client_of(server, b'{"command":"big"}\n')
    while turn(server):
        pass
    assert server.refused == 2
    for client in (deaf, other):
        assert len(read(client)) < 1_000_000


def test_a_long_answer_arrives_whole(server: ControlServer) -> None:
    with serving(server):
        assert ask(path_of(server), "big") == BIG


def test_arguments_and_who_asks(server: ControlServer) -> None:
    with serving(server):
        answer = ask(path_of(server), "echo", id="x", for_s=[1])
        assert answer == {"arguments": {"id": "x", "for_s": [1]}, "pid": os.getpid(), "uid": os.geteuid()}
        with pytest.raises(ControlError, match="not this one"):
            ask(path_of(server), "echo", refuse=1)
    assert server.refused == 0


@pytest.mark.parametrize(
    ("request_", "command", "verdict"),
    [
        (b'{"command":"status","x":1}\n', "status", "answered"),
        (b'{"command":"echo","refuse":1}\n', "echo", "refused"),
        (b'{"command":"reboot"}\n', "reboot", "unknown"),
        (b'{"command":7}\n', None, "malformed"),
        (b"{\n", None, "malformed"),
    ],
)
def test_every_request_is_audited(tmp_path: Path, request_: bytes, command: str | None, verdict: str) -> None:
    told: list[Request] = []
    commands: dict[str, Handler] = {"status": lambda *_: {}, "echo": echo}
    server = ControlServer(tmp_path / "s", commands, audit=told.append, user_of=lambda uid: f"user{uid}")
    client = client_of(server, request_)
    turn(server)
    reply = json.loads(read(client))
    server.close()
    (request,) = told
    assert (request.command, request.verdict, request.why) == (command, verdict, reply.get("error"))
    assert (request.peer.pid, request.peer.user) == (os.getpid(), f"user{os.geteuid()}")
    assert "command" not in request.arguments


@pytest.mark.parametrize(
    ("peer", "operators", "allowed"),
    [
        (Peer(1, 0, 0), None, True),
        (Peer(1, 0, 7, frozenset({7})), 50, True),
        (Peer(1, 1000, 1000), None, False),
        (Peer(1, 1000, 0, frozenset({0})), None, False),
        (Peer(1, 1000, 50), 50, True),
        (Peer(1, 1000, 1000, frozenset({4, 50})), 50, True),
        (Peer(1, 1000, 1000, frozenset({4, 51})), 50, False),
    ],
)
def test_who_may_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: Peer, operators: int | None, allowed: bool
) -> None:
    monkeypatch.setattr(control, "_peer", lambda _: peer)
    monkeypatch.setattr(os, "chown", lambda *_: None)
    told: list[Request] = []
    server = ControlServer(tmp_path / "s", {"status": lambda *_: {}}, operators=operators, audit=told.append)
    client = client_of(server, b'{"command":"status"}\n')
    turn(server)
    reply = json.loads(read(client))
    server.close()
    assert (reply == {}) == allowed == (told[0].verdict == "answered") == (server.refused == 0)
    assert allowed or reply["error"] == f"uid {peer.uid} may not ask the sensor: only root and its operators may"


def test_a_group_that_does_not_exist_is_said() -> None:
    assert group_id(None) is None
    for name in ("no such group", "x\0y"):
        with pytest.raises(ControlError, match="there is no group"):
            group_id(name)


def test_a_second_one_is_refused_and_a_stale_socket_is_replaced(server: ControlServer) -> None:
    path = path_of(server)
    with serving(server), pytest.raises(ControlError, match="another sensor already runs: it listens at"):
        ControlServer(path, {})
    assert path.is_socket()
    stale = path.with_name("stale")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    ControlServer(stale, {}).close()


def made_file(path: Path) -> None:
    path.write_text("keep me")


@pytest.mark.parametrize("make", [made_file, Path.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_socket_is_kept(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "precious"
    make(path)
    before = path.lstat()
    with pytest.raises(ControlError, match="something else has that name"):
        ControlServer(path, {})
    assert path.lstat().st_ino == before.st_ino


@pytest.mark.parametrize("path", ["/proc/nonexistent/s", "/tmp/" + "x" * 200, "/dev/null/s"])
def test_where_none_can_be_made_is_said_in_one_sentence(path: str) -> None:
    with pytest.raises(ControlError, match=r"^the control socket .* cannot be made: ") as caught:
        ControlServer(Path(path), {})
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"", "gave no JSON"),
        (b"{", "gave no JSON"),
        (b"\xff", "gave no JSON"),
        (b"[1]", "1"),
        (b'{"error":"no"}', "no"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, reply: bytes, says: str) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(100)
                client.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ControlError, match=says):
            ask(path, "status")
        thread.join()


def test_asking_where_nobody_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlError, match="no sensor runs: nobody listens at"):
        ask(tmp_path / "none", "status")
    monkeypatch.setattr(control, "PATIENCE_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(ControlError, match="does not answer: timed out"):
            ask(tmp_path / "s", "status")
