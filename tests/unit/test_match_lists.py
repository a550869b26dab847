"""Lists of values behind placeholders: what they stand for, where they come from, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from matching import fires

from sensor.faults import FaultsError
from sensor.match.ir import Rule
from sensor.match.load import load_rules

RULE = """\
title: A rule
id: 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a01
logsource: {product: linux, category: process_creation}
detection:
  sel: {%s}
  condition: sel
"""
LIST = """\
description: What the tests look for.
groups:
  - sources: [https://example.com/list]
    values: [one.example, 'two.*.example']
  - sources: [our own]
    values: ['50%', 'a\\*b']
"""


def directory(top: Path, item: str = "", **lists: str) -> Path:
    (top / "data").mkdir(parents=True)
    if item:
        (top / "rule.yml").write_text(RULE % item)
    for name, text in lists.items():
        (top / "data" / f"{name}.yml").write_text(text)
    return top


def rule(*tops: Path) -> Rule:
    (found,) = load_rules(tops)
    return found


@pytest.mark.parametrize(
    ("item", "matching", "others"),
    [
        ("Image|expand: '%names%'", ["one.example", "ONE.EXAMPLE", "two.x.example", "50%", "a*b"], ["x.one.example"]),
        ("Image|expand|endswith: '.%names%'", ["x.one.example", ".two.a.b.example"], ["one.example", "xone.example"]),
        ("Image|endswith|expand: '.%names%'", ["x.one.example", ".two.a.b.example"], ["one.example", "xone.example"]),
        ("Image|expand|startswith: '%names%:'", ["one.example:443"], ["one.example", "one.example.net:443"]),
        ("Image|expand|contains: '%names%'", ["a one.example b", "aa*bb"], ["axb"]),
        ("Image|expand|cased: '%names%'", ["one.example"], ["One.example"]),
        ("Image|expand: ['%names%', other]", ["other", "one.example"], ["another"]),
        ("Image|expand: '%names%=%names%'", ["one.example=50%", "a*b=two.x.example"], ["one.example", "=", "a*b="]),
        ("Image|expand|neq: '%names%'", ["three"], ["one.example"]),
        ("Args|expand|all: ['%names%', '-x']", [["-x", "a*b"]], [["-x"], ["a*b"]]),
        ("Image|expand: 'plain'", ["plain"], ["one.example"]),
        ("Image: '%names%'", ["%names%"], ["one.example"]),
    ],
)
def test_a_placeholder_stands_for_any_value_of_its_list(
    item: str, matching: list[object], others: list[object], tmp_path: Path
) -> None:
    found = rule(directory(tmp_path / "r", item, names=LIST))
    assert found.coverage.status == "full"
    field = "args" if item.startswith("Args") else "image"
    assert [value for value in matching if not fires(found, **{field: value})] == []
    assert [value for value in others if fires(found, **{field: value})] == []


def test_a_list_of_the_site_adds_to_the_shipped_one(tmp_path: Path) -> None:
    shipped = directory(tmp_path / "shipped", "Image|expand: '%names%'", names=LIST)
    site = directory(tmp_path / "site", names="description: Ours.\ngroups: [{sources: [us], values: [three]}]")
    assert not fires(rule(shipped), image="three")
    both = rule(shipped, site)
    assert fires(both, image="three") and fires(both, image="one.example")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("Image|expand: '%nobody%'", "placeholder `%nobody%` has no values here"),
        ("Image|expand: '%names%-%nobody%'", "placeholder `%nobody%` has no values here"),
        ("Image|re|expand: '^%names%'", "placeholder `%names%` is not supported in a regular expression"),
        (
            "Image|expand: '%names%%names%%names%%names%%names%%names%%names%%names%%names%'",
            "its placeholders stand for 262,144 values, more than 100,000",
        ),
    ],
)
def test_a_placeholder_without_a_list_never_fires_and_says_why(item: str, reason: str, tmp_path: Path) -> None:
    found = rule(directory(tmp_path / "r", item, names=LIST))
    assert (found.coverage.status, found.coverage.reasons) == ("never", (reason,))


def test_a_sigma_filter_may_use_a_list(tmp_path: Path) -> None:
    top = directory(tmp_path / "r", "Image|startswith: /bin/", names=LIST.replace("one.example", "/bin/one"))
    (top / "filter.yml").write_text(
        "title: Not these\nlogsource: {product: linux, category: process_creation}\n"
        "filter: {rules: any, sel: {Image|expand: '%names%'}, condition: not sel}\n"
    )
    found = rule(top)
    assert fires(found, image="/bin/two") and not fires(found, image="/bin/one")


def test_a_changed_list_makes_the_cache_stale(tmp_path: Path) -> None:
    top, cache = directory(tmp_path / "r", "Image|expand: '%names%'", names=LIST), tmp_path / "cache"
    assert load_rules([top], cache).cache == "written"
    assert load_rules([top], cache).cache == "used"
    (top / "data" / "names.yml").write_text(LIST.replace("one.example", "three"))
    changed = load_rules([top], cache)
    assert changed.cache == "written" and fires(changed.rules[0], image="three")


FAULTS = [
    ("", "names.yml: must be one map of `description` and `groups`"),
    ("--- {}\n--- {}", "names.yml: must be one map of `description` and `groups`"),
    ("[]", "names.yml:1: must be a mapping, not a list"),
    ("description: x", "names.yml:1: groups is missing"),
    ("description: x\ngroups: []", "names.yml:2: groups: must not be empty"),
    ("description: x\ngroups:\n  - values: [a]", "names.yml:3: groups[0]: sources is missing"),
    ("description: x\ngroups:\n  - sources: []\n    values: [a]", "names.yml:3: groups[0].sources: must not be empty"),
    ("description: x\ngroups:\n  - {sources: [y], values: []}", "names.yml:3: groups[0].values: must not be empty"),
    (
        "description: x\ngroups:\n  - sources: [y]\n    values:\n      - a\n      - 443",
        "names.yml:6: groups[0].values[1]: must be text, not a whole number; put it in quotes",
    ),
    (
        "description: x\ngroups:\n  - sources: [y]\n    values:\n      - a\n      - '*'",
        "names.yml:6: groups[0].values[1]: '*' would be found in anything",
    ),
    (
        "description: x\ngroups:\n  - {sources: [y], values: [a]}\n  - {sources: [y], values: [b, A]}",
        "names.yml:4: 'A' is also on line 3",
    ),
    ("description: x\nvalue: y\ngroups: [{sources: [y], values: [a]}]", "names.yml:2: value: unknown key; known: "),
    ("description: x\ndescription: y", "names.yml:2: duplicate key 'description'"),
    ("description: [", "names.yml:2: not YAML: "),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS)
def test_faults_have_their_place(text: str, fault: str, tmp_path: Path) -> None:
    top = directory(tmp_path / "r", names=text)
    with pytest.raises(FaultsError) as error:
        load_rules([top])
    assert [str(found) for found in error.value.faults if str(found).startswith(f"{top}/data/{fault}")]


def test_faults_of_lists_and_rules_come_together(tmp_path: Path) -> None:
    top = directory(tmp_path / "r", "Image|nope: x", names="description: x", more="groups: [{values: [a]}]")
    (top / "data" / "binary.yml").write_bytes(b"\xff")
    with pytest.raises(FaultsError) as error:
        load_rules([top])
    assert len(error.value.faults) == 5
    assert {Path(fault.path).name for fault in error.value.faults} == {
        "binary.yml",
        "names.yml",
        "more.yml",
        "rule.yml",
    }


def test_a_list_may_be_named_by_itself(tmp_path: Path) -> None:
    top = directory(tmp_path / "r", "Image|expand: '%names%'", names=LIST)
    assert fires(rule(top / "rule.yml", top / "data" / "names.yml"), image="one.example")
