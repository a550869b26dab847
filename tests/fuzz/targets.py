"""What hostile bytes reach, each as a function of bytes that raises where something is wrong, and seeds for it.

Input of several parts is written as: one byte of options, then for each part two bytes (the highest bit: the other side
sent it; the rest: its length) and its bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hellos
import orjson
from near_misses import NEAR
from quic_vectors import RFC_9001, RFC_9001_RETRY, RFC_9369, RFC_9369_SERVER
from test_decode import cgroup_record, connect_record, device_record, exec_record
from test_protocols_hostile import feed, says_the_same_in_parts
from test_protocols_quic import crypto, packet
from transcripts import KNOWN

from sensor import wire
from sensor.context.conversations import Conversations
from sensor.context.names import Parser
from sensor.decode import DecodeError, Ends, FlowTotals, Payload, decode
from sensor.events import to_record
from sensor.protocols.ja4 import ja4
from sensor.protocols.quic import QuicInitial, initial
from sensor.protocols.tls import ClientHello, client_hello, handshake

_UDP, _DNS_PORT, _ENCRYPT = 1, 2, 4
_RECORDS = 128
_dns = Parser()


class Target(NamedTuple):
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def parts(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """(whether the other side sent it, bytes)."""
    at = 1
    while at + 2 < len(data):
        head = int.from_bytes(data[at : at + 2], "big")
        end = at + 2 + (head & 0x7FFF)
        yield head >= 0x8000, data[at + 2 : end]
        at = end


def joined(options: int, told: list[tuple[bool, bytes]]) -> bytes:
    return bytes([options]) + b"".join(
        (theirs << 15 | len(data[:0x7FFF])).to_bytes(2, "big") + data[:0x7FFF] for theirs, data in told
    )


def flow(data: bytes) -> None:
    """Findings can be written, and however a stream is split, it says the same."""
    if not data:
        return
    told = [("<" if theirs else ">", part) for theirs, part in parts(data)]
    if data[0] & _UDP:
        feed("udp", told)
    else:
        says_the_same_in_parts(told, random.Random(data[0]))


def transcripts() -> list[bytes]:
    return [
        joined((_UDP if known.transport == "udp" else 0) | options, [(way == "<", part) for way, part in known.turns])
        for known in (*KNOWN.values(), *NEAR.values())
        for options in (0, _DNS_PORT)
    ]


def tls(data: bytes) -> None:
    """What a part of a hello says is not taken back by the whole, and every whole one has a fingerprint."""
    for read in (client_hello, handshake):
        for final in (False, True):
            hello = read(data, final=final)
            if isinstance(hello, ClientHello):
                fingerprint = ja4(hello)
                assert hello.truncated == (fingerprint is None)
                orjson.dumps([hello.server_name, fingerprint])
        if read(data) is None:
            assert read(data + b"\0") is None


def tls_seeds() -> list[bytes]:
    made = [hellos.message(), hellos.chrome(), hellos.chrome(session_ticket=200)]
    return [hellos.openssl(), hellos.openssl(protocols=["h2"]), *made, *map(hellos.records, made)]


def quic(data: bytes) -> None:
    """Datagrams as they are, or as the frames of packets that decrypt."""
    told = [part for _, part in parts(data)][:5]
    if data[:1] and data[0] & _ENCRYPT:
        told = [packet(part[:1400], number=at) for at, part in enumerate(told)]
    for final in (False, True):
        answer = initial(*told, final=final)
        if isinstance(answer, QuicInitial) and answer.hello:
            orjson.dumps([answer.hello.server_name, ja4(answer.hello, "q")])


def quic_seeds() -> list[bytes]:
    hello = hellos.chrome()
    frames = [crypto(0, hello[:1000]), b"\1\0\2\0\0\0\0" + crypto(1000, hello[1000:])]
    whole = [(False, part) for part in (RFC_9001, RFC_9369, RFC_9001_RETRY, RFC_9369_SERVER)]
    encrypted = [[(False, hello[:0]), (False, frames[0])], [(False, frame) for frame in frames]]
    return [*(joined(0, [one]) for one in whole), *(joined(_ENCRYPT, told) for told in encrypted)]


def dns(data: bytes) -> None:
    """An answer is bounded and can be written."""
    answer = _dns.parse(data)
    if answer is not None:
        assert len(answer.results) <= _RECORDS and len(answer.addresses) <= _RECORDS
        orjson.dumps([answer.name, answer.type, answer.results, answer.addresses])


def dns_seeds() -> list[bytes]:
    import dns.message
    import dns.rrset

    question = dns.message.make_query("www.front.test", "HTTPS")
    answer = dns.message.make_response(question)
    for kind, text in (
        ("CNAME", "host.test."),
        ("A", "198.51.100.7"),
        ("AAAA", "2001:db8::7"),
        ("HTTPS", '1 . alpn="h2" ipv4hint=198.51.100.7 ipv6hint=2001:db8::7'),
        ("SVCB", "0 other.test."),
        ("TXT", '"a" "b"'),
        ("MX", "10 mail.test."),
        ("NAPTR", '1 2 "u" "sip" "!a!b!" .'),
        ("SOA", "a. b. 1 2 3 4 5"),
        ("SRV", "0 0 443 host.test."),
        ("LOC", "51 30 12.748 N 0 7 39.611 W 0.00m 0.00m 0.00m 0.00m"),
    ):
        answer.answer.append(dns.rrset.from_text("www.front.test.", 60, "IN", kind, text))
    return [
        question.to_wire(),
        answer.to_wire(),
        b"\0\7\x81\x80\0\1\0\1\0\0\0\0\xc0\x0c\0\1\0\1\xc0\x0c\0\5\0\1" + bytes(9),
    ]


def record(data: bytes) -> None:
    """A ring record is an event or a DecodeError."""
    try:
        decode(data)
    except DecodeError:
        return


def record_seeds() -> list[bytes]:
    ends = (7, bytes([198, 51, 100, 7]).ljust(16, b"\0"), bytes(16), 443, 5000, 2, 6)
    head = (1000, 900, 77, 4242, 1000)
    said = wire.PAYLOAD_EVENT.pack(*head, wire.PAYLOAD, 0, 0, *ends, 0, 5, 0) + b"hello"
    total = wire.FLOW_EVENT.pack(*head, wire.FLOW, 0, 0, *ends, 1, 2, 3, 4, 5, 1, 1)
    made = [
        exec_record(),
        connect_record(2, b"\xc6\x33\x64\7"),
        connect_record(10, bytes(15) + b"\1"),
        device_record(3),
    ]
    return [*made, *(cgroup_record(kind) for kind in (5, 6, 7)), said, total]


def conversation(data: bytes) -> None:
    """Parts of flows in any order, to DNS servers too, make events that can be written."""
    if not data:
        return
    conversations = Conversations(lambda _: "external")
    conversations.dns = _dns
    chance = random.Random(data[0])
    port, protocol = (53 if data[0] & _DNS_PORT else 443), (17 if data[0] & _UDP else 6)
    ends = Ends(1, "198.51.100.7", "198.51.100.1", port, 40000, protocol)
    offsets = [0, 0]
    told = []
    for theirs, part in parts(data):
        told.append(Payload(1, 2, 3, 4, 5, ends, offsets[theirs], theirs, part))
        offsets[theirs] += len(part)
    if data[0] & 8:
        chance.shuffle(told)
    for raw in told:
        for event in conversations.payload(raw, {"time": raw.time}):
            orjson.dumps(to_record(event))
    ended = FlowTotals(1, 2, 3, 4, 5, ends, 1, 2, 3, 4, 5, 1, True, False)
    for event in conversations.totals(ended, {"time": 1}):
        orjson.dumps(to_record(event))
    assert not len(conversations.flows)


def conversation_seeds() -> list[bytes]:
    answers = [joined(_UDP | _DNS_PORT, [(True, wire_form)]) for wire_form in dns_seeds()]
    framed = b"".join(len(wire_form).to_bytes(2, "big") + wire_form for wire_form in dns_seeds())
    return [*transcripts(), *answers, joined(_DNS_PORT, [(False, framed), (True, framed)])]


TARGETS = {
    "flow": Target(flow, transcripts),
    "quic": Target(quic, quic_seeds),
    "tls": Target(tls, tls_seeds),
    "dns": Target(dns, dns_seeds),
    "decode": Target(record, record_seeds),
    "conversation": Target(conversation, conversation_seeds),
}
