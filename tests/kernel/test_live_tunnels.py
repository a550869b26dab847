"""SSH by several implementations, and what goes through proxies: told by its bytes, live."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_helpers import SERVER, SERVER6, Certificate, Link, Live, copy_of

from sensor.events import NetworkPayload

pytestmark = pytest.mark.kernel

NAME, POOL = "models.site.test", "xmr.nanopool.org"
SSH_PORT = 8443
PARAMIKO = """
import socket, sys, paramiko
transport = paramiko.Transport(socket.create_connection((sys.argv[1], int(sys.argv[2]))))
transport.start_client(timeout=20)
transport.close()
"""
TRUSTING = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
CLIENTS = {
    "openssh": ["ssh", "-F", "none", *TRUSTING, "-p", str(SSH_PORT), SERVER, "true"],
    "openssh on ipv6": ["ssh", "-F", "none", *TRUSTING, "-p", str(SSH_PORT), SERVER6, "true"],
    "dropbear": ["dbclient", "-y", "-y", "-p", str(SSH_PORT), f"root@{SERVER}", "true"],
    "paramiko": [sys.executable, "-c", PARAMIKO, SERVER, str(SSH_PORT)],
}
BANNERS = {"openssh": "SSH-2.0-OpenSSH_", "dropbear": "SSH-2.0-dropbear", "paramiko": "SSH-2.0-paramiko_"}


@pytest.fixture(scope="module")
def ssh_server(link: Link, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("dropbear")
    key, pid = directory / "key", directory / "pid"  # dropbear removes its pid file when it ends
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", key], check=True, capture_output=True)
    with link.program(["dropbear", "-F", "-E", "-s", "-r", key, "-p", str(SSH_PORT), "-P", pid], SERVER, SSH_PORT):
        yield


@pytest.mark.usefixtures("ssh_server")
@pytest.mark.parametrize("client", CLIENTS)
def test_ssh_by_its_banner(live: Live, tmp_path: Path, client: str) -> None:
    command = CLIENTS[client]
    renamed = command[0] in ("ssh", "dbclient")
    if renamed:
        command = [str(copy_of(command[0], tmp_path / "notes")), *command[1:]]
    live.run(*command)  # nobody may log in there, which comes later than what counts here
    event: NetworkPayload = live.wait("both banners", both_banners)
    assert event.ssh_banner is not None and event.ssh_banner.startswith(BANNERS[client.partition(" ")[0]])
    assert (event.ssh_peer_banner or "").startswith("SSH-2.0-dropbear")
    assert event.destination_port == SSH_PORT and not event.from_peer
    expected = {"ssh_other_port", "ssh_other_program" if renamed else "ssh_interpreter"}
    assert live.raised() == expected


def both_banners(event: object) -> bool:
    return isinstance(event, NetworkPayload) and bool(event.ssh_banner and event.ssh_peer_banner)


def relay(one: socket.socket, other: socket.socket) -> None:
    """Both ways, until both sides have said all."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=copy, args=(other, one))
    thread.start()
    copy(one, other)
    thread.join()


class Proxy:
    """SOCKS5 (RFC 1928) and HTTP CONNECT; whatever a client asks for, it is taken to one place."""

    def __init__(self, link: Link, port: int) -> None:
        self._link, self._port = link, port

    def __call__(self, client: socket.socket) -> None:
        with client.makefile("rb", buffering=0) as lines:
            first = lines.read(1)
            if first == b"\5":
                client.recv(int.from_bytes(lines.read(1) or b"", "big"))
                client.sendall(b"\5\0")
                client.recv(4)
                client.recv(int.from_bytes(client.recv(1), "big") + 2)
                client.sendall(b"\5\0\0\1" + bytes(6))
            else:
                while lines.readline() != b"\r\n":
                    pass
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with self._link.far.inside():
            behind = socket.create_connection((SERVER, self._port))
        with behind:
            relay(client, behind)


def answer_http(client: socket.socket) -> None:
    client.recv(9999)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def answer_tls(certificate: Certificate) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        with certificate.server().wrap_socket(client, server_side=True) as peer:
            answer_http(peer)

    return answer


THROUGH = {"socks5": ["--socks5-hostname"], "http-connect": ["--proxytunnel", "--proxy"]}


@pytest.mark.parametrize("carrier", THROUGH)
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_through_a_proxy(live: Live, certificate: Certificate, tmp_path: Path, carrier: str, secure: bool) -> None:
    answer = answer_tls(certificate) if secure else answer_http
    url = f"{'https' if secure else 'http'}://{NAME}:8080/through"
    curl = copy_of("curl", tmp_path / "notes")
    with live.link.server(answer) as behind, live.link.server(Proxy(live.link, behind)) as port:
        done = live.run(curl, "-sSk", "--max-time", "50", *THROUGH[carrier], f"{SERVER}:{port}", url)
    assert not done.returncode, done.stderr
    asked = live.payload(carrier.partition("-")[0].rstrip("5"), socks_destination=f"{NAME}:8080", carried_by=None)
    assert asked.destination_port == port
    inside = live.payload("tls" if secure else "http", carried_by=carrier)
    assert inside.socks_destination == f"{NAME}:8080" and inside.destination_hostname == NAME
    assert (inside.tls_server_name if secure else inside.http_path) == (NAME if secure else "/through")
    assert live.raised() == ({"socks_external"} if carrier == "socks5" else set())


@pytest.mark.parametrize("carrier", THROUGH)
def test_a_pool_through_a_proxy(live: Live, carrier: str) -> None:
    with live.link.server(lambda client: None) as port, live.link.server(Proxy(live.link, port)) as proxy:
        live.run("curl", "-s", "--max-time", "50", *THROUGH[carrier], f"{SERVER}:{proxy}", f"telnet://{POOL}:10300")
    live.payload(carrier.partition("-")[0].rstrip("5"), socks_destination=f"{POOL}:10300")
    assert {"pool_tls", "pool_web"} <= live.raised()


SPEAK_CONNECT = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(b"CONNECT out.test:22 HTTP/1.1\\r\\n\\r\\n")
answer = b""
while not answer.endswith(b"\\r\\n\\r\\n"):
    answer += sock.recv(1)
def up():
    while data := os.read(0, 4096):
        sock.sendall(data)
    os._exit(0)  # its client has gone, and waits for nobody
threading.Thread(target=up, daemon=True).start()
while data := sock.recv(4096):
    os.write(1, data)
"""


@pytest.mark.usefixtures("ssh_server")
def test_ssh_inside_a_proxy(live: Live, tmp_path: Path) -> None:
    script = tmp_path / "connect.py"
    script.write_text(SPEAK_CONNECT)
    ssh = [copy_of("ssh", tmp_path / "notes"), *CLIENTS["openssh"][1:]]
    with live.link.server(Proxy(live.link, SSH_PORT)) as port:
        live.run(ssh[0], "-o", f"ProxyCommand={sys.executable} {script} {SERVER} {port}", *ssh[1:])
    event: NetworkPayload = live.wait("both banners", both_banners)
    assert event.carried_by == "http-connect" and event.socks_destination == "out.test:22"
    assert "ssh_inside" in live.raised()


def test_a_websocket_upgrade(live: Live) -> None:
    def answer(client: socket.socket) -> None:
        client.recv(9999)
        client.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )

    headers = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    headers.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    options = [word for header in headers for word in ("-H", header)]
    with live.link.server(answer) as port:
        resolve = ["--resolve", f"{NAME}:{port}:{SERVER}"]
        live.run("curl", "-sS", "--http1.1", "--max-time", "50", *options, *resolve, f"http://{NAME}:{port}/ws?key=x")
    event = live.payload("websocket")
    assert (event.http_upgrade, event.http_host, event.http_path) == ("websocket", NAME, "/ws")
    assert not live.raised()
