"""DNS messages of any kind: names and addresses of the internet's class alone, bounded, and nothing raises."""

from __future__ import annotations

import dns.message
import dns.rdata
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.context.names import Answer, Names, Parser

PARSER = Parser()
QUESTION = b"\0\7\x81\x80\0\1\0\1\0\0\0\0\4site\4test\0\0\1\0\1"


def told(message: bytes) -> Answer:
    answer = PARSER.parse(message)
    assert answer is not None
    return answer


@pytest.mark.parametrize("in_class", [0, 2, 3, 4, 254, 255, 256, 0xFFFF])
@pytest.mark.parametrize("kind", [1, 28, 5, 12, 64, 65])
@pytest.mark.parametrize("data", [b"", b"\xc6\x33\x64\7", bytes(16), b"\0\1\0"])
def test_records_of_another_class_are_no_addresses(in_class: int, kind: int, data: bytes) -> None:
    head = b"\xc0\x0c" + kind.to_bytes(2, "big") + in_class.to_bytes(2, "big") + b"\0\0\0\x3c"
    answer = PARSER.parse(QUESTION + head + len(data).to_bytes(2, "big") + data)
    assert answer is None or (answer.addresses == [] and all(isinstance(result, str) for result in answer.results))


@pytest.mark.parametrize("kind", ["A", "HTTPS"])
def test_what_an_answer_gives_is_bounded(kind: str) -> None:
    query = dns.message.make_query("site.test", kind)
    answer = dns.message.make_response(query)
    addresses = [f"10.0.{number >> 8}.{number & 255}" for number in range(900)]
    texts = addresses if kind == "A" else [f"1 . ipv4hint={','.join(addresses)}"]
    answer.answer.append(dns.rrset.from_text_list("site.test.", 60, "IN", kind, texts))
    answer = told(answer.to_wire(max_size=65535))
    assert len(set(answer.results)) == 128 and set(answer.results) < set(addresses)
    assert [address for address, _ in answer.addresses] == answer.results


def test_nothing_is_remembered_of_unknown_types() -> None:
    known = dict(dns.rdata._rdata_classes)
    for kind in range(1000, 1300):
        record = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c\0\2hi"
        assert told(QUESTION + record).results == ["\\# 2 6869"]
    assert dns.rdata._rdata_classes == known


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    PARSER.parse(data)
    PARSER.parse(QUESTION + data)


def test_the_least_time_to_live_and_the_limit() -> None:
    names = Names(limit=2, least_ttl_s=5)
    names.learn(7, 0, Answer("a.test", "A", [], [("192.0.2.1", 0), ("192.0.2.2", 60)]))
    assert names.name(7, "192.0.2.1", 5 * 10**9) == "a.test" and names.name(7, "192.0.2.1", 5 * 10**9 + 1) is None
    assert names.name(7, "192.0.2.2", 60 * 10**9) == "a.test" and names.name(8, "192.0.2.2", 0) is None
    names.learn(7, 0, Answer("b.test", "A", [], [("192.0.2.3", 60), ("192.0.2.4", 60)]))
    assert names.evicted == 1 and names.name(7, "192.0.2.4", 0) == "b.test"
