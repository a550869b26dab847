"""ClientHellos: real ones, every shape and split of made ones, hostile ones."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading

import hellos
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.protocols.tls import MAX_BYTES, NEED_MORE, ClientHello, client_hello

CHROME = hellos.records(hellos.chrome())


def seen(data: bytes, **options: bool) -> ClientHello:
    answer = client_hello(data, **options)
    assert isinstance(answer, ClientHello), answer
    return answer


def plain(*extensions: tuple[int, bytes]) -> ClientHello:
    return seen(hellos.records(hellos.message(extensions)))


def test_openssl_says_all_that_it_was_told_to() -> None:
    hello = seen(hellos.openssl("xmr.pool.example", ["h2", "http/1.1"]))
    assert hello.server_name == "xmr.pool.example"
    assert hello.alpn == (b"h2", b"http/1.1")
    assert 0x0304 in hello.supported_versions
    assert {0, 10, 13, 16, 43, 51} <= set(hello.extensions)
    assert 0x1301 in hello.cipher_suites and 0x0403 in hello.signature_algorithms
    assert not hello.ech and not hello.truncated


def test_openssl_without_a_name_and_with_tls_1_2_only() -> None:
    hello = seen(hellos.openssl(None, tls12=True))
    assert hello.server_name is None
    assert hello.supported_versions == () and hello.legacy_version == 0x0303
    assert hello.alpn == ()


def first_words(command: list[str]) -> bytes:
    """What a program sends to a listener on loopback that never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    data = b""

    def listen() -> None:
        nonlocal data
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(20)
            while client_hello(data) is NEED_MORE and (more := peer.recv(65536)):
                data += more

    port = str(listener.getsockname()[1])
    with listener:
        thread = threading.Thread(target=listen)
        thread.start()
        program = subprocess.Popen(
            [part.replace("PORT", port) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        thread.join()
        program.kill()
        program.wait()
    return data


@pytest.mark.parametrize(
    ("command", "protocol"),
    [
        (
            ["curl", "-s", "--noproxy", "*", "--resolve", "bill.example:PORT:127.0.0.1", "https://bill.example:PORT/"],
            b"h2",
        ),
        (["openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", "bill.example", "-alpn", "h2"], b"h2"),
    ],
)
def test_programs_on_loopback(command: list[str], protocol: bytes) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    hello = seen(first_words(command))
    assert hello.server_name == "bill.example"
    assert hello.alpn[0] == protocol


def test_a_browsers_hello() -> None:
    hello = seen(CHROME)
    assert hello.server_name == "pool.example"
    assert hello.cipher_suites[0] == hello.extensions[0] == hello.supported_versions[0] == hellos.GREASE
    assert hello.ech
    assert not seen(hellos.openssl()).ech


def test_ech_is_told_by_its_presence_alone() -> None:
    """A real ECH under a provider's name and a GREASE one have the same form: no difference may be claimed."""
    real = plain(hellos.server_name(b"cloudflare-ech.com"), hellos.ech(239))
    grease = plain(hellos.server_name(b"pool.example"), hellos.ech(239))
    assert real.ech and grease.ech
    assert (real.server_name, grease.server_name) == ("cloudflare-ech.com", "pool.example")
    assert plain((0xFE0D, b"")).ech, "malformed is present"


def test_the_largest_hellos_in_use_fit_the_bound() -> None:
    firefox = hellos.message(
        [
            hellos.server_name(b"pool.example"),
            hellos.key_shares(mlkem1024=1665, mlkem768=1216, x25519=32, p256=65),
            hellos.ech(512),
            (0x29, bytes(4096)),
        ],
        session=b"s" * 32,
    )
    assert len(hellos.records(firefox)) <= MAX_BYTES
    assert seen(hellos.records(firefox)).server_name == "pool.example"


@pytest.mark.parametrize("data", [CHROME, hellos.openssl(), hellos.records(hellos.chrome(), 1, 3, 0, 700)])
def test_every_prefix_waits_and_every_tail_is_ignored(data: bytes) -> None:
    whole = seen(data)
    for size in range(len(data)):
        assert client_hello(data[:size]) is NEED_MORE
    for tail in (b"\0", b"\x14\x03\x03\0\1\1", b"GET / HTTP/1.1", bytes(20_000)):
        assert client_hello(data + tail) == whole


@settings(deadline=None)
@given(st.lists(st.integers(0, 600), max_size=40))
def test_every_split_into_records_gives_the_same(sizes: list[int]) -> None:
    assert client_hello(hellos.records(hellos.chrome(), *sizes)) == client_hello(CHROME)


def test_one_byte_a_record() -> None:
    message = hellos.message([hellos.server_name(b"pool.example")])
    assert seen(hellos.records(message, *[1] * len(message))).server_name == "pool.example"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b'{"id":1,"method":"mining.subscribe"}\n',
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80",  # SSL 2.0
        b"\x15\x03\x01\x00\x02\x02\x28",  # an alert
        b"\x16\x02\x00",
        b"\x16\x03\x01\x40\x01",  # a record of more than 16 KiB
        b"\x16\x03\x03\x00\x04\x02",  # a ServerHello
        b"\x16\x03\x03\x00\x2d\x01\x00\x00\x28",  # shorter than a hello can be
        b"\x16\x03\x03\x00\x2d\x01\x03\x00\x00",  # longer
        b"\x16\x03\x03\x00\x2d\x01\x00\x00\x29\x7f",  # version 127
        b"\x16\x03\x01\x00\x02\x01\x00\x17\x03\x03",  # another record inside
        b"\x16\xfe\xfd\x00\x00\x00\x00",  # DTLS
    ],
)
def test_what_is_no_hello(data: bytes) -> None:
    assert client_hello(data) is None
    assert client_hello(data, final=True) is None


FIXED = b"\3\3" + b"r" * 32


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        (FIXED + b"\0" + b"\0\2ab" + b"\1\0", True),  # without extensions
        (FIXED + b"\0" + b"\0\2ab" + b"\1\0" + b"\0\0", True),
        (FIXED + b"\0" + b"\0\0" + b"\1\0" + b"\0\0", False),  # no cipher suite
        (FIXED + b"\0" + b"\0\3abc" + b"\1\0", False),  # half a cipher suite
        (FIXED + b"\0" + b"\0\2ab" + b"\0" + b"\0\0", False),  # no compression method
        (FIXED + hellos.vector(b"s" * 32, 1) + b"\0\2ab" + b"\1\0", True),
        (FIXED + hellos.vector(b"s" * 33, 1) + b"\0\2ab" + b"\1\0", False),
        (FIXED + b"\0" + b"\0\2ab" + b"\1\0" + b"\0", False),
        (FIXED + b"\0" + b"\0\2ab" + b"\1\0" + b"\0\0" + b"\0", False),  # more after the end
        (FIXED + b"\0" + b"\0\2ab" + b"\1\0" + b"\0\4\0\5\0\0", True),
        (FIXED + b"\0" + b"\0\2ab" + b"\1\0" + b"\0\4\0\5\0\1", False),  # an extension that is cut
        (FIXED + b"\0" + b"\0\2ab" + b"\1\0" + b"\0\3\0\5\0", False),
        (FIXED + b"\0" + b"\xff\xffab" + b"\1\0", False),
        (FIXED + b"\xff" + b"\0\2ab" + b"\1\0", False),
    ],
)
def test_whole_hellos_are_taken_as_servers_take_them(body: bytes, taken: bool) -> None:
    answer = client_hello(hellos.records(b"\1" + hellos.vector(body, 3)))
    assert isinstance(answer, ClientHello) if taken else answer is None


def test_empty_and_malformed_lists_leave_the_rest() -> None:
    hello = plain((0, b""), (16, b"\0\0"), (43, b"\0"), (13, b"\0\0"), hellos.ech())
    assert (hello.server_name, hello.alpn, hello.supported_versions, hello.signature_algorithms) == (None, (), (), ())
    hello = plain((0, b"\0\4\0\0\x09a"), (16, b"\0\3\5h2"), (43, b"\3\3\4\3"), (13, b"\0\xff\4"), (16, b""))
    assert (hello.server_name, hello.alpn, hello.supported_versions, hello.signature_algorithms) == (None, (), (), ())
    assert hello.extensions == (0, 16, 43, 13, 16)
    assert seen(hellos.records(hellos.message(None))).extensions == ()


def test_the_first_of_two_extensions_is_read() -> None:
    hello = plain(hellos.server_name(b"first.example"), hellos.server_name(b"second.example"), hellos.alpn(b""))
    assert hello.server_name == "first.example"
    assert hello.extensions == (0, 0, 16)
    assert hello.alpn == (b"",)


def test_another_kind_of_name_before_the_host_name() -> None:
    names = b"\x07" + hellos.vector(b"other", 2) + b"\0" + hellos.vector(b"pool.example", 2)
    assert plain((0, hellos.vector(names, 2))).server_name == "pool.example"


def test_hostile_names() -> None:
    assert plain(hellos.server_name(b"a\n\0\xff\xc3\xa9")).server_name == "a\n\0\\xff\\xc3\\xa9"
    assert plain(hellos.server_name(b"a" * 300)).server_name == "a" * 255


def test_a_hello_beyond_the_bound_is_recognised_but_not_whole() -> None:
    early, late = hellos.server_name(b"early.example"), hellos.server_name(b"late.example")
    padding = (0x15, bytes(MAX_BYTES))
    message = hellos.message([hellos.alpn(b"h2"), early, padding, late])
    hello = seen(hellos.records(message))
    assert hello.truncated and hello.server_name == "early.example" and hello.alpn == (b"h2",)
    hidden = seen(hellos.records(hellos.message([padding, late, (0x15, bytes(20_000))])))
    assert hidden.truncated and hidden.server_name is None


def test_final_gives_what_there_is() -> None:
    for size in range(len(CHROME)):
        answer = client_hello(CHROME[:size], final=True)
        if size < 11:
            assert answer is None
        else:
            assert isinstance(answer, ClientHello) and answer.truncated
            whole = seen(CHROME)
            assert answer.cipher_suites == whole.cipher_suites[: len(answer.cipher_suites)]
            assert answer.extensions == whole.extensions[: len(answer.extensions)]
            assert answer.server_name in {None, "pool.example"}
    assert client_hello(CHROME, final=True) == client_hello(CHROME)


@settings(deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes(data: bytes, final: bool) -> None:
    for start in (b"", b"\x16\x03\x01", b"\x16\x03\x01" + hellos.vector(b"\1" + hellos.vector(data, 3), 2)):
        answer = client_hello(start + data, final=final)
        assert answer is None or answer is NEED_MORE or isinstance(answer, ClientHello)
        assert not (final and answer is NEED_MORE)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(CHROME) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(CHROME)),
    st.booleans(),
)
def test_mutations(changes: list[tuple[int, int]], size: int, final: bool) -> None:
    data = bytearray(CHROME)
    for at, value in changes:
        data[at] = value
    whole = client_hello(bytes(data))
    assert whole is None or whole is NEED_MORE or isinstance(whole, ClientHello)
    answer = client_hello(bytes(data[:size]), final=final)
    if answer is None and not final:
        assert whole is None, "more bytes do not make TLS of what is none"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=60)), max_size=12))
def test_any_extensions_come_back_in_order(extensions: list[tuple[int, bytes]]) -> None:
    hello = plain(*extensions)
    assert hello.extensions == tuple(kind for kind, _ in extensions)
