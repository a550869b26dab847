"""No bytes raise, hold more memory than the bound, or make a finding that cannot be written."""

from __future__ import annotations

import ast
import random
import tracemalloc
from pathlib import Path

import h11
import orjson
from flow_builders import Transcript, client_hello
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from near_misses import NEAR
from transcripts import KNOWN

from sensor import protocols
from sensor.protocols import Finding, Flow
from sensor.protocols.finding import TEXT_LIMIT
from sensor.protocols.flow import MAX_LOOKS
from sensor.protocols.stream import LIMIT

TRANSCRIPTS = [*KNOWN.values(), *NEAR.values(), Transcript([(">", client_hello("a.example"))], {})]
STARTS = [data[:cut] for transcript in TRANSCRIPTS for _, data in transcript.turns for cut in (1, 2, 3, 5, 9, 20, 80)]

turns = st.lists(
    st.tuples(st.sampled_from("<>"), st.builds(bytes.__add__, st.sampled_from([b"", *STARTS]), st.binary(max_size=60))),
    max_size=6,
)


def feed(transport: str, told: list[tuple[str, bytes]]) -> list[Finding]:
    """The findings; fails where one is not what a finding may be."""
    flow = Flow("tcp" if transport == "tcp" else "udp", 1)
    heard = [flow.outbound(data) if way == ">" else flow.inbound(data) for way, data in told]
    heard.append(flow.end())
    findings = [finding for finding in heard if finding is not None]
    for finding in findings:
        for name in finding.__struct_fields__:
            value = getattr(finding, name)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    orjson.dumps(text)
                    assert len(text) <= 4 * TEXT_LIMIT + 8, (name, text)
    return findings


@settings(max_examples=1500, deadline=None)
@given(transport=st.sampled_from(["tcp", "udp"]), told=turns)
def test_no_bytes_raise(transport: str, told: list[tuple[str, bytes]]) -> None:
    feed(transport, told)


def says_the_same_in_parts(told: list[tuple[str, bytes]], chance: random.Random) -> None:
    whole = feed("tcp", told)
    sizes = chance.choice([[1], [1, 2, 3, 7, 30]])
    parts = []
    for way, data in told:
        at = 0
        while at < len(data):
            size = chance.choice(sizes)
            parts.append((way, data[at : at + size]))
            at += size
    split = feed("tcp", parts)
    assert split[-1:] == whole[-1:], told
    rest = iter(split)
    assert len(parts) > MAX_LOOKS or all(finding in rest for finding in whole), told


@settings(max_examples=300, deadline=None)
@given(told=turns, chance=st.randoms(use_true_random=False))
def test_any_split_of_any_bytes_says_the_same(told: list[tuple[str, bytes]], chance: random.Random) -> None:
    says_the_same_in_parts(told, chance)


def mutated(told: list[tuple[str, bytes]], chance: random.Random) -> list[tuple[str, bytes]]:
    """A transcript with bytes changed, lost, added and moved."""
    changed = []
    for way, data in told:
        raw = bytearray(data[: LIMIT + 9])
        for _ in range(chance.choice([0, 0, 1, 1, 2, 6])):
            at = chance.randrange(len(raw) + 1)
            kind = chance.randrange(4)
            if kind == 0 and at < len(raw):
                raw[at] = chance.choice([*b'\0\n\r "{}[]:,\\\x7f\xff', chance.randrange(256)])
            elif kind == 1:
                del raw[at : at + chance.choice([1, 1, 2, 8, 50])]
            elif kind == 2:
                raw[at:at] = chance.randbytes(chance.choice([1, 2, 9]))
            else:
                raw[at:at] = chance.choice(STARTS)
        changed.append((way, bytes(raw)))
    if chance.random() < 0.2:
        changed.insert(chance.randrange(len(changed) + 1), (chance.choice("<>"), chance.choice(STARTS)))
    if chance.random() < 0.2:
        chance.shuffle(changed)
    return changed


def test_mutation_raises_nothing_and_any_split_says_the_same() -> None:
    chance = random.Random(7)
    for transcript in TRANSCRIPTS:
        for _ in range(40):
            told = mutated(transcript.turns, chance)
            if transcript.transport == "tcp":
                says_the_same_in_parts(told, chance)
            else:
                feed("udp", told)


def test_random_bytes_are_nothing() -> None:
    chance = random.Random(1)
    for _ in range(20_000):
        told = [(chance.choice("<>"), chance.randbytes(chance.choice([1, 8, 60, 64, 200, 1400]))) for _ in range(4)]
        assert feed(chance.choice(["tcp", "udp"]), told) == [], told


def test_random_bytes_after_a_real_first_byte_are_nothing() -> None:
    chance = random.Random(2)
    for first in range(256):
        for _ in range(60):
            told = [(">", bytes([first]) + chance.randbytes(120)), ("<", chance.randbytes(1) + chance.randbytes(90))]
            assert feed("tcp", told) == [], told


def test_memory_is_bounded_and_the_end_is_reached() -> None:
    openings = [data for transcript in TRANSCRIPTS for _, data in transcript.turns[:1] if data]
    flows = [Flow("tcp", 1) for _ in openings]
    tracemalloc.start()
    for flow, data in zip(flows, openings, strict=True):
        for _ in range(100):
            flow.outbound(data[:-1] + bytes(500))
            flow.inbound(bytes(500))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(flow.done for flow in flows)
    assert held < len(flows) * (2 * LIMIT + 4000)


def test_one_side_alone_reaches_the_end() -> None:
    for transcript in TRANSCRIPTS:
        for way in "<>":
            flow = Flow("tcp", 1)
            for _ in range(LIMIT // 64 + 2):
                (flow.outbound if way == ">" else flow.inbound)((transcript.turns[0][1][:64] or b"x").ljust(64))
            assert flow.done


def test_touches_nothing_but_the_bytes() -> None:
    outside = {"os", "io", "socket", "subprocess", "pathlib", "time", "logging", "threading", "asyncio", "select"}
    for path in Path(protocols.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] not in outside, path
                assert not name.startswith("sensor.") or name.startswith("sensor.protocols"), path


TOKEN = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabc-", min_size=1, max_size=8)
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


@settings(max_examples=500, deadline=None)
@given(
    method=TOKEN,
    path=st.text("abc/%20.~-_?=&", max_size=30),
    host=st.text("abcXYZ.-0189", max_size=20),
    headers=st.lists(st.tuples(TOKEN, VALUE), max_size=4),
    style=st.tuples(st.sampled_from([b"\r\n", b"\n"]), st.sampled_from([b":", b": ", b":\t ", b":\r\n "])),
)
def test_reads_requests_as_h11_does(
    method: str, path: str, host: str, headers: list[tuple[str, str]], style: tuple[bytes, bytes]
) -> None:
    end, colon = style
    named = [("X-" + name, value) for name, value in headers]
    chance = random.Random(len(path))
    named.insert(chance.randrange(len(named) + 1), ("hOsT", host))
    block = b"".join(name.encode() + colon + value.encode() + end for name, value in named)
    raw = f"{method} /{path} HTTP/1.1".encode() + end + block + end
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(raw)
    try:
        request = peer.next_event()
    except h11.RemoteProtocolError:
        assume(False)
    assert isinstance(request, h11.Request)
    assume(request.method != b"CONNECT")
    (finding,) = feed("tcp", [(">", raw)])
    assert finding.http_method == request.method.decode()
    assert finding.http_path == request.target.decode().partition("?")[0]
    h11_host = dict(request.headers)[b"host"].decode().lower().removesuffix(".")
    assert (finding.http_host or "") == h11_host
