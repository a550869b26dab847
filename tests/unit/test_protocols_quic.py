"""QUIC Initial packets: the published ones, real endpoints, every order and split, hostile ones."""

from __future__ import annotations

import datetime
import itertools
import ssl
import subprocess
import sys

import hellos
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import HandshakeCompleted
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from quic_vectors import RFC_9001, RFC_9001_RETRY, RFC_9369, RFC_9369_SERVER

from sensor.protocols.ja4 import ja4
from sensor.protocols.quic import MAX_DATAGRAMS, VERSION_1, VERSION_2, QuicInitial, initial
from sensor.protocols.tls import MAX_BYTES, NEED_MORE, ClientHello, handshake

KEY_ID = bytes.fromhex("8394c8f03e515708")
HELLO = hellos.chrome()


def varint(value: int) -> bytes:
    for prefix, size in enumerate((1, 2, 4, 8)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise AssertionError(value)


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


def packet(
    payload: bytes,
    *,
    version: int = VERSION_1,
    key_id: bytes = KEY_ID,
    made_from: bytes | None = None,
    token: bytes = b"",
    number: int = 0,
    fixed: int = 0x40,
    fill: int = 1162,
) -> bytes:
    """A client's Initial packet, protected by aioquic, with a packet number of two bytes."""
    payload = payload.ljust(fill, b"\0")
    kind = {VERSION_1: 0x80, VERSION_2: 0x90}[version]
    header = bytes([kind | fixed | 1]) + version.to_bytes(4, "big") + hellos.vector(key_id, 1) + b"\0"
    header += varint(len(token)) + token + (len(payload) + 18 | 0x4000).to_bytes(2, "big") + number.to_bytes(2, "big")
    pair = CryptoPair()
    pair.setup_initial(cid=key_id if made_from is None else made_from, is_client=True, version=version)
    return pair.encrypt_packet(header, payload, number)


def flight(message: bytes = HELLO, count: int = 2, **options: int) -> list[bytes]:
    """The hello over this many datagrams, in pieces out of order and with PING and PADDING between, as Chrome does."""
    size = -(-len(message) // (count * 3))
    pieces = [crypto(at, message[at : at + size]) for at in range(0, len(message), size)]
    pieces = pieces[1::2] + pieces[0::2]
    share = -(-len(pieces) // count)
    groups = [pieces[at : at + share] for at in range(0, len(pieces), share)]
    return [packet(b"\1\0\0".join([b"", *group]), number=at, **options) for at, group in enumerate(groups)]


def hello_of(*datagrams: bytes, final: bool = False) -> ClientHello:
    answer = initial(*datagrams, final=final)
    assert isinstance(answer, QuicInitial) and answer.hello, answer
    return answer.hello


@pytest.mark.parametrize(("datagram", "version"), [(RFC_9001, VERSION_1), (RFC_9369, VERSION_2)])
def test_the_packets_of_the_rfcs(datagram: bytes, version: int) -> None:
    answer = initial(datagram)
    assert isinstance(answer, QuicInitial) and answer.hello
    assert answer.version == version
    assert answer.hello.server_name == "example.com"
    assert answer.hello.alpn == (b"alpn",)
    assert answer.hello.cipher_suites == (0x1301, 0x1302)
    assert not answer.hello.truncated


@pytest.mark.parametrize("datagram", [RFC_9001_RETRY, RFC_9369_SERVER])
def test_the_rfcs_packets_of_servers_have_no_hello(datagram: bytes) -> None:
    assert initial(datagram) == QuicInitial(int.from_bytes(datagram[1:5], "big"), None)


def client(name: str = "pool.example", version: int = VERSION_1, **options: object) -> QuicConnection:
    configuration = QuicConfiguration(
        is_client=True,
        server_name=name,
        original_version=version,
        supported_versions=[version],
        **{"alpn_protocols": ["h3"], **options},  # type: ignore[arg-type]
    )
    connection = QuicConnection(configuration=configuration)
    connection.connect(("127.0.0.1", 443), now=0.0)
    return connection


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_aioquics_hello(version: int) -> None:
    datagrams = [data for data, _ in client(version=version).datagrams_to_send(now=0.0)]
    answer = initial(*datagrams)
    assert isinstance(answer, QuicInitial) and answer.hello
    assert (answer.version, answer.hello.server_name, answer.hello.alpn) == (version, "pool.example", (b"h3",))
    fingerprint = ja4(answer.hello, "q")
    assert fingerprint and fingerprint.startswith("q13d03") and "h3_55b375c5d22e_" in fingerprint


def certified(configuration: QuicConfiguration) -> QuicConfiguration:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pool.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    unsigned = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    alternative = x509.SubjectAlternativeName([x509.DNSName("pool.example")])
    unsigned = (
        unsigned.add_extension(alternative, critical=False)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    configuration.certificate, configuration.private_key = unsigned.sign(key, hashes.SHA256()), key
    return configuration


def talk(one: QuicConnection) -> tuple[list[bytes], list[bytes]]:
    """What client and server send each other in the first rounds of a handshake, in memory."""
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    other = None
    for _ in range(3):
        for data, _ in one.datagrams_to_send(now=0.0):
            sent[0].append(data)
            if other is None:
                configuration = certified(QuicConfiguration(is_client=False, alpn_protocols=["h3"]))
                first_id = data[6 : 6 + data[5]]
                other = QuicConnection(configuration=configuration, original_destination_connection_id=first_id)
            other.receive_datagram(data, ("127.0.0.1", 1), now=0.0)
        assert other
        for data, _ in other.datagrams_to_send(now=0.0):
            sent[1].append(data)
            one.receive_datagram(data, ("127.0.0.1", 443), now=0.0)
    return sent


def test_two_real_endpoints() -> None:
    one = client(verify_mode=ssl.CERT_NONE)
    sent, answered = talk(one)
    assert any(isinstance(event, HandshakeCompleted) for event in iter(one.next_event, None))
    assert len(sent) >= 2 and answered
    assert hello_of(*sent).server_name == "pool.example"
    for data in answered:
        assert initial(data) in (QuicInitial(VERSION_1, None), None)
    assert initial(answered[0]) == QuicInitial(VERSION_1, None), "a server's Initial"


def test_a_real_hello_over_several_datagrams_whatever_their_order() -> None:
    long = [f"protocol-{number:04}-{'x' * 200}" for number in range(12)]
    datagrams = [data for data, _ in client(alpn_protocols=["h3", *long]).datagrams_to_send(now=0.0)]
    assert 3 <= len(datagrams) <= MAX_DATAGRAMS
    whole = hello_of(*datagrams)
    assert whole.server_name == "pool.example" and len(whole.alpn) == 13 and not whole.truncated
    for order in itertools.permutations(datagrams):
        assert hello_of(*order) == whole
        for count in range(1, len(order)):
            assert initial(*order[:count]) is NEED_MORE


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_pieces_out_of_order(count: int, version: int) -> None:
    datagrams = flight(
        hellos.message([hellos.server_name(b"a.example")]) if count == 1 else HELLO, count, version=version
    )
    assert len(datagrams) == count
    for order in itertools.permutations(datagrams):
        assert hello_of(*order).server_name == ("a.example" if count == 1 else "pool.example")
    for size in range(1, count):
        assert initial(*datagrams[:size]) is NEED_MORE


def test_several_datagrams_that_are_seen_as_one() -> None:
    """A program may give the kernel a run of datagrams to cut apart (UDP_SEGMENT)."""
    assert hello_of(b"".join(flight())) == hello_of(*flight())


def test_the_same_hello_as_over_tcp() -> None:
    hello = hello_of(*flight())
    assert hello == handshake(HELLO)
    over_tcp, over_quic = ja4(hello, "t"), ja4(hello, "q")
    assert over_tcp and over_quic and over_quic == "q" + over_tcp[1:]


def test_coalesced_with_what_a_client_sends_along() -> None:
    first, second = flight()
    early = b"\xd0" + VERSION_1.to_bytes(4, "big") + hellos.vector(KEY_ID, 1) + b"\0" + varint(100) + bytes(100)
    assert hello_of(early + first, second + early).server_name == "pool.example"
    assert hello_of(first + b"\x40" + bytes(50), second).server_name == "pool.example"
    assert initial(early) == QuicInitial(VERSION_1, None), "0-RTT alone is QUIC without a hello"
    assert initial(first, early) is NEED_MORE


def test_a_token_and_a_retransmission() -> None:
    first, second = flight(token=b"t" * 70)
    assert hello_of(first, first, second).server_name == "pool.example"


def test_keys_stay_those_of_the_first_id() -> None:
    """After the server's answer the client addresses the id that the server chose."""
    first = packet(crypto(0, HELLO[:800]))
    second = packet(crypto(800, HELLO[800:]), key_id=b"chosen", made_from=KEY_ID, number=1)
    assert hello_of(first, second).server_name == "pool.example"
    assert initial(second) == QuicInitial(VERSION_1, None)


def test_after_a_retry_the_keys_are_new() -> None:
    before = packet(crypto(0, HELLO[:800]))
    after = [
        packet(crypto(at, HELLO[at : at + 1000]), key_id=b"by the server", token=b"retry", number=1) for at in (0, 1000)
    ]
    assert hello_of(before, *after).server_name == "pool.example"


def test_a_missing_piece() -> None:
    first, second = flight()
    assert initial(first) is NEED_MORE
    late = initial(second, final=True)
    assert isinstance(late, QuicInitial) and late.version == VERSION_1
    assert late.hello is None or late.hello.truncated
    cut = hello_of(packet(crypto(0, HELLO[:400])), final=True)
    assert cut.truncated and ja4(cut, "q") is None
    assert cut.cipher_suites == hello_of(first, second).cipher_suites


def test_what_follows_four_datagrams_is_not_read() -> None:
    empty = [packet(b"\1", number=number) for number in range(MAX_DATAGRAMS)]
    assert initial(*empty[:-1]) is NEED_MORE
    assert initial(*empty) == initial(*empty, *flight()) == QuicInitial(VERSION_1, None)
    assert hello_of(*empty[:-1], flight(hellos.message([]), 1)[0]).extensions == ()
    assert hello_of(*empty[:-1], packet(crypto(0, HELLO[:900]))).truncated


@pytest.mark.parametrize(
    "before",
    [
        b"\x02\x05\x00\x00\x00",  # ACK of one range
        b"\x02\x40\xff\x00\x01\x00\x00\x00",  # of two
        b"\x03\x05\x00\x00\x00\x01\x02\x03",  # with ECN counts
        crypto(0, b""),
        crypto(2**61, b"far beyond any hello"),
        crypto(MAX_BYTES - 2, b"over the edge"),
        b"\0" * 300 + b"\1" * 300,
    ],
)
def test_other_frames_before_the_hello(before: bytes) -> None:
    message = hellos.message([hellos.server_name(b"a.example")])
    assert hello_of(packet(before + crypto(0, message))).server_name == "a.example"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x1c\x00\x00\x00",  # CONNECTION_CLOSE
        b"\x08\x00data",  # STREAM, which has no place here
        b"\x06",
        b"\x06\x00",
        b"\x06\x00\x7f\xff",
        b"\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x02\x05\x00\xff\xff\xff\xff\xff\xff\xff\xff" + b"\1" * 30,
        b"\x03",
    ],
)
def test_frames_that_end_a_packet(payload: bytes) -> None:
    for datagram in (packet(b"\1\1" + payload, fill=0), packet(payload + bytes(20))):
        assert initial(datagram) is NEED_MORE
        assert initial(datagram, final=True) == QuicInitial(VERSION_1, None)


@pytest.mark.parametrize(
    "before",
    [
        b"\x1c\x00\x00\x00",  # CONNECTION_CLOSE
        b"\x30",  # DATAGRAM
        b"\x02\x05\x00\x21\x00" + bytes(66),  # ACK of more ranges than there can be
        crypto(0, b"") * 600,  # more frames than a datagram of a network holds
    ],
)
def test_what_follows_them_is_not_read(before: bytes) -> None:
    message = hellos.message([hellos.server_name(b"a.example")])
    assert initial(packet(before + crypto(0, message))) is NEED_MORE


def test_a_stream_that_is_no_hello() -> None:
    assert initial(packet(crypto(0, b"\2\0\0\x30\3\3"))) == QuicInitial(VERSION_1, None)


def test_a_hello_in_pieces_of_one_byte() -> None:
    message = hellos.message([hellos.server_name(b"a.example")])
    pieces = [crypto(at, message[at : at + 1]) for at in range(len(message))]
    assert hello_of(packet(b"".join(reversed(pieces)))).server_name == "a.example"


def test_the_fixed_bit_may_be_greased() -> None:
    """RFC 9287: a client that knows the server may clear it; that the packet decrypts is proof enough."""
    message = hellos.message([hellos.server_name(b"a.example")])
    assert hello_of(packet(crypto(0, message), fixed=0)).server_name == "a.example"
    broken = bytearray(packet(crypto(0, message), fixed=0))
    broken[-1] ^= 1
    assert initial(bytes(broken)) is None


def header(version: int, first: int = 0xC0, key_id: bytes = KEY_ID) -> bytes:
    return bytes([first]) + version.to_bytes(4, "big") + hellos.vector(key_id, 1) + hellos.vector(b"source", 1)


@pytest.mark.parametrize("version", [0x1A2A3A4A, 0xFF00001D, 0xFACEB002, 0x51303530, 0x709A50C4])
def test_versions_that_are_known_but_not_read(version: int) -> None:
    assert initial(header(version).ljust(1200, b"\x55")) == QuicInitial(version, None)
    assert initial(header(version).ljust(1199, b"\x55")) is None
    assert initial(header(version, first=0x80).ljust(1200, b"\x55")) is None
    assert initial(header(version, key_id=b"i" * 21).ljust(1200, b"\x55")) is None


@pytest.mark.parametrize("version", [2, 0xFF000000, 0xFF000023, 0xDEADBEEF, 0x1A2A3A4B])
def test_versions_that_nobody_knows(version: int) -> None:
    assert initial(header(version).ljust(1200, b"\x55")) is None


def test_version_negotiation() -> None:
    listed = header(0, first=0x8A) + hellos.numbers([0x0A1A, 0x2A3A, 0, 1])
    assert initial(listed) == QuicInitial(0, None)
    assert initial(listed + b"\0") is None
    assert initial(header(0)) is None
    assert initial(header(0) + b"\0\0\0\7") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x40" + bytes(100),  # a short header
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04pool\x07example\x00\x00\x01\x00\x01",  # DNS
        b"\x01\x00\x00\x00" + b"k" * 144,  # WireGuard
        b"\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10" + bytes(16),  # DTLS
        b"\x80\x60\x12\x34" + bytes(160),  # RTP
        b"\xc0\x00\x00\x00\x01",
        b"\xc0\x00\x00\x00\x01\xff" + bytes(20),
        header(VERSION_1, key_id=b"i" * 21) + b"\0\x40\x20" + bytes(32),
    ],
)
def test_what_is_no_quic(data: bytes) -> None:
    assert initial(data) is None
    assert initial(data, final=True) is None


def test_no_datagram() -> None:
    assert initial() is NEED_MORE
    assert initial(final=True) is None


def check(*datagrams: bytes, final: bool) -> None:
    answer = initial(*datagrams, final=final)
    assert answer is None or answer is NEED_MORE or isinstance(answer, QuicInitial)
    assert not (final and answer is NEED_MORE)


@pytest.mark.parametrize("datagram", [RFC_9001, RFC_9369, flight()[0], RFC_9369_SERVER])
def test_truncations(datagram: bytes) -> None:
    for size in range(len(datagram)):
        answer = initial(datagram[:size])
        assert answer is None or (isinstance(answer, QuicInitial) and answer.hello is None)


@settings(deadline=None)
@given(
    st.sampled_from([RFC_9001, RFC_9369, *flight()]),
    st.lists(st.tuples(st.integers(0, 1199), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_mutations(datagram: bytes, changes: list[tuple[int, int]], final: bool) -> None:
    data = bytearray(datagram)
    for at, value in changes:
        data[at % len(data)] = value
    check(bytes(data), final=final)
    if data != datagram:
        answer = initial(bytes(data))
        assert not (isinstance(answer, QuicInitial) and answer.hello), "the tag covers every byte"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6), st.booleans())
def test_random_datagrams(datagrams: list[bytes], final: bool) -> None:
    check(*datagrams, final=final)
    check(*(header(VERSION_1) + data for data in datagrams), final=final)
    check(flight()[0], *datagrams, final=final)


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_frames(payload: bytes, final: bool) -> None:
    check(packet(payload), packet(crypto(0, HELLO[:300]) + payload), final=final)


@settings(deadline=None)
@given(st.lists(st.integers(1, len(HELLO) - 1), max_size=20), st.randoms(use_true_random=False), st.integers(0, 40))
def test_every_split_and_overlap_gives_the_same(cuts: list[int], seed: object, overlap: int) -> None:
    edges = sorted({0, *cuts, len(HELLO)})
    frames = [crypto(start, HELLO[start : end + overlap]) for start, end in itertools.pairwise(edges)]
    seed.shuffle(frames)  # type: ignore[attr-defined]
    half = len(frames) // 2
    datagrams = [packet(b"".join(part), fill=4000) for part in (frames[:half], frames[half:])]
    assert hello_of(*datagrams) == handshake(HELLO)


def test_cryptography_is_imported_only_for_quic() -> None:
    code = (
        "import sys, sensor.protocols.quic as quic\n"
        "assert quic.initial(b'SSH-2.0-x') is None\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'cryptography']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_aioquic_has_no_version_that_is_not_read() -> None:
    assert {*QuicProtocolVersion} == {0, VERSION_1, VERSION_2}
