"""ClientHellos for the tests: real ones from OpenSSL, and made ones of any shape."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence

GREASE = 0x2A2A


def vector(content: bytes, width: int) -> bytes:
    return len(content).to_bytes(width, "big") + content


def numbers(values: Iterable[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def server_name(name: bytes) -> tuple[int, bytes]:
    return 0, vector(b"\0" + vector(name, 2), 2)


def alpn(*names: bytes) -> tuple[int, bytes]:
    return 16, vector(b"".join(vector(name, 1) for name in names), 2)


def versions(*values: int) -> tuple[int, bytes]:
    return 43, vector(numbers(values), 1)


def algorithms(*values: int) -> tuple[int, bytes]:
    return 13, vector(numbers(values), 2)


def ech(payload: int = 144) -> tuple[int, bytes]:
    """The outer form (RFC 9849 section 5): HKDF-SHA256, AES-128-GCM, a configuration id, a share, a ciphertext."""
    return 0xFE0D, b"\0" + numbers([1, 1]) + b"\x42" + vector(b"\x11" * 32, 2) + vector(b"\x22" * payload, 2)


def key_shares(**sizes: int) -> tuple[int, bytes]:
    groups = {"grease": GREASE, "mlkem768": 0x11EC, "x25519": 29, "p256": 23, "mlkem1024": 0x11ED}
    return 51, vector(b"".join(numbers([groups[name]]) + vector(b"k" * size, 2) for name, size in sizes.items()), 2)


def message(
    extensions: Sequence[tuple[int, bytes]] | None = (),
    *,
    suites: Sequence[int] = (0x1301,),
    legacy: int = 0x0303,
    session: bytes = b"",
) -> bytes:
    """A ClientHello with its handshake header; `extensions` None leaves their block out."""
    body = numbers([legacy]) + b"r" * 32 + vector(session, 1) + vector(numbers(suites), 2) + b"\x01\x00"
    if extensions is not None:
        body += vector(b"".join(numbers([kind]) + vector(content, 2) for kind, content in extensions), 2)
    return b"\x01" + vector(body, 3)


def records(data: bytes, *sizes: int) -> bytes:
    """Handshake records of these sizes, then one of the rest (and so on while it exceeds 16 KiB)."""
    made = b""
    for size in sizes:
        made += b"\x16\x03\x01" + vector(data[:size], 2)
        data = data[size:]
    while data:
        made += b"\x16\x03\x01" + vector(data[: 2**14], 2)
        data = data[2**14 :]
    return made


def openssl(name: str | None = "pool.example", protocols: Sequence[str] = (), *, tls12: bool = False) -> bytes:
    """The first flight of this machine's OpenSSL, records included; nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake with nobody ended")


def chrome(name: bytes = b"pool.example", *, session_ticket: int = 0) -> bytes:
    """As Chrome sends it: GREASE in every list, X25519MLKEM768, GREASE ECH."""
    suites = (GREASE, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014)
    extensions = [
        (GREASE, b""),
        server_name(name),
        (0x17, b""),
        (0xFF01, b"\0"),
        (10, vector(numbers([GREASE, 0x11EC, 29, 23, 24]), 2)),
        (11, b"\1\0"),
        (0x23, b""),
        alpn(b"h2", b"http/1.1"),
        (5, b"\1\0\0\0\0"),
        algorithms(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601),
        (0x12, b""),
        key_shares(grease=1, mlkem768=1216, x25519=32),
        (0x2D, b"\1\1"),
        versions(GREASE, 0x0304, 0x0303),
        (0x1B, b"\2\0\2"),
        (0x44CD, b"\0\3\2h2"),
        ech(),
        (0x3A3A, b"\0"),
    ]
    if session_ticket:
        extensions.append(
            (0x29, vector(vector(b"t" * session_ticket, 2) + bytes(4), 2) + vector(b"\x20" + b"b" * 32, 2))
        )
    return message(extensions, suites=(*suites, 0x9C, 0x9D, 0x2F, 0x35), session=b"s" * 32)
