"""What is said of flows, and that how they are split changes nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from flow_builders import SECRET, Transcript, client_hello, masked
from near_misses import NEAR
from transcripts import ESTABLISHED, KNOWN

from sensor.protocols import Finding, Flow
from sensor.protocols.flow import MAX_LOOKS
from sensor.protocols.stream import LIMIT

ALL = {**KNOWN, **NEAR}


def say(transcript: Transcript, turns: list[tuple[str, bytes]] | None = None) -> tuple[list[Finding], bool]:
    """Every finding in turn, that of the flow's end included, and whether the flow was done before it."""
    flow = Flow("tcp" if transcript.transport == "tcp" else "udp", transcript.port)
    heard = [flow.outbound(data) if way == ">" else flow.inbound(data) for way, data in (turns or transcript.turns)]
    done = flow.done
    heard.append(flow.end())
    assert flow.done
    assert flow.outbound(b"SSH-2.0-late\r\n") is None
    return [finding for finding in heard if finding is not None], done


def fields(finding: Finding) -> dict[str, Any]:
    plain = {field.name: field.default for field in msgspec.structs.fields(Finding)}
    return {name: value for name, value in msgspec.structs.asdict(finding).items() if value != plain[name]}


@pytest.mark.parametrize("name", KNOWN)
def test_says_what_it_is(name: str) -> None:
    findings, _ = say(KNOWN[name])
    assert findings, "not recognised"
    assert fields(findings[-1]) == KNOWN[name].says


@pytest.mark.parametrize("name", NEAR)
def test_says_nothing_of_what_only_looks_like_it(name: str) -> None:
    assert say(NEAR[name])[0] == []


@pytest.mark.parametrize("name", ALL)
def test_never_keeps_a_secret(name: str) -> None:
    said = str(say(ALL[name])[0])
    assert SECRET not in said
    assert base64.b64encode(SECRET.encode()).decode() not in said


def splits(turns: list[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """One byte at a time, then each turn in two parts at each place (of long ones, at the interesting ends)."""
    yield [(way, data[at : at + 1]) for way, data in turns for at in range(len(data))]
    for number, (way, data) in enumerate(turns):
        places = range(1, len(data)) if len(data) < 700 else [*range(1, 40), *range(LIMIT - 20, LIMIT + 20)]
        for at in places:
            yield [*turns[:number], (way, data[:at]), (way, data[at:]), *turns[number + 1 :]]


def is_refined(whole: list[Finding], parts: list[Finding]) -> bool:
    """Whether `parts` tells all of `whole`, in that order."""
    rest = iter(parts)
    return all(finding in rest for finding in whole)


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name].transport == "tcp"])
def test_every_split_says_the_same(name: str) -> None:
    whole, done = say(ALL[name])
    for turns in splits(ALL[name].turns):
        parts, parts_done = say(ALL[name], turns)
        assert parts[-1:] == whole[-1:], turns
        if len(turns) <= MAX_LOOKS:
            assert is_refined(whole, parts), (turns, parts)
            assert parts_done == done, turns


def test_one_exchange_gives_few_findings() -> None:
    for name, transcript in KNOWN.items():
        findings, _ = (
            say(transcript, next(splits(transcript.turns))) if transcript.transport == "tcp" else say(transcript)
        )
        assert len(findings) <= 5, (name, findings)
        assert len(findings) == len({repr(finding) for finding in findings}), name


@pytest.mark.parametrize(
    "name",
    [
        "ssh",
        "http",
        "stratum",
        "monero",
        "getwork",
        "http2",
        "dns",
        "dns over tcp",
        "connect refused",
        "socks4 refused",
    ],
)
def test_is_done_once_all_is_known(name: str) -> None:
    assert say(KNOWN[name])[1]


@pytest.mark.parametrize("name", ["redis", "mysql", "kafka", "bitcoin v2", "c10d store", "nats", "zeros", "rtp"])
def test_is_done_once_it_is_hopeless(name: str) -> None:
    assert say(NEAR[name])[1] or len({way for way, _ in NEAR[name].turns}) == 1


@pytest.mark.parametrize("carrier", ["connect", "socks5", "websocket"])
def test_tls_inside_a_tunnel(carrier: str) -> None:

    before = KNOWN[carrier]
    hello = client_hello("inner.example")
    answered = [*before.turns, ("<", ESTABLISHED)] if carrier == "connect" else before.turns
    turns = [*answered, (">", masked(hello, 2) if carrier == "websocket" else hello)]
    findings, done = say(before, turns)
    assert done
    last = findings[-1]
    assert (last.protocol, last.tls_server_name, last.tls_alpn) == ("tls", "inner.example", ["h2", "http/1.1"])
    assert last.tls_ja4
    assert last.carried_by == before.says["protocol"]
    assert fields(last).items() >= {key: value for key, value in before.says.items() if key != "protocol"}.items()
    for split in (next(splits(turns)), [(way, data[at:]) for way, data in turns for at in (0,)]):
        assert say(before, split)[0][-1] == last


def test_tls_from_the_peer() -> None:
    flow = Flow("tcp", 1)
    finding = flow.inbound(client_hello("a.example"))
    assert finding is not None
    assert (finding.protocol, finding.tls_server_name, finding.from_peer) == ("tls", "a.example", True)


def test_tls_cut_off() -> None:
    flow = Flow("tcp", 443)
    assert flow.outbound(client_hello("a.example")[:-9]) is None
    finding = flow.end()
    assert finding is not None
    assert (finding.protocol, finding.tls_server_name, finding.tls_ja4) == ("tls", "a.example", None)
