"""Signed checkpoints: C2SP signed-note and tlog-checkpoint (https://c2sp.org), with Ed25519 (RFC 8032).

`cryptography` is imported only where something is signed or verified: it costs 9 MB and 40 ms.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from sensor.record.audit.merkle import HASH_BYTES

NOTE_BYTES = 64 * 1024
_ED25519 = b"\x01"
"""The signature type identifier of signed-note."""
_PUBLIC_BYTES = 32
_ID_BYTES = 4
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")
_SIGNATURE = re.compile(r"— (\S+) (\S+)")
_NAME = re.compile(r"[^\s+]+")
_PRIVATE = "PRIVATE+KEY+"


class NoteError(Exception):
    """A checkpoint or key is malformed, or not signed by whom it should be; the message is a clause."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says: the trail `origin` had `size` records, and their tree this root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


class PublicKey(msgspec.Struct, frozen=True):
    """Whose signature counts. As text it is a vkey, NAME+ID+KEY, as Go's note package has it."""

    name: str
    key: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(_ED25519 + self.key)}"


class PrivateKey(msgspec.Struct, frozen=True):
    """Signs for `name`. As text: PRIVATE+KEY+NAME+ID+SEED, as Go's note package has it."""

    name: str
    seed: bytes

    def __str__(self) -> str:
        return f"{_PRIVATE}{self.name}+{self.public().id.hex()}+{_base64(_ED25519 + self.seed)}"

    def public(self) -> PublicKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        return PublicKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint) -> str:
        """The checkpoint as a signed note."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        text = checkpoint.text()
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return f"{text}\n— {self.name} {_base64(self.public().id + signature)}\n"


def parse_public_key(text: str) -> PublicKey:
    """A vkey; raises NoteError."""
    name, key_id, key = _key_parts(text.strip(), "public key")
    public = PublicKey(name, key)
    if public.id.hex() != key_id:
        raise NoteError("the public key's id does not belong to it")
    return public


def parse_private_key(text: str) -> PrivateKey:
    """Raises NoteError."""
    if not text.startswith(_PRIVATE):
        raise NoteError("it is no private key")
    name, key_id, seed = _key_parts(text.removeprefix(_PRIVATE).strip(), "private key")
    private = PrivateKey(name, seed)
    if private.public().id.hex() != key_id:
        raise NoteError("the private key's id does not belong to it")
    return private


def _key_parts(text: str, what: str) -> tuple[str, str, bytes]:
    # Base64 has "+" too, a key name has none.
    name, key_id, key = (*text.split("+", 2), "", "")[:3]
    data = unbase64(key)
    if not _NAME.fullmatch(name) or data is None or len(data) != 1 + _PUBLIC_BYTES or data[:1] != _ED25519:
        raise NoteError(f"it is no Ed25519 {what} of the form NAME+ID+KEY")
    return name, key_id, data[1:]


def open_checkpoint(note: bytes, keys: Iterable[PublicKey]) -> Checkpoint:
    """What the note says, once a signature of one of `keys` was verified.

    Raises NoteError. Signatures of others are ignored (signed-note: clients must), those of `keys` all have to hold.
    """
    checkpoint, text, signatures = _parse(note)
    known = {(key.name, key.id): key for key in keys}
    mine = [(known[name, data[:_ID_BYTES]], data) for name, data in signatures if (name, data[:_ID_BYTES]) in known]
    if not mine:
        raise NoteError("no signature of the key that should have signed it")
    for key, data in mine:
        if not _is_signed(key, data[_ID_BYTES:], text):
            raise NoteError("the signature does not belong to what it says")
        if key.name != checkpoint.origin:
            raise NoteError(f"it is of another trail, {checkpoint.origin!r}")
    return checkpoint


def read_checkpoint(note: bytes) -> Checkpoint:
    """What the note says, whoever signed it; raises NoteError."""
    return _parse(note)[0]


def _parse(note: bytes) -> tuple[Checkpoint, bytes, list[tuple[str, bytes]]]:
    if len(note) > NOTE_BYTES:
        raise NoteError("it is too long for a checkpoint")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteError("it is no UTF-8") from None
    head, separator, tail = whole.rpartition("\n\n")
    if not separator or not tail.endswith("\n") or any(char < " " and char != "\n" for char in whole):
        raise NoteError("it is no signed note")
    signatures = []
    for line in tail[:-1].split("\n"):
        match = _SIGNATURE.fullmatch(line)
        data = unbase64(match[2]) if match else None
        if match is None or data is None or len(data) <= _ID_BYTES:
            raise NoteError("a signature line is malformed")
        signatures.append((match[1], data))
    text = head + "\n"
    return _parse_text(text), text.encode(), signatures


def _parse_text(text: str) -> Checkpoint:
    """Without extension lines, which the trail's checkpoints never have."""
    lines = text[:-1].split("\n")
    root = unbase64(lines[2]) if len(lines) == 3 else None
    if root is None or len(root) != HASH_BYTES or not lines[0] or not _SIZE.fullmatch(lines[1]):
        raise NoteError("its text is no checkpoint: origin, size and root hash, a line each")
    return Checkpoint(lines[0], int(lines[1]), root)


def _is_signed(key: PublicKey, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature, text)
    except (InvalidSignature, ValueError):  # ValueError: the key is no point of the curve
        return False
    return True


def unbase64(text: str) -> bytes | None:
    """RFC 4648 section 4, and only the one encoding that these bytes have; None for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _base64(data) == text else None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
