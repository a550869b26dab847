"""Names that a real name server gives: to whom, for how long, and what is made of hostile ones."""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.rdata
import orjson
import pytest
from live_helpers import DNS_SERVER, SERVER, SERVER6, Link, Live
from sensor_helpers import wait_for

from sensor.context.names import Names
from sensor.events import AnyEvent, DnsQuery, NetworkConnection, NetworkFlow, to_record

pytestmark = pytest.mark.kernel

TTL_S = 3
ASKED = "www.front.test"
CHAIN = [("www.front.test", "cdn.front.test"), ("cdn.front.test", "edge.cdn.test")]
RESOLVE_AND_CONNECT = """
import socket, sys
for family, kind, protocol, _, address in socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock:
        print(address[0], sock.connect_ex(address[:2]))
"""
CONNECT = "import socket, sys; socket.socket().connect_ex((sys.argv[1], int(sys.argv[2])))"
SPEAK = """
import socket, sys
for port, words in zip(sys.argv[2::2], sys.argv[3::2]):
    with socket.create_connection((sys.argv[1], int(port))) as sock:
        sock.sendall(words.encode().decode("unicode_escape").encode("latin-1"))
        sock.recv(99)
"""


@pytest.fixture(scope="module")
def name_server(link: Link) -> Iterator[None]:
    hint = dns.rdata.from_text("IN", "HTTPS", f"1 . alpn=h2 ipv4hint={SERVER} ipv6hint={SERVER6}").to_wire()
    assert hint is not None
    zone = [f"--host-record=edge.cdn.test,{SERVER},{SERVER6},{TTL_S}", f"--host-record=xmr.nanopool.org,{SERVER}"]
    zone += [f"--cname={alias},{target},{TTL_S}" for alias, target in CHAIN]
    zone += [f"--dns-rr=svc.test,65,{hint.hex()}", f"--host-record=billing.us-east-1.amazonaws.com,{SERVER}"]
    alone = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
    where = [f"--listen-address={DNS_SERVER}", "--bind-interfaces", "--user=root", "--local-ttl=60"]
    with link.program(["dnsmasq", *alone, *where, *zone], DNS_SERVER, 53):
        yield


@pytest.fixture
def resolving(tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    """Resolver configuration with further options."""

    def files(options: str = "") -> dict[str, Path]:
        (tmp_path / "resolv").write_text(f"nameserver {DNS_SERVER}\n{options}")
        (tmp_path / "nsswitch").write_text("hosts: dns\n")
        return {"/etc/resolv.conf": tmp_path / "resolv", "/etc/nsswitch.conf": tmp_path / "nsswitch"}

    return files


def connections(live: Live, workload: str, count: int) -> list[NetworkConnection]:
    """Those that are no question to the name server, once there are so many."""

    def found() -> list[NetworkConnection] | None:
        seen = [e for e in live.events(workload) if isinstance(e, NetworkConnection) and e.destination_port != 53]
        return seen if len(seen) >= count else None

    whole: list[NetworkConnection] = wait_for(found, f"{count} connections of {workload}")
    return whole


@pytest.mark.usefixtures("name_server")
@pytest.mark.parametrize("options", ["", "options use-vc\n"], ids=["udp", "tcp"])
def test_a_name_through_aliases_is_the_connections(
    live: Live, resolving: Callable[[str], dict[str, Path]], options: str
) -> None:
    done = live.run(sys.executable, "-c", RESOLVE_AND_CONNECT, ASKED, "8443", files=resolving(options))
    assert {line.split()[0] for line in done.stdout.splitlines()} == {SERVER, SERVER6}, done.stderr
    live.run(sys.executable, "-c", CONNECT, SERVER, "8443", workload="neighbour")
    seen = connections(live, "work", 2)
    assert {(e.destination_ip, e.destination_hostname) for e in seen} == {(SERVER, ASKED), (SERVER6, ASKED)}
    assert [e.destination_hostname for e in connections(live, "neighbour", 1)] == [None], "it asked for no name"
    queries = {e.query_type: e for e in live.events("work") if isinstance(e, DnsQuery)}
    aliases = [target for _, target in CHAIN]
    assert queries["A"].query_results == [*aliases, SERVER] and queries["AAAA"].query_results == [*aliases, SERVER6]
    assert {e.query_name for e in queries.values()} == {ASKED}
    assert queries["A"].process_id == seen[0].process_id and queries["A"].image == seen[0].image
    ended = live.wait("the end", lambda e: isinstance(e, NetworkFlow) and e.destination_port == 8443, "work")
    assert ended.destination_hostname == ASKED


ASK_HTTPS = """
import socket, sys, dns.message, dns.query
answer = dns.query.udp(dns.message.make_query("svc.test", "HTTPS"), sys.argv[1], timeout=20)
hint = next(address for rrset in answer.answer for address in rrset[0].params[4].addresses)
socket.socket().connect_ex((hint, 8443))
"""


@pytest.mark.usefixtures("name_server")
def test_an_address_out_of_an_https_record(live: Live) -> None:
    done = live.run(sys.executable, "-c", ASK_HTTPS, DNS_SERVER)
    assert not done.returncode, done.stderr
    assert connections(live, "work", 1)[0].destination_hostname == "svc.test"
    answer = live.wait("the answer", lambda e: isinstance(e, DnsQuery), "work")
    assert (answer.query_name, answer.query_type) == ("svc.test", "HTTPS")
    assert answer.query_results == [SERVER, SERVER6]


DATAGRAMS = """
import itertools, socket, sys, time
address = socket.gethostbyname(sys.argv[1])
sock = socket.socket(type=socket.SOCK_DGRAM)
for port in itertools.count(20000):
    sock.sendto(b"x", (address, port))
    time.sleep(0.2)
"""


@pytest.mark.usefixtures("name_server")
def test_a_name_ends_with_its_time_to_live(live: Live, resolving: Callable[[str], dict[str, Path]]) -> None:
    live.context.conversations.names = Names(least_ttl_s=1)
    with live.running(sys.executable, "-c", DATAGRAMS, ASKED, files=resolving("")):
        live.wait("no name", lambda e: is_sent(e) and e.destination_hostname is None, "work")
    sent = [e for e in live.events("work") if is_sent(e)]
    asked = live.wait("the answer", lambda e: isinstance(e, DnsQuery), "work").boottime
    assert sent[0].destination_hostname == ASKED
    for event in sent:
        assert (event.destination_hostname == ASKED) == (event.boottime - asked <= TTL_S * 1_000_000_000)


def ended_at(event: NetworkFlow) -> tuple[str | None, int | None]:
    return event.destination_ip, event.destination_port


def is_sent(event: AnyEvent) -> bool:
    return isinstance(event, NetworkConnection) and event.destination_ip == SERVER


@pytest.mark.usefixtures("name_server")
def test_what_the_flow_itself_names_wins(live: Live, resolving: Callable[[str], dict[str, Path]]) -> None:
    def answer(client: socket.socket) -> None:
        client.recv(999)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with live.link.server(answer) as named, live.link.server(answer) as nameless:
        words = [str(named), "GET / HTTP/1.1\\r\\nHost: other.test\\r\\n\\r\\n", str(nameless), "SSH-2.0-x\\r\\n"]
        done = live.run(sys.executable, "-c", SPEAK, ASKED, *words, files=resolving(""))
    assert not done.returncode, done.stderr
    assert live.payload("http").destination_hostname == "other.test"
    assert live.payload("ssh").destination_hostname == ASKED
    ended = live.wait("the end", lambda e: isinstance(e, NetworkFlow) and ended_at(e) == (SERVER, named))
    assert ended.destination_hostname == "other.test"


@pytest.mark.usefixtures("name_server")
@pytest.mark.parametrize(
    ("name", "rule"), [("xmr.nanopool.org", "pool_lookup"), ("billing.us-east-1.amazonaws.com", "billing_lookup")]
)
def test_names_on_lists(live: Live, resolving: Callable[[str], dict[str, Path]], name: str, rule: str) -> None:
    assert not live.run("getent", "ahosts", name, files=resolving("")).returncode
    live.wait("an answer", lambda e: isinstance(e, DnsQuery), "work")
    assert live.raised() == {rule}


@pytest.mark.parametrize(
    ("words", "protocol"),
    [("SSH-2.0-notes_1.0\\r\\n", "ssh"), ('{"id":1,"method":"mining.subscribe","params":[]}\\n', "stratum")],
)
def test_what_is_no_dns_is_recognised_on_its_port(live: Live, words: str, protocol: str) -> None:
    with live.link.server(lambda client: client.recv(999), port=53):
        done = live.run(sys.executable, "-c", SPEAK, SERVER, "53", words)
    assert not done.returncode, done.stderr
    assert live.payload(protocol).destination_port == 53


ASK_ELSEWHERE = """
import sys, dns.message, dns.query
dns.query.tcp(dns.message.make_query("hidden.test", "TXT"), sys.argv[1], port=int(sys.argv[2]), timeout=20)
"""


def test_questions_by_tcp_on_another_port(live: Live) -> None:
    with live.link.server(lambda client: client.recv(999)) as port:
        live.run(sys.executable, "-c", ASK_ELSEWHERE, SERVER, str(port))  # it gets no answer
    assert live.payload("dns").destination_port == port


HANDSHAKE = """
import os, socket, sys
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.sendto(b"\\1\\0\\0\\0" + os.urandom(128) + bytes(16), (sys.argv[1], 53))
"""


def test_a_tunnel_on_the_port_of_dns(live: Live) -> None:
    live.run(sys.executable, "-c", HANDSHAKE, SERVER)
    assert live.payload("wireguard").protocol == "udp"
    assert "wireguard_external" in live.raised()


ASK = """
import json, socket, sys
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.settimeout(20)
sock.connect((sys.argv[1], 53))
for question in json.load(sys.stdin):
    sock.send(bytes.fromhex(question))
    sock.recv(65535)
socket.socket().connect_ex((sys.argv[2], 8443))
"""


def hostile_answers() -> list[tuple[bytes, bytes]]:
    """Questions, and what a server that means ill says to them; the last one is honest."""
    chance = random.Random(3)
    query = dns.message.make_query("plain.test", "A", id=7).to_wire()
    head, question = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0", query[12:]
    record = b"\0\1\0\1\0\0\0\x3c\0\4\xc6\x33\x64\x07"
    answer = head + question + b"\xc0\x0c" + record
    alias = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\2\xc0\x0c"
    named = b"\x0a\n\r\"'\\\0\x1b[m<\x01.\0"
    bad = [
        head + b"\xc0\x0c\0\1\0\1" + b"\xc0\x0c" + record,  # a question that points at itself
        head + question + b"\xc0\x0e\xc0\x0c" + record,
        head + question + b"\xc0\xff" + record,
        *(answer.replace(b"\0\1\0\1\0\0\0\x3c", b"\0\1" + of + b"\0\0\0\x3c") for of in (b"\0\3", b"\0\xff", b"\1\0")),
        head + question + alias,  # an alias of itself
        head[:6] + b"\xff\xff\0\0\0\0" + question + (b"\xc0\x0c" + record) * 3000,
        head + named + b"\0\1\0\1" + b"\xc0\x0c" + record,
        head + question + b"\xc0\x0c\0\5\0\1\0\0\0\x3c" + bytes([0, len(named)]) + named,
        head[:2] + b"\x83\x80" + head[4:] + question + b"\xc0\x0c\0\1",  # truncated, and says so
        *(answer[:cut] for cut in range(1, len(answer), 5)),
        *(bytes(byte ^ (chance.random() < 0.05) * chance.randrange(256) for byte in answer) for _ in range(20)),
        *(chance.randbytes(chance.randrange(1, 500)) for _ in range(10)),
    ]
    return [(query, wrong) for wrong in bad] + [(query, answer)]


def test_hostile_answers_harm_nothing(live: Live) -> None:
    told = hostile_answers()
    with live.link.far.inside():
        server = socket.socket(type=socket.SOCK_DGRAM)
        server.bind((SERVER, 53))

    def serve() -> None:
        for _, wrong in told:
            _, client = server.recvfrom(999)
            server.sendto(wrong, client)

    with server:
        server.settimeout(30)
        thread = threading.Thread(target=serve)
        thread.start()
        questions = json.dumps([question.hex() for question, _ in told])
        done = live.run(sys.executable, "-c", ASK, SERVER, SERVER, input=questions)
        thread.join(30)
    assert not done.returncode, done.stderr
    assert connections(live, "work", 1)[0].destination_hostname == "plain.test"
    assert live.context.conversations.names.malformed > 10
    answers = [e for e in live.events("work") if isinstance(e, DnsQuery)]
    assert answers[-1].query_results == [SERVER]
    for event in answers:
        assert len(event.query_results or []) <= 128
        assert not set(str(orjson.loads(orjson.dumps(to_record(event))))) & set("\n\r\0\x1b\x01")
