"""YAML as people and vandals write it: every value has its line, and nothing stops or bloats the reader."""

from __future__ import annotations

import resource
import sys
from subprocess import run

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import yamlfile

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def says(text: str) -> list[str]:
    return [str(fault) for fault in yamlfile.parse(text, "f")[1]]


@pytest.mark.parametrize(("text", "line"), [(LAUGHS, 5), (MERGED, 6), (LAUGHS.replace("a: &a", "? &a"), 5)])
def test_aliases_that_stand_for_too_much_are_one_fault_where_it_becomes_too_much(text: str, line: int) -> None:
    assert says(text) == [f"f:{line}: not YAML that can be used: more than 100,000 values, aliases expanded"]


def test_a_bomb_is_refused_before_it_is_built() -> None:
    """With no more memory than a small document needs; the bomb itself would be gigabytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))

    script = "import sys; from sensor import yamlfile; print(*yamlfile.parse(sys.stdin.read(), 'f')[1])"
    for text in (LAUGHS, MERGED):
        done = run([sys.executable, "-c", script], input=text, text=True, capture_output=True, preexec_fn=limit)
        assert done.returncode == 0 and "more than 100,000 values" in done.stdout, done.stderr


def test_as_many_values_as_there_may_be() -> None:
    documents, faults = yamlfile.parse(f"[{'x,' * 99_998}]", "f")
    assert not faults and len(documents[0].data) == 99_998
    assert says(f"[{'x,' * 100_001}]")
    assert says(f"[[[{'x,' * 60_000}]], [[{'x,' * 60_000}]]]")
    shared = "a: &a [x, y]\nb: *a\nc: [*a, *a]\n"
    assert yamlfile.parse(shared, "f")[0][0].data == {"a": ["x", "y"], "b": ["x", "y"], "c": [["x", "y"], ["x", "y"]]}


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")])
@pytest.mark.parametrize("depth", [101, 200_000])
def test_too_deep_is_a_fault(start: str, end: str, depth: int) -> None:
    assert says(start * depth + "x" + end * depth) == [
        "f:1: not YAML that can be used: nested more than 100 deep, aliases expanded"
    ]


def test_too_deep_by_aliases_is_a_fault() -> None:
    chain = "- &a0 [x]\n" + "".join(f"- &a{n} [*a{n - 1}]\n" for n in range(1, 200))
    assert says(chain) == ["f:100: not YAML that can be used: nested more than 100 deep, aliases expanded"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: &b [1, *b]\n", "f:2: not YAML that can be used: an alias contains itself"),
        ("a: 1\nb: *c\n", "f:2: not YAML: found undefined alias"),
        ("a: 1\na: 2\n", "f:2: duplicate key 'a'"),
        ("a: 1\nb: 2026-13-01\n", "f:2: '2026-13-01' is no timestamp"),
        ("a: 1\nb: !!bool perhaps\n", "f:2: 'perhaps' is no bool"),
        ("a: 1\nb: !!timestamp noon\n", "f:2: 'noon' is no timestamp"),
        ("a: 1\nb: !!int ''\n", "f:2: '' is no int"),
        ("a: 1\n? [x, y]\n: 2\n", "f:2: a key must be a plain value"),
        ("a: 1\nb:\n\tc: 2\n", "f:3: not YAML: a tab cannot indent; use blanks"),
        ("# é 𝄞\na:\n  b: 1\n\tc: 2\n", "f:4: not YAML: a tab cannot indent; use blanks"),
    ],
)
def test_faults_have_their_line(text: str, fault: str) -> None:
    assert says(text) == [fault]


def test_every_fault_of_a_document_is_told() -> None:
    assert says("a: 2026-13-01\na: 1\nc: {d: 1, d: 2}\n") == [
        "f:2: duplicate key 'a'",
        "f:3: duplicate key 'd'",
        "f:1: '2026-13-01' is no timestamp",
    ]


def test_a_merged_key_is_no_duplicate_however_often_its_map_is_used() -> None:
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: *b\nd: {y: &e {<<: *a, x: 3}, <<: *e}\n"
    documents, faults = yamlfile.parse(text, "f")
    assert not faults
    assert documents[0].data == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2}, "d": {"x": 3, "y": {"x": 3}}}


@given(st.text(st.sampled_from("ab:-?[]{}&*<!\"'|>%@#,. \n\t01x_é"), max_size=40))
def test_no_text_raises(text: str) -> None:
    for document in yamlfile.parse(text, "f")[0]:
        assert document.line_of(("a", 0)) >= 1
