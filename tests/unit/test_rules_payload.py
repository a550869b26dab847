"""From a flow's bytes to a verdict: the shipped rules on what real first words and names say."""

from __future__ import annotations

import json
import socket
import ssl
from functools import lru_cache
from typing import Any

import dns.message
import dns.rrset
import pytest

from sensor.config import shipped_rules_dir
from sensor.context.conversations import Conversations
from sensor.decode import Ends, Payload
from sensor.events import AnyEvent
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher

Said = tuple[bool, bytes]
"""Whether the side that accepted the flow says it, and what."""

OUT, IN = False, True
CONNECTED = (IN, b"HTTP/1.1 200 Connection established\r\n\r\n")
SUBSCRIBE = json.dumps({"id": 1, "method": "mining.subscribe", "params": ["miner/1.0"]}).encode() + b"\n"
LOGIN = {"login": "4" + "x" * 94, "pass": "x", "agent": "XMRig/6.21.0", "algo": ["rx/0"]}
MONERO = json.dumps({"id": 1, "jsonrpc": "2.0", "method": "login", "params": LOGIN}).encode() + b"\n"
BANNER = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"


@lru_cache
def matcher() -> Matcher:
    return Matcher(load_rules([shipped_rules_dir()]))


def said(*words: Said, port: int = 443, scope: str = "external", image: str = "/tmp/worker") -> list[AnyEvent]:
    """The events of one TCP flow, each word in a part of its own."""
    conversations = Conversations(lambda _: scope)
    ends = Ends(cookie=1, remote="192.0.2.1", local="10.0.0.5", remote_port=port, local_port=40000, protocol=6)
    at, events = [0, 0], []
    for inbound, data in words:
        part = {"offset": at[inbound], "inbound": inbound, "data": data, "ends": ends}
        base: dict[str, Any] = {"time": 0, "cgroup_path": "/rome.slice"}
        for event in conversations.payload(raw(**part), base):
            event.image = image
            events.append(event)
        at[inbound] += len(data)
    return events


def raw(**fields: Any) -> Payload:
    task = {"time": 0, "cpu": 0, "tgid": 0, "tid": 0, "start": 0, "uid": 0, "cgroup_id": 7, "comm": ""}
    known = {name: value for name, value in task.items() if name in Payload.__struct_fields__}
    return Payload(**{**known, **fields})


def told(events: list[AnyEvent]) -> set[str]:
    return {verdict.rule.title for event in events for verdict in matcher().match(event)}


def hello(name: str, alpn: list[str] | None = None) -> bytes:
    """A ClientHello as OpenSSL writes it."""
    context = ssl.create_default_context()
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def connect(target: str) -> Said:
    return OUT, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def socks(name: str, port: int) -> list[Said]:
    request = b"\5\1\0\3" + bytes([len(name)]) + name.encode() + port.to_bytes(2, "big")
    return [(OUT, b"\5\1\0"), (IN, b"\5\0"), (OUT, request), (IN, b"\5\0\0\1" + bytes(6))]


def get(host: str, path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


STRATUM = "Stratum spoken on a connection"
POOL, POOL_WEB = "TLS to a mining pool", "Web request to a mining pool"
INSIDE, PEER = "SSH inside another protocol", "Connection in which the other side is the client"
OTHER_PORT = "SSH to a port other than 22 outside the site"
OTHER_PROGRAM = "SSH spoken by a program that is no known client"
RENTS, BILLING = "Connection to an endpoint that rents machines", "Connection to a billing or purchasing endpoint"
ELSEWHERE, PROXY = "Metadata service asked for through another host", "SOCKS proxy outside the site"

CASES: list[tuple[list[Said], set[str]]] = [
    ([(OUT, SUBSCRIBE)], {STRATUM}),
    ([(OUT, bytes([byte])) for byte in SUBSCRIBE], {STRATUM}),
    ([(OUT, MONERO)], {STRATUM}),
    ([connect("pool.example:3333"), CONNECTED, (OUT, SUBSCRIBE)], {STRATUM}),
    ([connect("xmr.2miners.com:2222"), CONNECTED], {POOL, POOL_WEB}),
    ([*socks("xmr-eu1.nanopool.org", 14444), (OUT, MONERO)], {POOL, POOL_WEB, PROXY, STRATUM}),
    ([(OUT, hello("gulf.moneroocean.stream"))], {POOL}),
    ([(OUT, hello("www.nicehash.com", ["h2", "http/1.1"]))], {POOL_WEB}),
    ([(OUT, hello("pypi.org", ["h2", "http/1.1"]))], set()),
    ([(OUT, get("supportxmr.com:8080", "/api"))], {POOL_WEB}),
    ([(OUT, hello("ec2.us-east-1.amazonaws.com", ["http/1.1"]))], {RENTS}),
    ([connect("management.azure.com:443"), CONNECTED, (OUT, hello("management.azure.com"))], {RENTS}),
    ([(OUT, hello("ce.us-east-1.amazonaws.com"))], {BILLING}),
    ([(OUT, hello("billing.s3.us-east-1.amazonaws.com"))], set()),
    ([(OUT, get("metadata.google.internal", "/computeMetadata/v1/"))], {ELSEWHERE}),
    ([(OUT, get("[fd00:ec2::254]", "/latest/meta-data/"))], {ELSEWHERE}),
    ([(OUT, BANNER), (IN, BANNER)], {OTHER_PORT, OTHER_PROGRAM}),
    ([connect("out.example:22"), CONNECTED, (OUT, BANNER), (IN, BANNER)], {INSIDE, OTHER_PROGRAM}),
    ([*socks("out.example", 22), (OUT, BANNER), (IN, BANNER)], {INSIDE, OTHER_PROGRAM, PROXY}),
    ([(IN, get("localhost:8888"))], {PEER}),
    ([(IN, hello("internal.example"))], {PEER}),
    ([(IN, words) if side is OUT else (OUT, words) for side, words in socks("10.0.0.9", 22)], {PEER}),
]


@pytest.mark.parametrize(("words", "titles"), CASES)
def test_what_a_flow_says(words: list[Said], titles: set[str]) -> None:
    assert told(said(*words)) == titles


def test_ssh_to_its_port_by_its_client_is_nothing() -> None:
    assert said((OUT, BANNER), (IN, BANNER), port=22, image="/usr/bin/ssh")
    assert told(said((OUT, BANNER), (IN, BANNER), port=22, image="/usr/bin/ssh")) == set()


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("XMR-eu1.nanopool.org.", "Name of a mining pool looked up"),
        ("compute.googleapis.com.", "Name of an endpoint that rents machines looked up"),
        ("budgets.amazonaws.com.", "Name of a billing or purchasing endpoint looked up"),
        ("metadata.google.internal.", "Name of a metadata service looked up"),
        ("storage.googleapis.com.", None),
    ],
)
def test_a_dns_answer(name: str, title: str | None) -> None:
    question = dns.message.make_query(name, "A")
    answer = dns.message.make_response(question)
    answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.7"))
    conversations = Conversations(lambda _: "external")
    udp = Ends(
        cookie=1, remote="192.0.2.53", local="10.0.0.5", remote_port=53, local_port=4000, protocol=socket.IPPROTO_UDP
    )
    events = conversations.payload(raw(offset=0, inbound=True, data=answer.to_wire(), ends=udp), {"time": 0})
    assert len(events) == 1 and told(events) == ({title} if title else set())
