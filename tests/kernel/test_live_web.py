"""TLS and HTTP by real clients, on any port and under any name: what is said of them, and what never is."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from live_helpers import SERVER, SERVER6, Certificate, Link, Live, copy_of
from sensor_helpers import Launch, json_lines, wait_for

from sensor.cli.staging import start_in
from sensor.events import to_record

pytestmark = pytest.mark.kernel

NAME = "models.site.test"
SECRET = "hunter2-never-kept"
BILLING, POOL = "billing.us-east-1.amazonaws.com", "xmr.nanopool.org"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PYTHON_CLIENT = """
import socket, ssl, sys
context = ssl._create_unverified_context()
context.set_alpn_protocols(sys.argv[4:])
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
with context.wrap_socket(sock, server_hostname=sys.argv[3]) as peer:
    peer.recv(1)
"""


def ja4_of(hello: bytes, transport: str = "t") -> str:
    """JA4 as FoxIO's technical_details/JA4.md tells it, from one record; for extensions that are well formed."""

    def take(data: bytes, width: int) -> tuple[bytes, bytes]:
        end = width + int.from_bytes(data[:width], "big")
        return data[width:end], data[end:]

    def words(data: bytes) -> list[str]:
        found = [data[at : at + 2].hex() for at in range(0, len(data), 2)]
        return [word for word in found if not (word[1] == word[3] == "a" and word[:2] == word[2:])]

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "0" * 12

    _, rest = take(hello[9 + 2 + 32 :], 1)
    suites, rest = take(rest, 2)
    block, _ = take(take(rest, 1)[1], 2)
    extensions = {}
    while block:
        kind = block[:2].hex()
        extensions[kind], block = take(block[2:], 2)
    kinds = words(bytes.fromhex("".join(extensions)))
    version = max(words(extensions["002b"][1:])) if "002b" in extensions else hello[9:11].hex()
    protocol = take(extensions["0010"][2:], 1)[0].decode() if "0010" in extensions else "00"
    algorithms = ",".join(words(extensions.get("000d", b"\0\0")[2:]))
    hashed = ",".join(sorted(set(kinds) - {"0000", "0010"})) + (f"_{algorithms}" if algorithms else "")
    start = f"{transport}{ {'0304': '13', '0303': '12'}[version] }{'d' if '0000' in extensions else 'i'}"
    counts = f"{len(words(suites)):02}{len(kinds):02}{protocol[0]}{protocol[-1]}"
    return f"{start}{counts}_{digest(','.join(sorted(words(suites))))}_{digest(hashed)}"


class TlsServer:
    """Remembers the hello of each client, as it came."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.hellos: list[bytes] = []

    def __call__(self, client: socket.socket) -> None:
        head = client.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
        size = 5 + int.from_bytes(head[3:], "big")
        self.hellos.append(client.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL))
        with self._context.wrap_socket(client, server_side=True) as peer:
            if peer.selected_alpn_protocol() == "http/1.1":
                peer.recv(9999)
            peer.sendall(OK)


SLOW_CLIENT = """
import fcntl, socket, ssl, sys, termios
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
client = ssl._create_unverified_context().wrap_bio(incoming, outgoing, server_hostname=sys.argv[3])
try:
    client.do_handshake()
except ssl.SSLWantReadError:
    pass
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in outgoing.read()[: int(sys.argv[4])]:
        sock.send(bytes([byte]))
        while int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder):  # until it was taken
            pass
"""
QUIC_CLIENT = """
import socket, sys, time
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
client = QuicConnection(configuration=QuicConfiguration(server_name=sys.argv[3], alpn_protocols=["h3"]))
client.connect((sys.argv[1], int(sys.argv[2])), now=time.time())
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    for data, address in client.datagrams_to_send(now=time.time()):
        sock.sendto(data, address)
"""

CLIENTS = {
    "openssl": ["openssl", "s_client", "-connect", "{address}:{port}", "-servername", NAME, "-alpn", "h2,http/1.1"],
    "tls 1.2": ["openssl", "s_client", "-connect", "{address}:{port}", "-servername", NAME, "-tls1_2"],
    "python": [sys.executable, "-c", PYTHON_CLIENT, "{address}", "{port}", NAME, "imap"],
    "curl": ["curl", "-sk", "--http1.1", "--connect-to", "::{address}:{port}", f"https://{NAME}/"],
}
OFFERED = {"openssl": ["h2", "http/1.1"], "tls 1.2": None, "python": ["imap"], "curl": ["http/1.1"]}


@pytest.mark.parametrize("address", [SERVER, SERVER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_client_says_of_itself(
    live: Live, certificate: Certificate, tmp_path: Path, client: str, address: str
) -> None:
    command = CLIENTS[client]
    if command[0] in ("curl", "openssl"):
        command = [str(copy_of(command[0], tmp_path / "notes")), *command[1:]]
    server = TlsServer(certificate.server("h2", "http/1.1"))
    with live.link.server(server, address) as port:
        shown = f"[{address}]" if ":" in address and client != "python" else address
        live.run(*(word.format(address=shown, port=port) if "{" in word else word for word in command))
        wait_for(lambda: server.hellos, "a client")
    event = live.payload("tls")
    assert (event.destination_ip, event.destination_port) == (address, port)
    assert event.tls_server_name == event.destination_hostname == NAME
    assert event.tls_alpn == OFFERED[client] and not event.tls_ech
    assert event.tls_ja4 == ja4_of(server.hellos[0])
    if command[0] != sys.executable:
        assert event.image == str(tmp_path / "notes")
    assert not live.raised()


def acknowledge_each(client: socket.socket) -> None:
    """At once, so that what the client sends next is a packet of its own."""
    more = True
    while more:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        more = bool(client.recv(99))


def test_a_hello_byte_by_byte(live: Live) -> None:
    with live.link.server(acknowledge_each) as port:
        live.run(sys.executable, "-c", SLOW_CLIENT, SERVER, str(port), POOL, "9999")
    assert live.payload("tls").tls_server_name == POOL
    assert live.raised() == {"pool_tls"}


def test_a_hello_that_is_broken_off(live: Live) -> None:
    with live.link.server(acknowledge_each) as port:
        live.run(sys.executable, "-c", SLOW_CLIENT, SERVER, str(port), POOL, "300")
    event = live.payload("tls")
    assert event.tls_server_name == event.destination_hostname == POOL and event.tls_ja4 is None
    assert live.raised() == {"pool_tls"}


@pytest.mark.parametrize(("name", "raised"), [(NAME, set()), (BILLING, {"billing_endpoint"}), (POOL, {"pool_web"})])
def test_quic(live: Live, name: str, raised: set[str]) -> None:
    done = live.run(sys.executable, "-c", QUIC_CLIENT, SERVER, "6011", name)
    assert not done.returncode, done.stderr
    event = live.payload("quic")
    assert (event.protocol, event.destination_port, event.tls_alpn) == ("udp", 6011, ["h3"])
    assert event.tls_server_name == event.destination_hostname == name
    assert event.tls_ja4 is not None and event.tls_ja4.startswith("q13d") and event.tls_ja4[8:10] == "h3"
    assert live.raised() == raised


def test_openssl_as_the_server(live: Live, certificate: Certificate) -> None:
    port = 6011
    serve = ["openssl", "s_server", "-quiet", "-cert", certificate.certificate, "-key", certificate.key]
    with live.link.program([*serve, "-accept", f"{SERVER}:{port}", "-www"], SERVER, port):
        done = live.run("curl", "-sk", "--connect-to", f"::{SERVER}:{port}", f"https://{NAME}/")
    assert "s_server" in done.stdout
    assert live.payload("tls").tls_server_name == NAME


@contextlib.contextmanager
def web_server(live: Live) -> Iterator[int]:
    """Answers each request, of HTTP/2 too, with nothing."""

    def answer(client: socket.socket) -> None:
        request = client.recv(9999)
        while request.startswith((b"PRI", b"PUT")) and b"password=" not in request:  # which is the body
            request += client.recv(9999) or b"password="
        if request.startswith(b"PRI "):
            frames = b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\1\0\0\0\0" + b"\0\0\1\1\5\0\0\0\1\x88"  # 0x88: status 200
            client.sendall(frames)
            while client.recv(9999):
                pass
        else:
            client.sendall(OK)

    with live.link.server(answer) as port:
        yield port


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge", "--http2"])
def test_requests_and_never_their_credentials(live: Live, tmp_path: Path, version: str) -> None:
    curl = copy_of("curl", tmp_path / "notes")
    secrets = tmp_path / "curlrc"
    long = "/v1/" + "a" * 300
    with web_server(live) as port:
        secrets.write_text(
            f'url = "http://someone:{SECRET}@{NAME}:{port}{long}?token={SECRET}#{SECRET}"\n'
            f'header = "X-Api-Key: {SECRET}"\nheader = "Authorization: Bearer {SECRET}"\ncookie = "session={SECRET}"\n'
            f'connect-to = "::{SERVER}:{port}"\ndata = "password={SECRET}"\nrequest = "PUT"\n'
        )
        done = live.run(curl, "-sS", "--max-time", "50", version, "-K", secrets)
    assert not done.returncode, done.stderr
    event = live.payload("http", http_method="PUT")
    assert (event.http_host, event.http_path) == (NAME, long[:256])
    assert event.http_upgrade == ("h2c" if version == "--http2" else None)
    assert event.destination_hostname == NAME and event.image == str(curl)
    assert SECRET.encode() not in orjson.dumps([to_record(event) for event in live.events()])


@pytest.mark.parametrize(
    ("url", "raised"),
    [
        (f"https://{BILLING}/", {"billing_endpoint"}),
        (f"http://{BILLING}/", {"billing_endpoint"}),
        (f"http://{BILLING.upper()}./", {"billing_endpoint"}),
        ("https://cloud.lambda.ai/", {"provisioning_endpoint"}),
        ("http://metadata.google.internal/", {"metadata_elsewhere"}),
        ("http://[fd00:ec2::254]/", {"metadata_elsewhere"}),
        (f"https://{POOL}/", {"pool_web"}),
        (f"https://not{POOL.partition('.')[2]}/", set()),
    ],
)
def test_names_on_lists(live: Live, certificate: Certificate, url: str, raised: set[str]) -> None:
    with contextlib.ExitStack() as stack:
        if url.startswith("https"):
            port = stack.enter_context(live.link.server(TlsServer(certificate.server("http/1.1"))))
        else:
            port = stack.enter_context(web_server(live))
        done = live.run("curl", "-sSk", "--max-time", "50", "--connect-to", f"::{SERVER}:{port}", url)
    assert not done.returncode, done.stderr
    live.payload(url.partition(":")[0].replace("https", "tls"))
    assert live.raised() == raised


def test_a_pool_behind_tls_and_no_browser(live: Live, certificate: Certificate) -> None:
    context = certificate.server()
    with live.link.server(TlsServer(context)) as port:
        live.run("openssl", "s_client", "-connect", f"{SERVER}:{port}", "-servername", POOL)
    live.payload("tls", tls_server_name=POOL)
    assert live.raised() == {"pool_tls"}


def test_the_recorded_event_and_the_alert(launch: Launch, cgroup: Path, link: Link, tmp_path: Path) -> None:
    """Through a whole sensor, its files included."""
    sensor = launch(f"--events={tmp_path}/events.jsonl")
    with link.server(lambda client: client.recv(9999) and client.sendall(OK)) as port:
        curl = ["curl", "-s", "-u", f"@{tmp_path}", "--connect-to", f"::{SERVER}:{port}", f"http://{BILLING}/p?q=1"]
        assert not start_in(cgroup, [*link.near.enter, *curl]).wait(30)
    (alert,) = wait_for(sensor.new_alerts, "an alert")
    assert alert["rule"]["name"] == "Connection to a billing or purchasing endpoint"
    assert alert["destination"] == {"ip": SERVER, "port": port, "domain": BILLING}
    assert alert["network"] == {"transport": "tcp", "protocol": "http"}
    events = [event for event in json_lines(tmp_path / "events.jsonl") if event["category"] == "network_payload"]
    assert [(event["HttpHost"], event["HttpPath"]) for event in events] == [(BILLING, "/p")]
    replayed = subprocess.run(
        [sys.executable, "-c", "from sensor.cli.main import main; main()", "replay", tmp_path / "events.jsonl"],
        capture_output=True,
        timeout=60,
    )
    assert b"billing" in replayed.stdout
