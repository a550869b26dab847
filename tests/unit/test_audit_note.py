"""Checkpoints are C2SP notes: what Go's note package makes is read, and what we make OpenSSL verifies."""

from __future__ import annotations

import base64
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from sensor.record.audit.note import (
    Checkpoint,
    NoteError,
    PrivateKey,
    open_checkpoint,
    parse_private_key,
    parse_public_key,
    read_checkpoint,
)

# The key pair in the documentation of golang.org/x/mod/sumdb/note.
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
# The example of https://c2sp.org/tlog-checkpoint; its key is not published.
EXAMPLE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)

KEY = PrivateKey("node1/hostbrake/0a1b2c3d", bytes(range(32)))
CHECKPOINT = Checkpoint(KEY.name, 7, sha256(b"root").digest())
NOTE = KEY.sign(CHECKPOINT)


def test_keys_of_go() -> None:
    private, public = parse_private_key(GO_PRIVATE), parse_public_key(GO_PUBLIC)
    assert private.public() == public
    assert (str(private), str(public)) == (GO_PRIVATE, GO_PUBLIC)


def test_the_example_of_the_specification() -> None:
    checkpoint = read_checkpoint(EXAMPLE.encode())
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text() == EXAMPLE.partition("\n\n")[0] + "\n"
    with pytest.raises(NoteError, match="no signature of the key"):
        open_checkpoint(EXAMPLE.encode(), [KEY.public()])


def test_the_form_by_hand() -> None:
    text, _, signature = NOTE.partition("\n\n")
    assert text.split("\n") == [KEY.name, "7", base64.b64encode(CHECKPOINT.root).decode()]
    dash, name, encoded = signature.split(" ")
    data, public = base64.b64decode(encoded), base64.b64decode(str(KEY.public()).split("+", 2)[2])
    assert (dash, name, encoded[-1], public[0]) == ("\u2014", KEY.name, "\n", 1)
    assert data[:4] == sha256(KEY.name.encode() + b"\n\x01" + public[1:]).digest()[:4]
    Ed25519PublicKey.from_public_bytes(public[1:]).verify(data[4:], (text + "\n").encode())


def test_openssl_verifies_it(tmp_path: Path) -> None:
    text, _, signature = NOTE.partition("\n\n")
    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "signature").write_bytes(base64.b64decode(signature.split(" ")[2])[4:])
    # RFC 8410 section 4: the SubjectPublicKeyInfo of an Ed25519 key
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + KEY.public().key)
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin"]
    done = subprocess.run([*verify, "-in", "text", "-sigfile", "signature"], cwd=tmp_path, capture_output=True)
    assert b"Verified Successfully" in done.stdout, done.stderr
    (tmp_path / "text").write_text(text.replace("\n7\n", "\n8\n") + "\n")
    done = subprocess.run([*verify, "-in", "text", "-sigfile", "signature"], cwd=tmp_path, capture_output=True)
    assert done.returncode != 0


@given(st.integers(0, len(NOTE.encode()) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_found(offset: int, flip: int) -> None:
    note = bytearray(NOTE.encode())
    note[offset] ^= flip
    with pytest.raises(NoteError):
        open_checkpoint(bytes(note), [KEY.public()])


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="surrogatepass")))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(NoteError):
        open_checkpoint(data, [KEY.public()])


def test_signatures_of_others_are_ignored_and_ours_must_hold() -> None:
    witness = PrivateKey("witness.example/w", bytes(32))
    theirs = witness.sign(CHECKPOINT).rpartition("\n\n")[2]
    assert open_checkpoint((NOTE + theirs).encode(), [KEY.public()]) == CHECKPOINT
    with pytest.raises(NoteError, match="no signature of the key"):
        open_checkpoint(NOTE.encode(), [witness.public()])
    forged = NOTE.replace("\n7\n", "\n8\n")
    with pytest.raises(NoteError, match="does not belong"):
        open_checkpoint(forged.encode(), [KEY.public()])
    other = PrivateKey(KEY.name, bytes(32)).sign(Checkpoint("another/trail", 7, CHECKPOINT.root))
    with pytest.raises(NoteError, match="another trail"):
        open_checkpoint(other.encode(), [PrivateKey(KEY.name, bytes(32)).public()])


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b+c", GO_PUBLIC[:-1], GO_PUBLIC.replace("c74f", "c74e"), GO_PUBLIC.replace("Peter", "Paul"), "+" * 9],
)
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(NoteError):
        parse_public_key(text)
