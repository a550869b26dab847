"""JA4 against fingerprints that FoxIO and others published with the lists they come from."""

from __future__ import annotations

import hellos
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.protocols.ja4 import GREASE, ja4
from sensor.protocols.tls import ClientHello, client_hello

CHROME_SUITES = "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"
CHROME_ALGORITHMS = "0403,0804,0401,0503,0805,0501,0806,0601"
PUBLISHED = {
    # technical_details/JA4.md
    "t13d1516h2_8daaf6152771_e5627efa2ab1": (
        CHROME_SUITES,
        "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015",
        CHROME_ALGORITHMS,
    ),
    # python/test/testdata, from the captures of the same names: latest.pcapng
    "t13d1516h2_8daaf6152771_9b887d9acb53": (
        CHROME_SUITES,
        "000d,0010,0000,000b,0023,4469,ff01,0033,000a,002d,002b,0005,0017,0012,001b,0029",
        CHROME_ALGORITHMS,
    ),
    "t12d190800_d83cc789557e_7af1ed941c26": (
        "c02c,c02b,c030,c02f,c024,c023,c028,c027,c00a,c009,c014,c013,009d,009c,003d,003c,0035,002f,000a",
        "0000,0005,000a,000b,000d,0023,0017,ff01",
        "0804,0805,0806,0401,0501,0201,0403,0503,0203,0202,0601,0603",
    ),
    # badcurveball.pcap
    "t13d1615h2_46e7e9700bed_45f260be83e2": (
        f"{CHROME_SUITES},000a",
        "0000,0017,ff01,000a,000b,0023,0010,0005,000d,0012,0033,002d,002b,001b,0015",
        f"{CHROME_ALGORITHMS},0201",
    ),
    # sigalg-grease.pcapng
    "t13d1517h2_8daaf6152771_cb7bf5808d99": (
        CHROME_SUITES,
        "fe0d,0010,0017,0033,44cd,ff01,000a,000d,0023,002b,000b,ca34,002d,0000,0005,001b,0012",
        f"3a3a,0904,0905,0906,{CHROME_ALGORITHMS}",
    ),
    # chrome-cloudflare-quic-with-secrets.pcapng
    "q13d0310h3_55b375c5d22e_cd85d2d88918": (
        "1301,1302,1303",
        "0000,0010,000a,000d,001b,002b,002d,0033,0039,4469",
        f"{CHROME_ALGORITHMS},0201",
    ),
    # Firefox and OpenSSL, with the raw hello in tests of other programs
    "t13d1715h2_5b57614c22b0_5c2c66f702b0": (
        "1301,1303,1302,c02b,c02f,cca9,cca8,c02c,c030,c00a,c009,c013,c014,009c,009d,002f,0035",
        "0000,0017,ff01,000a,000b,0023,0010,0005,0022,0033,002b,000d,002d,001c,fe0d",
        "0403,0503,0603,0804,0805,0806,0401,0501,0601,0203,0201",
    ),
    "t13d311200_e8f1e7e78f70_d339722ba4af": (
        "1302,1303,1301,c02c,c030,009f,cca9,cca8,ccaa,c02b,c02f,009e,c024,c028,006b,c023,c027,0067,c00a,c014,0039,c009,"
        "c013,0033,009d,009c,003d,003c,0035,002f,00ff",
        "0000,000b,000a,0023,0016,0017,0031,000d,002b,002d,0033,0015",
        "0403,0503,0603,0807,0808,0809,080a,080b,0804,0805,0806,0401,0501,0601,0303,0301,0302,0402,0502,0602",
    ),
}
PROTOCOLS = {"h2": [b"h2", b"http/1.1"], "h3": [b"h3"], "00": []}


def codes(text: str) -> list[int]:
    return [int(code, 16) for code in text.split(",")]


def parsed(message: bytes) -> ClientHello:
    hello = client_hello(hellos.records(message))
    assert isinstance(hello, ClientHello)
    return hello


def built(fingerprint: str, *, grease: tuple[int, ...] = ()) -> ClientHello:
    """A hello with the published lists, and with GREASE in front of each."""
    suites, extensions, algorithms = (codes(text) for text in PUBLISHED[fingerprint])
    version = {"13": 0x0304, "12": 0x0303}[fingerprint[1:3]]
    contents = dict(
        [
            hellos.server_name(b"pool.example"),
            hellos.alpn(*PROTOCOLS[fingerprint[8:10]]),
            hellos.versions(*grease, 0x0303, version),
            hellos.algorithms(*grease, *algorithms),
        ]
    )
    block = [(kind, contents.get(kind, b"any")) for kind in (*grease, *extensions)]
    return parsed(hellos.message(block, suites=(*grease, *suites)))


@pytest.mark.parametrize("fingerprint", PUBLISHED)
@pytest.mark.parametrize("grease", [(), (0x1A1A,), (0xFAFA, 0x0A0A)])
def test_published_fingerprints(fingerprint: str, grease: tuple[int, ...]) -> None:
    transport = "q" if fingerprint[0] == "q" else "t"
    assert ja4(built(fingerprint, grease=grease), transport) == fingerprint


def test_as_chrome_143_was_seen() -> None:
    assert ja4(parsed(hellos.chrome())) == "t13d1516h2_8daaf6152771_d8a2da3f94cd"


def test_openssl_on_this_machine() -> None:
    """The lists depend on its version; the readable part must say what the program asked for."""
    both = [client_hello(hellos.openssl(name, ["http/1.1"])) for name in ("pool.example", None)]
    named, nameless = (ja4(hello) for hello in both if isinstance(hello, ClientHello))
    assert named and nameless
    assert named[:4] == "t13d" and nameless[:4] == "t13i"
    assert named[8:10] == "h1"
    assert int(named[6:8]) == int(nameless[6:8]) + 1
    assert named[10:] == nameless[10:], "the hashes do not depend on the name"


def test_without_signature_algorithms_there_is_no_underscore() -> None:
    """The extension there, its list empty: the published example's hash."""
    extensions = codes("0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01")
    fingerprint = ja4(parsed(hellos.message([(kind, b"") for kind in extensions])))
    assert fingerprint and fingerprint.endswith("_6d807ffa2a79")


def test_nothing_to_hash() -> None:
    only_grease = parsed(hellos.message([(0x0A0A, b""), hellos.server_name(b"a")], suites=(0x0A0A,)))
    assert ja4(only_grease) == "t12d000100_000000000000_000000000000"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], "00"),
        ([b""], "00"),
        ([b"h2"], "h2"),
        ([b"http/1.1", b"h2"], "h1"),
        ([b"h"], "hh"),
        ([b"\xab"], "ab"),
        ([b"\xab\xcd"], "ad"),
        ([b"\x30\xab"], "3b"),
        ([b"\x30\x31\xab\xcd"], "3d"),
        ([b"\x30\xab\xcd\x31"], "01"),
        ([b"\x0a\x0a"], "0a"),
    ],
)
def test_alpn(names: list[bytes], shown: str) -> None:
    fingerprint = ja4(parsed(hellos.message([hellos.alpn(*names)])))
    assert fingerprint and fingerprint[8:10] == shown


@pytest.mark.parametrize(
    ("extensions", "legacy", "shown"),
    [
        ([], 0x0303, "12"),
        ([], 0x0302, "11"),
        ([], 0x0301, "10"),
        ([], 0x0300, "s3"),
        ([], 0x03FF, "00"),
        ([hellos.versions(0x0303, 0x0304, 0x0301)], 0x0303, "13"),
        ([hellos.versions(0xFAFA, 0x0303)], 0x0303, "12"),
        ([hellos.versions(0xFAFA)], 0x0303, "00"),
        ([(43, b"")], 0x0303, "00"),
        ([hellos.versions(0x7F1C)], 0x0303, "00"),
    ],
)
def test_version(extensions: list[tuple[int, bytes]], legacy: int, shown: str) -> None:
    fingerprint = ja4(parsed(hellos.message(extensions, legacy=legacy)))
    assert fingerprint and fingerprint[1:3] == shown


@pytest.mark.parametrize(("count", "shown"), [(1, "01"), (99, "99"), (100, "99"), (700, "99")])
def test_counts_end_at_99(count: int, shown: str) -> None:
    kinds = [(0x1000 + number, b"") for number in range(count)]
    fingerprint = ja4(parsed(hellos.message(kinds, suites=range(count))))
    assert fingerprint and fingerprint[4:8] == shown * 2


def test_a_truncated_hello_has_none() -> None:
    hello = client_hello(hellos.records(hellos.chrome())[:1000], final=True)
    assert isinstance(hello, ClientHello) and ja4(hello) is None


@settings(deadline=None)
@given(st.permutations(range(15)), st.permutations(range(16)), st.sampled_from(sorted(GREASE)), st.data())
def test_order_and_grease_do_not_matter(suites: list[int], kinds: list[int], grease: int, data: st.DataObject) -> None:
    hello = built("t13d1516h2_8daaf6152771_e5627efa2ab1")
    extensions = [hello.extensions[at] for at in kinds]
    extensions.insert(data.draw(st.integers(0, 16)), grease)
    shuffled = msgspec.structs.replace(
        hello, cipher_suites=tuple(hello.cipher_suites[at] for at in suites), extensions=tuple(extensions)
    )
    assert ja4(shuffled) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_the_order_of_signature_algorithms_matters() -> None:
    hello = built("t13d1516h2_8daaf6152771_e5627efa2ab1")
    swapped = msgspec.structs.replace(hello, signature_algorithms=hello.signature_algorithms[::-1])
    assert ja4(swapped) != ja4(hello)
