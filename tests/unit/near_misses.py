"""Flows that look like a protocol that is recognised, and are none: nothing may be said of them."""

from __future__ import annotations

from typing import Any

from flow_builders import Transcript, dns, lines, noise


def nothing(*turns: tuple[str, bytes], transport: str = "tcp", port: int = 4444) -> Transcript:
    return Transcript(list(turns), {}, transport, port)


def rpc(method: str, params: Any, **more: Any) -> bytes:
    return lines({"jsonrpc": "2.0", "id": 1, "method": method, "params": params, **more})


NEAR: dict[str, Transcript] = {
    "ethereum node": nothing((">", rpc("eth_blockNumber", []) + rpc("eth_subscribe", ["newHeads"]))),
    "mcp": nothing(
        (">", rpc("initialize", {"clientInfo": {"name": "x"}})), ("<", lines({"id": 1, "result": {"tools": {}}}))
    ),
    "lsp": nothing((">", b"Content-Length: 50\r\n\r\n" + rpc("mining.subscribe", []))),
    "electrum": nothing(
        (">", rpc("server.version", ["electrum", "1.4"])), ("<", lines({"id": 1, "result": ["E", "1.4"]}))
    ),
    "a login of another kind": nothing((">", rpc("login", {"login": "bob", "pass": "x"}))),
    "another login": nothing((">", rpc("login", {"username": "bob", "password": "x", "agent": "a"}))),
    "a job of another kind": nothing(("<", rpc("job", {"job_id": 7, "target": "linux"}))),
    "a submit of another kind": nothing((">", rpc("submit", {"job_id": 7, "result": "ok"}))),
    "keepalived's own": nothing((">", rpc("keepalived", {"id": 1, "state": "MASTER"}))),
    "a log that speaks of mining": nothing((">", lines({"text": '{"method": "mining.subscribe"}', "id": 1}))),
    "a record of calls": nothing((">", lines({"entries": [{"id": 1, "method": "mining.subscribe", "params": []}]}))),
    "a text mining service": nothing((">", rpc("mining.extract", ["text"]) + rpc("text.mining.submit", []))),
    "the word alone": nothing((">", b'"mining.subscribe"\n')),
    "a method without a call": nothing((">", b'{"method":"mining.subscribe"}\n')),
    "a result with strings": nothing(("<", lines({"id": 1, "result": [["a", "b"], "mining.notify"]}))),
    "json lines": nothing((">", lines({"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.4}))),
    "deep json": nothing((">", b"[" * 5000)),
    "deep json of another kind": nothing((">", b'{"a":' * 5000)),
    "huge number": nothing((">", b'{"a":' + b"1" * 4000 + b"}")),
    "redis": nothing((">", b"*1\r\n$4\r\nPING\r\n"), ("<", b"+PONG\r\n")),
    "redis inline": nothing((">", b"SET SSH-2.0-x 1\r\n"), ("<", b"+OK\r\n")),
    "memcached": nothing((">", b"get key\r\n"), ("<", b"END\r\n")),
    "postgresql": nothing((">", b"\0\0\0\x08\x04\xd2\x16\x2f"), ("<", b"N"), (">", b"\0\0\0\x29\0\3\0\0user\0bob\0\0")),
    "mysql": nothing(("<", b"\x4a\0\0\0\x0a8.0.36\0" + noise(6, 60)), (">", b"\x54\0\0\1" + noise(7, 84))),
    "smtp": nothing(("<", b"220 mx.example.com ESMTP\r\n"), (">", b"EHLO me\r\n"), ("<", b"250 OK\r\n")),
    "a mail about ssh": nothing((">", b"EHLO me\r\nDATA\r\nSSH-2.0-OpenSSH_9.2\r\n")),
    "ftp": nothing(("<", b"220 ready\r\n"), (">", b"USER anonymous\r\n")),
    "irc": nothing((">", b"NICK bob\r\nUSER bob 0 * :bob\r\n")),
    "nats": nothing(("<", b'INFO {"server_id":"x"}\r\n'), (">", b'CONNECT {"verbose":false}\r\nPING\r\n')),
    "rtsp": nothing((">", b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n")),
    "sip": nothing((">", b"INVITE sip:bob@b SIP/2.0\r\nVia: x\r\n\r\n")),
    "icap": nothing((">", b"REQMOD icap://a/b ICAP/1.0\r\nHost: a\r\n\r\n")),
    "http 0.9": nothing((">", b"GET /\r\n")),
    "a story of http": nothing((">", b"GET is a method of HTTP/1.1, they say\r\n")),
    "ssh in name only": nothing((">", b"SSH-agent forwarding\r\n")),
    "a preface in name only": nothing((">", b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n")),
    "kafka": nothing((">", b"\0\0\0\x25\0\x12\0\3\0\0\0\1\0\x10rdkafka" + bytes(18))),
    "mqtt": nothing((">", b"\x10\x10\0\4MQTT\4\2\0\x3c\0\4test")),
    "amqp": nothing((">", b"AMQP\0\0\x09\1")),
    "zeromq": nothing((">", b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(48))),
    "nccl bootstrap": nothing(
        (">", b"\2\0\0\0\x02\0\xd9\xb3\x0a\0\0\1" + bytes(116)), ("<", b"\0\0\0\0\1\0\0\0" + bytes(120))
    ),
    "c10d store": nothing((">", b"\x09\xce\xf7\x85\x3c" + b"\0\x05\0\0\0\0\0\0\0init/"), ("<", b"\1\0\0\0\0\0\0\0")),
    "protobuf": nothing((">", b"\x0a\x10" + noise(8, 16) + b"\x12\x05hello")),
    "dce rpc": nothing((">", b"\5\0\x0b\3\x10\0\0\0\x48\0\0\0\1\0\0\0\xb8\x10\xb8\x10" + bytes(52))),
    "little-endian fives": nothing((">", b"\5\0\0\0\1\0\0\0\3\0\0\0"), ("<", b"\5\0\0\0")),
    "little-endian fours": nothing((">", b"\4\1\0\0\0\0\0\1\0\0\0\0"), ("<", b"\4\0\0\0")),
    "fours and an address": nothing((">", b"\4\1\0\x50\x5d\xb8\xd8\x22me\0"), ("<", b"\4\1\0\x50")),
    "fours and zeros": nothing((">", b"\4\1\0\x50\0\0\0\1\0A\0\0\0")),
    "rdp": nothing((">", b"\3\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0")),
    "zeros": nothing((">", bytes(4096)), ("<", bytes(4096))),
    "bitcoin": nothing((">", b"\xf9\xbe\xb4\xd9version\0\0\0\0\0\x55\0\0\0" + noise(9, 89))),
    "bitcoin v2": nothing((">", noise(20, 64 + 700)), ("<", noise(21, 64 + 1200)), (">", noise(22, 200))),
    "64 random bytes": nothing((">", noise(23, 64)), ("<", noise(24, 100)), (">", noise(25, 100))),
    "234 more without a third turn": nothing((">", noise(23, 64)), ("<", noise(24, 234))),
    "64 and 234 and 20": nothing(
        (">", noise(23, 64)), ("<", noise(24, 234)), (">", noise(25, 20)), ("<", noise(26, 20))
    ),
    "64 and 234 and 500 and 20": nothing((">", noise(23, 64)), ("<", noise(24, 235)), (">", noise(25, 500))),
    "64 and 234 bytes that are not random": nothing(
        (">", bytes(range(8)) * 8), ("<", noise(24, 234)), (">", noise(25, 99))
    ),
    "64 and 234 bytes of text": nothing((">", b"q" * 64), ("<", b"answer" * 39), (">", b"more" * 30)),
    "32 and 170 bytes off the curve": nothing((">", b"\xff" * 32), ("<", noise(2, 170)), (">", noise(3, 99))),
    "a dns answer": nothing((">", b"\xab\xcd\x81\x80" + dns(b"example.com")[4:]), transport="udp"),
    "dns of two questions": nothing(
        (">", dns(b"a.b")[:5] + b"\2" + dns(b"a.b")[6:] + dns(b"a.b")[12:]), transport="udp"
    ),
    "dns cut off": nothing((">", dns(b"example.com")[:-3]), transport="udp"),
    "dns with something after it elsewhere": nothing((">", dns(b"example.com") + b"xx"), transport="udp"),
    "dns with a loop": nothing((">", dns(b"")[:12] + b"\xc0\x0c\0\1\0\1"), transport="udp", port=53),
    "netbios": nothing((">", dns(b"CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 32)), transport="udp", port=137),
    "stun": nothing((">", b"\0\1\0\0\x21\x12\xa4\x42" + noise(1, 12)), transport="udp"),
    "ntp": nothing((">", b"\x23" + bytes(47)), transport="udp"),
    "148 bytes that are not random": nothing((">", b"\1\0\0\0" + bytes(144)), transport="udp"),
    "148 random bytes": nothing((">", noise(30, 148)), transport="udp"),
    "147 bytes": nothing((">", b"\1\0\0\0" + noise(31, 143)), transport="udp"),
    "rtp": nothing((">", b"\x80\x60" + noise(32, 170)), ("<", b"\x80\x60" + noise(33, 170)), transport="udp"),
    "empty datagram": nothing((">", b""), ("<", b""), transport="udp"),
}
