"""What transcripts of flows are made of.

A transcript is turns: ">" what the side that opened the flow sends, "<" what the other answers.
"""

from __future__ import annotations

import base64
import json
import random
import ssl
from typing import Any, NamedTuple

import hpack

SECRET = "hunter2-never-kept"
"""Stands wherever a transcript has a password or token; no finding may contain it."""


class Transcript(NamedTuple):
    turns: list[tuple[str, bytes]]
    says: dict[str, Any]
    """Fields of the last finding that are not at their default; empty: no finding at all."""
    transport: str = "tcp"
    port: int = 4444


def client_hello(name: str) -> bytes:
    """A real one, of this machine's OpenSSL."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


def lines(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """A client's WebSocket frame."""
    key = b"\x11\xa2\x33\x04"
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A server's."""
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + payload


def http2(*headers: tuple[str, str], flags: int = 4, before: bytes = b"") -> bytes:
    block = before + hpack.Encoder().encode(list(headers))
    settings = b"\0\0\6\4\0\0\0\0\0" + b"\0\4\0\x10\0\0"
    window = b"\0\0\4\x08\0\0\0\0\0" + b"\0\x0f\0\1"
    start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + window
    return start + len(block).to_bytes(3, "big") + bytes([1, flags]) + b"\0\0\0\1" + block


def dns(name: bytes, kind: int = 1, extra: bytes = b"", additional: int = 0) -> bytes:
    header = b"\xab\xcd\1\0\0\1\0\0\0\0" + additional.to_bytes(2, "big")
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b".") if label)
    return header + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1" + extra


UPGRADE = (
    b"GET /ws?key=x HTTP/1.1\r\nHost: relay.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
UPGRADE_SAYS = {"http_method": "GET", "http_host": "relay.example.com", "http_path": "/ws", "http_upgrade": "websocket"}
OPENSSH, DROPBEAR = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", b"SSH-2.0-dropbear_2022.83\r\n"


def post(body: bytes, *headers: bytes) -> bytes:
    size = b"Content-Length: %d" % len(body)
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: pool.example:8332", *(headers or [size])])
    return head + b"\r\nAuthorization: Basic " + base64.b64encode(SECRET.encode()) + b"\r\n\r\n" + body


POSTED = {"carried_by": "http", "http_method": "POST", "http_host": "pool.example", "http_path": "/"}
