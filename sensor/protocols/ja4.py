"""JA4, the fingerprint of a TLS client, as FoxIO publishes it (github.com/FoxIO-LLC/ja4, technical_details/JA4.md).

`t13d1516h2_8daaf6152771_e5627efa2ab1`: transport, TLS version, whether a server name is sent, how many cipher suites
and extensions, the ALPN; then a hash of the sorted cipher suites; then a hash of the sorted extensions and of the
signature algorithms as sent. GREASE (RFC 8701) is left out everywhere. JA4 is published under the BSD 3-Clause
licence; the other methods of the JA4+ family are not, and are not here.

What it cannot tell: who the client is. It names a TLS library with its settings: programs that share one share the
fingerprint, and a program that wants to look like a browser can send a browser's hello, byte for byte.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Sequence
from typing import Literal, TypeAlias

from sensor.protocols.tls import ALPN, SERVER_NAME, SUPPORTED_VERSIONS, ClientHello

GREASE = frozenset(0x0A0A + step * 0x1010 for step in range(16))
_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}
_IN_FIRST_PART = {SERVER_NAME, ALPN}
_Numbers: TypeAlias = tuple[int, ...]


def ja4(hello: ClientHello, transport: Literal["t", "q"] = "t") -> str | None:
    """The fingerprint of a hello over TCP ("t") or QUIC ("q"); None for a truncated one: it would be another's."""
    if hello.truncated:
        return None
    suites, extensions, algorithms = hello.cipher_suites, hello.extensions, hello.signature_algorithms
    # libraries send the same lists each time; hostile ones are not to fill the cache with long ones
    parts = _parts if len(suites) + len(extensions) + len(algorithms) <= 200 else _parts.__wrapped__
    counts, hashes = parts(suites, extensions, algorithms)
    name = "d" if SERVER_NAME in extensions else "i"
    return f"{transport}{_version(hello)}{name}{counts}{_alpn(hello)}_{hashes}"


@functools.lru_cache(maxsize=256)
def _parts(suites: _Numbers, extensions: _Numbers, algorithms: _Numbers) -> tuple[str, str]:
    """The two counts, and the two hashes."""
    suites, extensions, algorithms = (_without_grease(numbers) for numbers in (suites, extensions, algorithms))
    hashed = _codes(sorted(kind for kind in extensions if kind not in _IN_FIRST_PART))
    if hashed and algorithms:
        hashed += f"_{_codes(algorithms)}"
    counts = f"{min(len(suites), 99):02}{min(len(extensions), 99):02}"
    return counts, f"{_hash(_codes(sorted(suites)))}_{_hash(hashed)}"


def _without_grease(numbers: _Numbers) -> _Numbers:
    return tuple(number for number in numbers if number not in GREASE)


def _version(hello: ClientHello) -> str:
    if SUPPORTED_VERSIONS not in hello.extensions:
        return _VERSIONS.get(hello.legacy_version, "00")
    return _VERSIONS.get(max(_without_grease(hello.supported_versions), default=0), "00")


def _alpn(hello: ClientHello) -> str:
    """The first protocol's first and last characters; of its hexadecimal form where either is no letter or digit."""
    if not hello.alpn or not hello.alpn[0]:
        return "00"
    name = hello.alpn[0]
    ends = bytes((name[0], name[-1]))
    if ends.isalnum():  # of bytes: ASCII only
        return ends.decode("ascii")
    return f"{name[0]:02x}"[0] + f"{name[-1]:02x}"[1]


def _codes(numbers: Sequence[int]) -> str:
    return struct.pack(f">{len(numbers)}H", *numbers).hex(",", 2) if numbers else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:12] if text else "000000000000"
