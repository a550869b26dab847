"""The TLS ClientHello in the first bytes that a client sends (RFC 8446 sections 4.1.2 and 5.1, RFC 5246 section 7.4).

What it cannot tell:

- **The true name behind ECH** (RFC 9849). The extension's presence is seen, the name inside is encrypted: what stands
  in the clear is then the public name of the hosting provider. Browsers also send the extension filled with random
  bytes (GREASE ECH), made so that nobody on the way can tell it from a real one; then the clear name is the true one.
  So `ech` means only that the name may stand for another. The answer of the DNS (HTTPS records with an ECH
  configuration) may tell more, these bytes do not.
- **That the name is true.** A client writes there what it likes, or nothing; only the server's certificate, which
  TLS 1.3 encrypts, binds it. A tunnel of one's own at both ends can carry any name.
- **What runs inside**, beyond the protocols (ALPN) that the client says it would speak.
- **Anything of a connection that is under way**, of TLS inside another protocol (STARTTLS, a proxy's CONNECT) before
  that protocol has been stripped, of DTLS, or of SSL 2.0 hellos, which no current server answers.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

MAX_BYTES = 8192
"""As much of a stream, record headers included, as is read to find a whole hello.

Measured: 0.5 KiB for OpenSSL and Go before post-quantum key exchange, 1.8 KiB for Chrome with X25519MLKEM768, 2.4 KiB
for Firefox with three key shares, ECH and a session ticket. An ML-KEM-1024 share would add 0.4 KiB to that, and tickets
that hold a client's certificates (Go, OpenSSL) 2 to 4 KiB.
"""
MAX_NAME = 255
"""Bytes of a server name that are kept; a DNS name has no more, and OpenSSL refuses more."""

SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS, ENCRYPTED_CLIENT_HELLO = 0, 13, 16, 43, 0xFE0D

_MAX_RECORD = 2**14
_MIN_HELLO = 41
"""Version, random, no session id, one cipher suite, one compression method."""
_MAX_HELLO = 2 + 32 + 33 + 2 + 65534 + 256 + 2 + 65535
_MIN_SEEN = 2
"""The version: with the headers before it, enough to be sure that this is a hello."""
_EXTENSION: Final = struct.Struct(">HH")
_READ = frozenset((SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS))


class ClientHello(msgspec.Struct, frozen=True, kw_only=True):
    """What a client said of itself. Numbers are as sent, in that order, GREASE (RFC 8701) and repeats included."""

    legacy_version: int
    cipher_suites: tuple[int, ...]
    extensions: tuple[int, ...]
    """Types. Where one stands twice, which RFC 8446 section 4.2 forbids, the first is the one that is read."""
    server_name: str | None
    """RFC 6066 host_name, at most `MAX_NAME` bytes; what is not ASCII is escaped (\\xff). None: absent or malformed."""
    alpn: tuple[bytes, ...]
    """RFC 7301, the most wanted first; empty where not sent or malformed, and so for the next two."""
    supported_versions: tuple[int, ...]
    signature_algorithms: tuple[int, ...]
    ech: bool
    """There is an encrypted_client_hello extension, real or GREASE: see the module on what that means."""
    truncated: bool
    """Only the beginning was there: what follows the cut is missing above, and there is no fingerprint."""


class NeedMore(msgspec.Struct, frozen=True):
    """So far this is the beginning of what was looked for; the bytes that come next decide."""


NEED_MORE = NeedMore()


def client_hello(data: bytes, *, final: bool = False) -> ClientHello | NeedMore | None:
    """The hello at the beginning of a TCP stream of which `data` is what has been seen; None: this is no TLS client.

    Fragments are joined, over records and so over segments; bytes after the hello are ignored. With `final` (nothing
    more will be seen), or once `MAX_BYTES` are there, a hello that is not whole comes back `truncated`. The work is
    bounded by `MAX_BYTES` in one call, so callers bound the calls for one stream.
    """
    final = final or len(data) >= MAX_BYTES
    message = _unwrap(data[:MAX_BYTES])
    return None if message is None else handshake(message, final=final)


def handshake(message: bytes, *, final: bool = False) -> ClientHello | NeedMore | None:
    """As `client_hello`, of a stream of handshake messages without records, as QUIC has them (RFC 9001 section 4)."""
    if message[:1] not in {b"", b"\x01"}:
        return None
    size = len(message)
    if size >= 4:
        end = 4 + int.from_bytes(message[1:4], "big")
        if not _MIN_HELLO <= end - 4 <= _MAX_HELLO or message[4:5] not in {b"", b"\x03"}:
            return None
        if size >= end:
            return _hello(message[4:end], truncated=False)
    return _hello(message[4:], truncated=True) if final else NEED_MORE


def _unwrap(data: bytes) -> bytes | None:
    """The contents of the records up to the end of the first handshake message, or of `data`; None: no TLS records.

    Servers take any minor version in the first record's header, and empty records, so both pass here.
    """
    at, size = 0, len(data)
    message = b""
    while at < size:
        if data[at] != 0x16 or data[at + 1 : at + 2] not in {b"", b"\x03"}:
            return None
        length = int.from_bytes(data[at + 3 : at + 5], "big") if at + 5 <= size else 0
        if length > _MAX_RECORD:
            return None
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            break
    return message


def _vector(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    """The vector whose length of `width` bytes stands at `at`, and where it ends: beyond `data` where that is cut."""
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    return data[start:end], end


def _numbers(data: bytes) -> tuple[int, ...]:
    count = len(data) // 2
    return struct.unpack(f">{count}H", data[: 2 * count])


def _hello(body: bytes, *, truncated: bool) -> ClientHello | None:
    if len(body) < _MIN_SEEN:
        return None
    session_id, at = _vector(body, 34, 1)
    suites, at = _vector(body, at, 2)
    methods, at = _vector(body, at, 1)
    block, at = _vector(body, at, 2) if at < len(body) else (b"", at)
    types, bodies, whole = _extensions(block)
    if len(session_id) > 32 or not (truncated or (at == len(body) and suites and not len(suites) % 2 and methods)):
        return None
    if not (truncated or whole):
        return None
    return ClientHello(
        legacy_version=body[0] << 8 | body[1],
        cipher_suites=_numbers(suites),
        extensions=tuple(types),
        server_name=_server_name(bodies.get(SERVER_NAME, b"")),
        alpn=_protocols(bodies.get(ALPN, b"")),
        supported_versions=_list(bodies.get(SUPPORTED_VERSIONS, b""), 1),
        signature_algorithms=_list(bodies.get(SIGNATURE_ALGORITHMS, b""), 2),
        ech=ENCRYPTED_CLIENT_HELLO in types,
        truncated=truncated,
    )


def _extensions(block: bytes) -> tuple[list[int], dict[int, bytes], bool]:
    """Types in order, the bodies that are read, and whether the block held whole extensions and nothing else."""
    types: list[int] = []
    bodies: dict[int, bytes] = {}
    at, size = 0, len(block)
    while at + 4 <= size:
        kind, length = _EXTENSION.unpack_from(block, at)
        end = at + 4 + length
        if end > size:
            break
        types.append(kind)
        if kind in _READ and kind not in bodies:
            bodies[kind] = block[at + 4 : end]
        at = end
    return types, bodies, at == size


def _list(extension: bytes, width: int) -> tuple[int, ...]:
    """An extension that is one vector of 16-bit numbers."""
    items, end = _vector(extension, 0, width)
    return () if end != len(extension) or len(items) % 2 else _numbers(items)


def _server_name(extension: bytes) -> str | None:
    names, end = _vector(extension, 0, 2)
    if end != len(extension):
        return None
    at = 0
    while at < len(names):
        name, end = _vector(names, at + 1, 2)
        if end > len(names):
            return None
        if names[at] == 0 and name:
            return name[:MAX_NAME].decode("ascii", "backslashreplace")
        at = end
    return None


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    names, end = _vector(extension, 0, 2)
    if end != len(extension):
        return ()
    found = []
    at = 0
    while at < len(names):
        name, at = _vector(names, at, 1)
        found.append(name)
    return tuple(found) if at == len(names) else ()
