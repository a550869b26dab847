"""Every modifier and condition form of Sigma's specification 2, each with events on both sides."""

# ruff: noqa: RUF001 (letters that only look alike are what some cases are about)

from __future__ import annotations

import base64
from typing import Any

import pytest
from matching import fires, rule_of

Fields = dict[str, Any]
Case = tuple[str, str, list[Fields], list[Fields]]

CMD = "command_line"


def cmd(*texts: str) -> list[Fields]:
    return [{CMD: text} for text in texts]


def b64(text: str, before: int) -> str:
    """`text` inside of a longer text, in base64, at an offset of `before` bytes."""
    return base64.b64encode(b"\xff" * before + text.encode() + b"\xff\xff").decode()


VALUES: list[Case] = [
    ("plain", "CommandLine: Ab", cmd("ab", "AB"), [*cmd("abc", "xab", "a b"), {}]),
    ("empty", "CommandLine: ''", cmd(""), [*cmd(" "), {}]),
    ("any", "CommandLine: '*'", cmd("", "x\ny"), [{}]),
    ("star", "CommandLine: 'a*z'", cmd("az", "a\nb z", "AZ"), cmd("za", "azb", "a")),
    ("stars", "CommandLine: 'ab*bc*c'", cmd("abbcc", "ab bc c"), cmd("abcc", "abbc", "abc")),
    ("question", "CommandLine: 'a?z'", cmd("abz", "a\nz", "a\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}z"), cmd("az")),
    ("questions", "CommandLine: '*a??*?z'", cmd("xa12-z", "a123z"), cmd("a12z", "a1z")),
    ("escaped star", r"CommandLine: 'a\*z'", cmd("a*z"), cmd("abz", r"a\*z")),
    ("escaped question", r"CommandLine: 'a\?'", cmd("a?"), cmd("ab")),
    ("backslash", r"CommandLine: 'a\b'", cmd(r"a\b"), cmd("ab", r"a\\b")),
    ("two backslashes", r"CommandLine: 'a\\b'", cmd(r"a\b"), cmd("ab", r"a\\b")),
    ("backslash, star", r"CommandLine: 'a\\*'", cmd("a\\", r"a\x"), cmd("a*", "ax")),
    ("list", "CommandLine: [a, b]", cmd("a", "B"), cmd("c", "ab")),
    ("contains", "CommandLine|contains: ' -R '", cmd("ssh -r 1", " -R "), cmd("ssh -R1", "-R ")),
    ("contains list", "CommandLine|contains: [foo, bar]", cmd("a foo", "bar b"), cmd("fo", "ba")),
    ("contains all", "CommandLine|contains|all: [foo, bar]", cmd("foobar", "BAR foo"), cmd("foo", "bar")),
    ("startswith", "CommandLine|startswith: Ab", cmd("abc", "AB"), cmd("xab")),
    ("endswith", "CommandLine|endswith: bC", cmd("abc", "BC"), cmd("bcx")),
    ("startswith, wildcard", "CommandLine|startswith: 'a*b'", cmd("a-bx", "ab"), cmd("xab", "ac")),
    ("cased", "CommandLine|cased: Ab", cmd("Ab"), cmd("ab", "AB")),
    ("cased contains", "CommandLine|contains|cased: Ab", cmd("xAbx"), cmd("xabx")),
    ("cased wildcard", "CommandLine|cased: 'A?b*'", cmd("A-bB"), cmd("a-b", "A-B")),
    ("non-ASCII", "CommandLine|contains: STRAßE-Ä", cmd("straße-ä"), cmd("strasse-a")),
    ("final sigma", "CommandLine|contains: ΟΔΟΣ", cmd("οδος x", "οδοσx"), cmd("οδο")),
    ("re", r"CommandLine|re: 'a[0-9]+b$'", cmd("xa12b"), cmd("xA12b", "a12bc", "ab")),
    ("re dot", "CommandLine|re: 'a.b'", cmd("axb"), cmd("a\nb")),
    ("re i", "CommandLine|re|i: 'a[0-9]b'", cmd("A1B"), cmd("A12B")),
    ("re m", "CommandLine|re|m: '^b$'", cmd("a\nb\nc"), cmd("ab")),
    ("re without m", "CommandLine|re: '^b$'", cmd("b"), cmd("a\nb\nc", "b\n")),
    ("re s", "CommandLine|re|s: 'a.b'", cmd("a\nb"), cmd("ab")),
    ("re i m s", "CommandLine|re|i|m|s: '^b.c$'", cmd("a\nB\nC\n"), cmd("a B\nC")),
    ("re contains", "CommandLine|re|contains: 'b|c'", cmd("abd", "c"), cmd("a")),
    ("re startswith", "CommandLine|re|startswith: '[ab]|c'", cmd("ax", "c\nx"), cmd("xa", "x\na")),
    ("re endswith", "CommandLine|re|endswith: '[ab]'", cmd("xa", "x\nb"), cmd("ax", "a\n")),
    ("re list all", "CommandLine|re|all: ['a.', 'b.']", cmd("a1b1"), cmd("a1")),
    ("wide", "CommandLine|wide|contains: ab", cmd("xa\0b\0"), cmd("ab")),
    ("utf16be", "CommandLine|utf16be|contains: ab", cmd("\0a\0b"), cmd("a\0b")),
    ("base64", "CommandLine|base64|contains: foobar", cmd("x Zm9vYmFy"), cmd("foobar", b64("foobar", 1))),
    (
        "base64offset",
        "CommandLine|base64offset|contains: secret!",
        cmd(*(b64("secret!", n) for n in range(3))),
        cmd("a"),
    ),
    ("utf16 base64", "CommandLine|utf16|base64|contains: ab", cmd("//5hAGIA"), cmd("YWI=")),
    ("wide base64offset", "CommandLine|wide|base64offset|contains: ab", cmd("YQBiA"), cmd("ab")),
    ("windash", "CommandLine|windash|contains: ' -f '", cmd("x -f y", "x /f y", "x –f y", "x —F y"), cmd("x f y")),
    ("windash all", "CommandLine|windash|contains|all: [' -a', ' -b']", cmd("x /a -b"), cmd("x /a")),
    ("cased windash", "CommandLine|cased|windash|contains: ' -F'", cmd("x /F"), cmd("x /f")),
    ("exists", "CommandLine|exists: true", cmd(""), [{}]),
    ("exists not", "CommandLine|exists: false", [{}], cmd("")),
    ("null", "CommandLine: null", [{}], cmd("", "x")),
    ("null in list", "CommandLine: [null, x]", [{}, *cmd("x")], cmd("")),
    ("number", "UserId: 5", [{"user_id": 5}], [{"user_id": 50}, {}]),
    ("number, text field", "CommandLine: 5", cmd("5"), cmd("05", "5.0")),
    ("text, number field", "UserId: '5*'", [{"user_id": 5}, {"user_id": 50}], [{"user_id": 15}]),
    ("lt", "UserId|lt: 5", [{"user_id": 4}, {"user_id": -1}], [{"user_id": 5}, {}]),
    ("lte", "UserId|lte: 5", [{"user_id": 5}], [{"user_id": 6}]),
    ("gt", "UserId|gt: 5", [{"user_id": 6}], [{"user_id": 5}, {}]),
    ("gte", "UserId|gte: 4.5", [{"user_id": 5}], [{"user_id": 4}]),
    ("gt, text field", "CommandLine|gt: 5", cmd("6", "5.5", "10"), cmd("5", "x", "", "nan", "1_0", "-6", "0x9", "٩")),
    ("boolean", "Fileless: true", [{"fileless": True}], [{"fileless": False}, {}]),
    ("boolean as text", "Fileless: 'True'", [{"fileless": True}], [{"fileless": False}, {}]),
    ("boolean is no number", "Fileless: 1", [], [{"fileless": True}, {}]),
    ("neq", "CommandLine|neq: a", [*cmd("b"), {}], cmd("A")),
    ("neq list", "CommandLine|contains|neq: [a, b]", cmd("c"), cmd("xa", "bx")),
    (
        "fieldref",
        "Image|fieldref: ParentImage",
        [{"image": "/a", "parent_image": "/A"}],
        [{"image": "/a"}, {"image": "/a", "parent_image": "/b"}, {}],
    ),
    (
        "fieldref startswith",
        "CommandLine|fieldref|startswith: Image",
        [{CMD: "/a b", "image": "/a"}],
        [{CMD: "x /a", "image": "/a"}],
    ),
    (
        "fieldref endswith",
        "CommandLine|fieldref|endswith: Image",
        [{CMD: "b /a", "image": "/a"}],
        [{CMD: "/a b", "image": "/a"}],
    ),
    (
        "fieldref contains",
        "CommandLine|fieldref|contains: Image",
        [{CMD: "b /a b", "image": "/a"}],
        [{CMD: "b", "image": "/a"}],
    ),
    (
        "fieldref to a list",
        "Image|fieldref: Ancestors",
        [{"image": "/a", "ancestors": ["/b", "/a"]}],
        [{"image": "/a", "ancestors": []}],
    ),
    (
        "list field",
        "Ancestors|endswith: /sshd",
        [{"ancestors": ["/sbin/init", "/usr/sbin/SSHD"]}],
        [{"ancestors": ["/sshd/x"]}, {"ancestors": []}, {}],
    ),
    ("list field all", "Ancestors|endswith|all: [/a, /b]", [{"ancestors": ["/a", "/b"]}], [{"ancestors": ["/a"]}]),
    ("list field, whole", "Ancestors: /a", [{"ancestors": ["/b", "/A"]}], [{"ancestors": ["/ab"]}]),
    ("list field cased", "Ancestors|cased: /a", [{"ancestors": ["/b", "/a"]}], [{"ancestors": ["/A"]}]),
    ("Argv", 'Argv|contains: "\\0-R\\0"', [{"args": ["ssh", "-R", "1"]}], [{"args": ["ssh -R 1"]}, {}]),
]


@pytest.mark.parametrize(("detection", "yes", "no"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_values(detection: str, yes: list[Fields], no: list[Fields]) -> None:
    rule = rule_of(f"sel:\n  {detection}\ncondition: sel")
    assert rule.coverage.status == "full"
    assert [fires(rule, **fields) for fields in yes] == [True] * len(yes)
    assert [fires(rule, **fields) for fields in no] == [False] * len(no)


@pytest.mark.parametrize(
    ("network", "yes", "no"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.1", "9.255.255.255", "::a00:1"]),
        ("192.0.2.7/32", ["192.0.2.7"], ["192.0.2.6", "192.0.2.70", "", "x", "192.0.2", "192.0.2.7\0"]),
        ("2001:db8::/33", ["2001:db8::1", "2001:DB8:0:0::1%eth0"], ["2001:db8:8000::", "2001:db9::", "é::"]),
        ("0.0.0.0/0", ["255.1.1.1"], ["::1"]),
    ],
)
def test_cidr(network: str, yes: list[str], no: list[str]) -> None:
    rule = rule_of(f"sel:\n  DestinationIp|cidr: ['{network}', 203.0.113.0/24]\ncondition: sel", "network_connection")
    assert [fires(rule, destination_ip=address) for address in yes] == [True] * len(yes)
    assert [fires(rule, destination_ip=address) for address in no] == [False] * len(no)
    assert fires(rule, destination_ip="203.0.113.9")
    assert not fires(rule)


@pytest.mark.parametrize("value", ["'true'", "'True'", "true"])
def test_initiated_as_sigmahq_writes_it(value: str) -> None:
    rule = rule_of(f"sel: {{Initiated: {value}, DestinationPort: [22, '2222']}}\ncondition: sel", "network_connection")
    assert fires(rule, initiated=True, destination_port=22)
    assert fires(rule, initiated=True, destination_port=2222)
    assert not fires(rule, initiated=False, destination_port=22)
    assert not fires(rule, initiated=True, destination_port=2)


NAMED = """
a: {{CommandLine|contains: a}}
b: {{CommandLine|contains: b}}
b2: {{CommandLine|contains: B}}
c: {{CommandLine|contains: c}}
_hidden: {{CommandLine|contains: h}}
condition: {condition}
"""

CONDITIONS = [
    ("a", "a ac ah", "b"),
    ("(a)", "a", "b"),
    ("a and b", "ab abc", "a b"),
    ("a and not b", "a ac", "ab b"),
    ("not a", "b c", "a ab"),
    ("not (a or b)", "c -", "a b ab"),
    ("not not a", "a", "b"),
    ("a or b and c", "a bc abc", "b c"),
    ("(a or b) and c", "ac bc", "a b ab"),
    ("a and (b or (c and not h))".replace("h", "_hidden"), "ab ac abh", "a ach"),
    ("1 of b*", "b", "a c"),
    ("all of b*", "b", "a"),
    ("1 of them", "a b c", "h -"),
    ("any of them", "a c", "h"),
    ("all of them", "abc", "ab bc h"),
    ("not 1 of b*", "a c", "b ab"),
    ("a and not 1 of b*", "a ac", "ab b"),
    ("1 of _*", "h", "abc"),
    ("[a, c]", "a c ac", "b"),
    ("[a and b, not c]", "ab abc -", "ac bc"),
]


@pytest.mark.parametrize(("condition", "yes", "no"), CONDITIONS, ids=[case[0] for case in CONDITIONS])
def test_conditions(condition: str, yes: str, no: str) -> None:
    rule = rule_of(NAMED.format(condition=condition))
    assert [text for text in yes.split() if not fires(rule, command_line=text)] == []
    assert [text for text in no.split() if fires(rule, command_line=text)] == []


@pytest.mark.parametrize(
    ("detection", "yes", "no"),
    [
        ("Duration|gt: 60", [60.000001, 1e9], [60.0, 0.5]),
        ("Duration|lt: 1", [0.0000051, 0.0], [1.0]),
        ("Duration: 60", [60.0], [60.5, 600.0]),
        ("Duration: '0.5'", [0.5], [0.25]),
    ],
)
def test_fractions(detection: str, yes: list[float], no: list[float]) -> None:
    rule = rule_of(f"sel: {{{detection}}}\ncondition: sel", "network_flow")
    assert [fires(rule, duration=seconds) for seconds in yes] == [True] * len(yes)
    assert [fires(rule, duration=seconds) for seconds in no] == [False] * len(no)


def test_map_is_and_list_of_maps_is_or() -> None:
    rule = rule_of("sel:\n- {Image: /a, CommandLine: x}\n- {Image: /b}\ncondition: sel")
    assert fires(rule, image="/a", command_line="x")
    assert fires(rule, image="/b", command_line="y")
    assert not fires(rule, image="/a", command_line="y")


def test_keywords_are_searched_for_in_every_text() -> None:
    rule = rule_of("kw: [mimi?atz, 4444, 'a*z']\ncondition: kw")
    assert fires(rule, image="/tmp/MIMIKATZ.bin")
    assert fires(rule, ancestors=["/x", "/y 44441"])
    assert fires(rule, cgroup_path="/A\nZ")
    assert not fires(rule, image="/mimikat", command_line="444 za", user_id=4444)
    assert not fires(rule)


def test_keywords_all_may_stand_in_different_fields() -> None:
    rule = rule_of("kw:\n  '|all': [foo, bar]\ncondition: kw")
    assert fires(rule, image="/foo", command_line="bar")
    assert not fires(rule, image="/foo")


@pytest.mark.parametrize(
    ("modifier", "yes", "no"),
    [("re", "xfa1", "f1"), ("cased", "xf[a-z]1", "xF[a-z]1"), ("startswith", "f[a-z]1x", "xf[a-z]1")],
)
def test_keywords_with_modifiers(modifier: str, yes: str, no: str) -> None:
    rule = rule_of(f"kw:\n  '|{modifier}': 'f[a-z]1'\ncondition: kw")
    assert fires(rule, user=yes)
    assert not fires(rule, user=no)


def test_keyword_cidr() -> None:
    rule = rule_of("kw:\n  '|cidr': 192.0.2.0/24\ncondition: kw", "network_connection")
    assert fires(rule, destination_ip="192.0.2.1")
    assert not fires(rule, destination_ip="192.0.3.1")


def test_lone_surrogates_do_no_harm() -> None:
    rule = rule_of("sel:\n  CommandLine|re: 'a.?b'\nkw: [zz]\ncondition: 1 of *")
    assert fires(rule, command_line="\ud800ab")
    assert not fires(rule, command_line="\ud800\udfff")


def test_a_regular_expression_cannot_stall_the_sensor() -> None:
    """Backtracking would take longer than the universe has existed; the test then never ends."""
    rule = rule_of("sel:\n  CommandLine|re: '^(a+)+(b+)+$'\ncondition: sel")
    assert rule.coverage.status == "full"
    assert not fires(rule, command_line="a" * 4000 + "c")


@pytest.mark.parametrize("expression", ["a(?!b)", r"(.)x\1", "(?<=a)b", "(a+)+(?=b)", "a{2000}"])
def test_expressions_that_need_backtracking_are_not_run(expression: str) -> None:
    rule = rule_of(f"sel:\n  CommandLine|re: '{expression}'\ncondition: sel")
    assert rule.coverage.status == "never"
    assert "beyond RE2" in rule.coverage.reasons[0]
    assert not fires(rule, command_line="ac axa ab" + "a" * 3000)
