"""Miners by what they say, live, under other names and on any port. Nothing here computes a hash."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from live_helpers import SERVER, SERVER6, Certificate, Link, Live, copy_of
from sensor_helpers import Launch, members, workers_in

from sensor.cli.staging import start_in
from sensor.events import NetworkFlow

pytestmark = pytest.mark.kernel

POOL = "xmr.nanopool.org"
WALLET = "4" + "8edfHu7V9Z84YzzMa6fUueoELZ9ZRXq9VetWzYGzKt52XU5xvqgzYnDK9URnRoJMk1j8nLwEVsaSWJ4fhdUyZijBGUicoD"
DIALECTS = {
    "bitcoin": ('{"id":1,"method":"mining.subscribe","params":["notes/1"]}', "mining.subscribe"),
    "monero": (
        f'{{"id":1,"jsonrpc":"2.0","method":"login","params":{{"login":"{WALLET}","pass":"x","agent":"n"}}}}',
        "login",
    ),
    "eth-proxy": ('{"id":1,"method":"eth_submitLogin","params":["0x52c2"]}', "eth_submitLogin"),
    "nicehash": (
        '{"id":1,"method":"mining.hello","params":{"agent":"n","host":"p","proto":"EthereumStratum/2.0.0"}}',
        "mining.hello",
    ),
}
CLIENT = """
exec 3<>/dev/tcp/$1/$2
printf '%s\\n' "$(<"$3")" >&3
while read -r _ <&3; do :; done
sleep 300
"""
BYTE_BY_BYTE = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as pool:
    pool.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in open(sys.argv[3], "rb").read():
        pool.send(bytes([byte]))
    pool.shutdown(socket.SHUT_WR)
    pool.recv(999)
"""


class Pool:
    """Answers each line as a pool does; it has no work to give."""

    def __call__(self, client: socket.socket) -> None:
        with client.makefile("rwb") as lines:
            for _ in lines:
                lines.write(b'{"id":1,"result":true,"error":null}\n')
                lines.flush()


@pytest.fixture
def miner(tmp_path: Path) -> Path:
    """A shell under another name, and beside it the script that makes it a client."""
    (tmp_path / "script").write_text(CLIENT)
    return copy_of("bash", tmp_path / "train")


@pytest.mark.parametrize("address", [SERVER, SERVER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_stratum_in_the_clear(live: Live, miner: Path, tmp_path: Path, dialect: str, address: str) -> None:
    words, method = DIALECTS[dialect]
    (tmp_path / "words").write_text(words)
    with (
        live.link.server(Pool(), address) as port,
        live.running(miner, tmp_path / "script", address, str(port), tmp_path / "words"),
    ):
        event = live.payload("stratum")
    assert (event.stratum_method, event.destination_ip, event.destination_port) == (method, address, port)
    assert event.image == str(miner)
    assert event.stratum_user == {"monero": WALLET, "eth-proxy": "0x52c2"}.get(dialect)
    assert live.raised() == {"stratum_flow"}


def test_stratum_byte_by_byte(live: Live, tmp_path: Path) -> None:
    (tmp_path / "words").write_text(DIALECTS["bitcoin"][0] + "\n")
    with live.link.server(Pool()) as port:
        live.run(sys.executable, "-c", BYTE_BY_BYTE, SERVER, str(port), tmp_path / "words")
    assert live.payload("stratum").stratum_method == "mining.subscribe"


EXTENDED = """
import socket, sys
with socket.socket(socket.AF_INET6) as pool:
    for option in map(int, sys.argv[4:]):  # next header, length, PadN of four bytes (RFC 8200 section 4.2)
        pool.setsockopt(socket.IPPROTO_IPV6, option, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    pool.connect((sys.argv[1], int(sys.argv[2])))
    pool.sendall(open(sys.argv[3], "rb").read())
    pool.recv(999)
"""


def test_stratum_behind_extension_headers(live: Live, tmp_path: Path) -> None:
    (tmp_path / "words").write_text(DIALECTS["bitcoin"][0] + "\n")
    options = [str(option) for option in (socket.IPV6_HOPOPTS, socket.IPV6_DSTOPTS)]
    with live.link.server(Pool(), SERVER6) as port:
        done = live.run(sys.executable, "-c", EXTENDED, SERVER6, str(port), tmp_path / "words", *options)
    assert not done.returncode, done.stderr
    event = live.payload("stratum")
    assert (event.destination_ip, event.destination_port) == (SERVER6, port)


def test_ordinary_json_rpc_is_let_be(live: Live, tmp_path: Path) -> None:
    (tmp_path / "words").write_text('{"jsonrpc":"2.0","id":1,"method":"login","params":{"user":"ada"}}\n')
    with live.link.server(Pool()) as port:
        live.run(sys.executable, "-c", BYTE_BY_BYTE, SERVER, str(port), tmp_path / "words")
        live.wait("the end", lambda e: isinstance(e, NetworkFlow) and e.destination_port == port)
    assert not live.raised()


@pytest.mark.parametrize("address", [SERVER, SERVER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("hidden", [False, True], ids=["clear", "tls"])
def test_enforced_the_cgroup_is_dead(
    *,
    launch: Launch,
    cgroup: Path,
    link: Link,
    certificate: Certificate,
    miner: Path,
    tmp_path: Path,
    address: str,
    hidden: bool,
) -> None:
    agent = cgroup / "agent"
    neighbours = workers_in(cgroup / "other")
    workers = workers_in(agent)
    sensor = launch("--mode=enforce")
    (tmp_path / "words").write_text(DIALECTS["monero"][0])

    def pool(client: socket.socket) -> None:
        if hidden:
            client = certificate.server().wrap_socket(client, server_side=True)
        Pool()(client)

    with link.server(pool, address) as port:
        if hidden:
            shown = f"[{address}]" if ":" in address else address
            tls = copy_of("openssl", tmp_path / "report")
            command = [tls, "s_client", "-connect", f"{shown}:{port}", "-servername", POOL, "-quiet"]
        else:
            command = [miner, tmp_path / "script", address, str(port), tmp_path / "words"]
        client = start_in(agent, [*link.near.enter, *command])
        alert = sensor.wait_alert(agent)
        assert alert is not None
        assert client.wait(30) == -9
    assert [worker.wait(30) for worker in workers] == [-9] * len(workers)
    assert members(agent) == []
    assert [neighbour.poll() for neighbour in neighbours] == [None] * len(neighbours)
    assert alert["rule"]["name"] == ("TLS to a mining pool" if hidden else "Stratum spoken on a connection")
    assert alert["response"]["outcome"] == "done" and alert["destination"]["ip"] == address
