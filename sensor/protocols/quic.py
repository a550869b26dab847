"""The ClientHello in QUIC's first datagrams: versions 1 (RFC 9000, RFC 9001) and 2 (RFC 9369).

Initial packets are encrypted with keys made from the connection id that the client chose and sends along, so whoever
sees them can read them (RFC 9001 section 5.2). That one decrypts proves that it is QUIC.

What it cannot tell, beyond what `sensor.protocols.tls` says of every hello (ECH, names that are not true):

- Anything after the Initial packets, or of a connection whose first datagrams were not seen: the packets that follow
  begin with a short header, look like random bytes and are not recognised.
- A hello of which a datagram is missing, or that is longer than `MAX_DATAGRAMS` hold: what follows the gap is missing.
- A name in what servers send, in Version Negotiation, or in versions other than 1 and 2: recognised as QUIC, no more.
- Which of two overlapping, different CRYPTO frames the server took. QUIC forbids them; the one that begins earlier in
  the stream wins here.
"""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import msgspec

from sensor.protocols.tls import MAX_BYTES, NEED_MORE, ClientHello, NeedMore, handshake

MAX_DATAGRAMS = 4
"""As many of a flow as are read. Chrome's hello with X25519MLKEM768 takes two, with a token in each packet three."""
VERSION_1, VERSION_2 = 0x00000001, 0x6B3343CF

_MAX_PACKETS = 4
"""Packets of one datagram that are read. A client sends one of each kind; the sensor may see several datagrams as one
where the program leaves it to the kernel to cut them apart (UDP_SEGMENT)."""
_MAX_FRAMES = 512
_MAX_RANGES = 32
"""Of an ACK. Before its hello is whole, a client has next to nothing to acknowledge."""
_MIN_DATAGRAM = 1200
"""Bytes to which a client fills a datagram that has an Initial packet (RFC 9000 section 14.1)."""
_MAX_ID = 20
_INITIAL, _RETRY, _UNREAD = 0, 3, -1
_NOT_IDLE: Final = re.compile(rb"[^\x00\x01]")
"""A frame other than PADDING and PING, each of which is its type alone."""

_KeyId: TypeAlias = tuple[int, bytes]
"""Version and connection id: what an Initial packet's keys are made from."""
_Frame: TypeAlias = tuple[int, bytes]
"""Offset and data of a CRYPTO frame."""
_Mask: TypeAlias = Callable[[bytes], bytes]
_Open: TypeAlias = Callable[[bytes, bytes, bytes], "bytes | None"]


class QuicInitial(msgspec.Struct, frozen=True):
    """This is QUIC."""

    version: int
    """As in the packet's header; 0 is Version Negotiation, which servers send."""
    hello: ClientHello | None
    """None where there is none to read: see the module."""


class _Header(msgspec.Struct, frozen=True):
    version: int
    key_id: bytes
    """The destination connection id."""
    kind: int
    fixed: bool
    start: int
    number_at: int
    """Where the packet number is, or in a packet that is not read, what follows the connection ids."""
    end: int
    """Beyond the datagram where that was cut."""


class _Keys(msgspec.Struct, frozen=True):
    nonce: int
    mask: _Mask
    """AES-128-ECB with the header protection key (RFC 9001 section 5.4.3)."""
    open: _Open
    """(nonce, ciphertext and tag, header) -> plain text, or None where the tag does not fit."""


def _label(name: bytes, size: int) -> bytes:
    """HkdfLabel (RFC 8446 section 7.1) and the counter of HKDF-Expand's first block, which is all that is needed."""
    return size.to_bytes(2, "big") + bytes([6 + len(name)]) + b"tls13 " + name + b"\x00\x01"


_CLIENT: Final = _label(b"client in", 32)
_VERSIONS: Final = {
    VERSION_1: (
        0,
        bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
        (_label(b"quic key", 16), _label(b"quic iv", 12), _label(b"quic hp", 16)),
    ),
    VERSION_2: (
        1,
        bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
        (_label(b"quicv2 key", 16), _label(b"quicv2 iv", 12), _label(b"quicv2 hp", 16)),
    ),
}
"""Type bits of an Initial packet (the other kinds follow in one order), salt, and labels of key, nonce and header
protection: RFC 9001 section 5, RFC 9369 section 3."""


def initial(*datagrams: bytes, final: bool = False) -> QuicInitial | NeedMore | None:
    """What the first datagrams that a client sent in one flow say, in any order; None: this is no QUIC.

    Each must be whole: a packet that was cut cannot be decrypted. With `final` (nothing more will be seen), or once
    there are `MAX_DATAGRAMS`, a hello that is not whole comes back `truncated`.
    """
    frames: dict[_KeyId, list[_Frame]] = {}
    version = None
    for datagram in datagrams[:MAX_DATAGRAMS]:
        for header in _packets(datagram):
            opened = _open(datagram, header, frames)
            if opened:
                key, payload = opened
                frames.setdefault(key, []).extend(_crypto_frames(payload))
            if version is None and (opened or _certain(datagram, header)):
                version = header.version
        if version is None:
            return None
    if version is None:
        return None if final else NEED_MORE
    final = final or len(datagrams) >= MAX_DATAGRAMS
    waiting = False
    for key, parts in frames.items():
        answer = handshake(_joined(parts), final=final)
        if isinstance(answer, ClientHello):
            return QuicInitial(key[0], answer)
        waiting |= answer is NEED_MORE
    return NEED_MORE if waiting else QuicInitial(version, None)


def _packets(datagram: bytes) -> Iterator[_Header]:
    """Headers of the coalesced packets (RFC 9000 section 12.2), up to the first that is not to be read."""
    at = 0
    key_id = None
    for _ in range(_MAX_PACKETS):
        header = _header(datagram, at)
        if header is None or key_id not in {None, header.key_id}:
            return
        yield header
        key_id, at = header.key_id, header.end


def _header(datagram: bytes, start: int) -> _Header | None:
    """The long header at `start` (RFC 8999 section 5.1, RFC 9000 section 17.2), or None."""
    size = len(datagram)
    if start + 7 > size or not datagram[start] & 0x80:
        return None
    number = int.from_bytes(datagram[start + 1 : start + 5], "big")
    source_at = start + 6 + datagram[start + 5]
    if source_at >= size:
        return None
    at = source_at + 1 + datagram[source_at]
    key_id = datagram[start + 6 : source_at]
    fixed = bool(datagram[start] & 0x40)
    if number not in _VERSIONS:
        return _Header(number, key_id, _UNREAD, fixed, start, at, size) if at <= size else None
    kind = ((datagram[start] >> 4) - _VERSIONS[number][0]) & 3
    length = size - at
    if kind == _INITIAL:
        token, at = _varint(datagram, at)
        at += token
    if kind != _RETRY:
        length, at = _varint(datagram, at)
    return _Header(number, key_id, kind, fixed, start, at, at + length) if at <= size else None


def _certain(datagram: bytes, header: _Header) -> bool:
    """Is this QUIC though it was not decrypted? It must have the number of a known version, 32 bits, in its place."""
    if header.version == 0:
        listed = datagram[header.number_at :]
        versions = {int.from_bytes(listed[at : at + 4], "big") for at in range(0, min(len(listed), 256), 4)}
        return len(listed) % 4 == 0 and any(version in _VERSIONS or _known(version) for version in versions)
    if not header.fixed or len(header.key_id) > _MAX_ID:
        return False
    return header.version in _VERSIONS or (_known(header.version) and len(datagram) >= _MIN_DATAGRAM)


def _known(version: int) -> bool:
    """Versions that are not read: reserved (RFC 9000 section 15), IETF drafts, mvfst, Google's Q046 to T051."""
    return (
        version & 0x0F0F0F0F == 0x0A0A0A0A
        or 0xFF000000 < version <= 0xFF000022
        or version >> 4 == 0xFACEB00
        or version in {0x709A50C4, 0x51303436, 0x51303530, 0x54303530, 0x54303531}
    )


def _open(datagram: bytes, header: _Header, seen: dict[_KeyId, list[_Frame]]) -> tuple[_KeyId, bytes] | None:
    """An Initial packet's payload and whose keys opened it.

    A client that has had an answer addresses its packets to the id that the server chose, but keeps the keys made from
    its own first choice; after a Retry the keys are new (RFC 9001 section 5.2).
    """
    if header.kind != _INITIAL or header.end > len(datagram) or header.end < header.number_at + 20:
        return None
    own = (header.version, header.key_id)
    for key in dict.fromkeys((own, *seen)):
        if key[0] == header.version:
            payload = _decrypt(_keys(*key), datagram, header)
            if payload is not None:
                return key, payload
    return None


def _decrypt(keys: _Keys, datagram: bytes, header: _Header) -> bytes | None:
    """Header protection off (RFC 9001 section 5.4), then AEAD (section 5.3).

    The packet number is taken as sent: so early in a connection none is so high that its head would be left out.
    """
    at = header.number_at
    mask = keys.mask(datagram[at + 4 : at + 20])
    first = datagram[header.start] ^ (mask[0] & 0x0F)
    size = (first & 3) + 1
    number = int.from_bytes(datagram[at : at + size], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
    head = bytes((first,)) + datagram[header.start + 1 : at] + number.to_bytes(size, "big")
    return keys.open((keys.nonce ^ number).to_bytes(12, "big"), datagram[at + size : header.end], head)


@functools.cache
def _ciphers() -> tuple[Callable[[bytes], _Mask], Callable[[bytes], _Open]]:
    """Makers of a mask and of an opener, from their keys."""
    # 7 MB and 30 ms that a node without QUIC need not pay; and an import that is met again is still 1 µs each time
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    ecb = modes.ECB()

    def mask(key: bytes) -> _Mask:
        return Cipher(algorithms.AES128(key), ecb).encryptor().update

    def opener(key: bytes) -> _Open:
        decrypt = AESGCM(key).decrypt

        def opened(nonce: bytes, ciphertext: bytes, header: bytes) -> bytes | None:
            try:
                return decrypt(nonce, ciphertext, header)
            except InvalidTag:
                return None

        return opened

    return mask, opener


@functools.lru_cache(maxsize=64)
def _keys(version: int, key_id: bytes) -> _Keys:
    mask, opener = _ciphers()
    digest = hmac.digest
    _, salt, (key, nonce, protection) = _VERSIONS[version]
    secret = digest(digest(salt, key_id, "sha256"), _CLIENT, "sha256")
    return _Keys(
        int.from_bytes(digest(secret, nonce, "sha256")[:12], "big"),
        mask(digest(secret, protection, "sha256")[:16]),
        opener(digest(secret, key, "sha256")[:16]),
    )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at `at` (RFC 9000 section 16) and where it ends: beyond `data` where that is cut."""
    if at >= len(data):
        return 0, at + 1
    end = at + (1 << (data[at] >> 6))
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1), end


def _crypto_frames(payload: bytes) -> Iterator[_Frame]:
    """The CRYPTO frames of an Initial packet (RFC 9000 sections 12.4 and 19), as far as `MAX_BYTES` into their stream.

    ACK is skipped; CONNECTION_CLOSE, what may not be there and what is cut end the packet.
    """
    at, size = 0, len(payload)
    for _ in range(_MAX_FRAMES):
        frame = _NOT_IDLE.search(payload, at)
        if frame is None:
            return
        kind, at = payload[frame.start()], frame.end()
        if kind in {2, 3}:
            at = _past_ack(payload, at, counts=kind == 3)
        elif kind == 6:
            offset, at = _varint(payload, at)
            length, start = _varint(payload, at)
            at = start + length
            if at > size:
                return
            if offset < MAX_BYTES:
                yield offset, payload[start : min(at, start + MAX_BYTES - offset)]
        else:
            return


def _past_ack(payload: bytes, at: int, *, counts: bool) -> int:
    """Where the ACK frame (RFC 9000 section 19.3) whose fields begin at `at` ends."""
    _, at = _varint(payload, at)
    _, at = _varint(payload, at)
    ranges, at = _varint(payload, at)
    if ranges > _MAX_RANGES:
        return len(payload)
    for _ in range(1 + 2 * ranges + (3 if counts else 0)):
        _, at = _varint(payload, at)
    return at


def _joined(frames: list[_Frame]) -> bytes:
    """The CRYPTO stream up to its first gap, whatever the order in which its parts came."""
    stream = b""
    for offset, data in sorted(frames):
        if offset > len(stream):
            break
        stream += data[len(stream) - offset :]
    return stream
