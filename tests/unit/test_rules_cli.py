"""`hostbrake rules`, as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

RULE = """\
title: A rule
id: 0b5f3c1e-7b1d-4f7e-9a43-3c1a1c9a2b10
logsource: {product: linux, category: process_creation}
detection:
  selection: {Image|endswith: /evil}
  condition: selection
level: high
response: {action: kill, scope: process}
"""
SAMPLES = """\
match:
  - {category: process_creation, Image: /tmp/evil, Args: [evil, "a b"]}
no_match:
  - {category: process_creation, Image: /usr/bin/true}
"""
RULE_ID = "0b5f3c1e-7b1d-4f7e-9a43-3c1a1c9a2b10"


def hostbrake(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sensor.cli.main import main; main()", "rules", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "a.yml").write_text(RULE)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / f"{RULE_ID}.yml").write_text(SAMPLES)
    return tmp_path


def test_the_shipped_rules_are_listed_valid_covered_and_as_their_samples_say() -> None:
    listed = orjson.loads(hostbrake("list", "--json").stdout)
    assert {"id", "level", "action", "scope", "category", "silent", "title", "techniques", "path"} == set(listed[0])
    validated = hostbrake("validate")
    assert (validated.returncode, validated.stdout) == (0, f"{len(listed)} rules are valid\n")
    covered = orjson.loads(hostbrake("coverage", "--json").stdout)
    assert covered["counts"] == {"full": len(listed), "degraded": 0, "never": 0}
    tested = hostbrake("test")
    assert (tested.returncode, tested.stderr) == (0, "")
    assert tested.stdout.startswith(f"{len(listed)} rules, ") and tested.stdout.endswith("all as they should be\n")


def test_list_shows_each_rule_on_a_pipe_too(rules: Path) -> None:
    done = hostbrake("list", "--rules", rules)
    assert done.returncode == 0
    for word in ("high", "kill", "process_creation", "A rule", RULE_ID, "1 rule"):
        assert word in done.stdout


def test_a_title_cannot_style_or_forge_the_table(rules: Path) -> None:
    (rules / "a.yml").write_text(RULE.replace("A rule", '"[red]x[/] \\e[2J"'))
    done = hostbrake("list", "--rules", rules)
    assert done.returncode == 0 and "[red]x[/]" in done.stdout and "\x1b" not in done.stdout


def test_validate_names_every_fault_of_every_file(rules: Path) -> None:
    (rules / "b.yml").write_text("title: B\nlogsource: {product: linux}\ndetection: {condition: gone}\nlevel: urgent\n")
    (rules / "c.yml").write_text("title: [\n")
    done = hostbrake("validate", rules)
    assert done.returncode == 2 and not done.stdout
    places = [line.partition(": ")[0] for line in done.stderr.splitlines()]
    assert f"{rules / 'b.yml'}:4" in places
    assert any(place.startswith(f"{rules / 'c.yml'}:") for place in places)
    assert hostbrake("validate", rules / "a.yml").stdout == "1 rule is valid\n"


def test_coverage_gives_the_reason_and_is_no_error(rules: Path) -> None:
    (rules / "b.yml").write_text(RULE.replace("process_creation", "file_event").replace("a2b10", "a2b11"))
    done = hostbrake("coverage", "--rules", rules)
    assert done.returncode == 0
    assert "file_event" in done.stdout and "2 rules: 1 full, 0 degraded, 1 never fires" in done.stdout
    assert hostbrake("validate", rules).stdout == "2 rules are valid (1 never fires; why: hostbrake rules coverage)\n"
    covered = orjson.loads(hostbrake("coverage", "--rules", rules, "--json").stdout)
    assert [rule["status"] for rule in covered["rules"]] == ["full", "never"] and covered["rules"][1]["reasons"]


def test_test_says_which_sample_and_rule_disagree(rules: Path) -> None:
    assert hostbrake("test", "--rules", rules).returncode == 0
    path = rules / "samples" / f"{RULE_ID}.yml"
    path.write_text(SAMPLES.replace("/tmp/evil", "/tmp/good").replace("/usr/bin/true", "/usr/bin/evil"))
    done = hostbrake("test", "--rules", rules)
    assert done.returncode == 1
    assert f'{path}:2: does not match, but must: {{"Image":"/tmp/good"' in done.stderr
    assert f'{path}:4: matches, but must not: {{"Image":"/usr/bin/evil"' in done.stderr
    assert "1 rule, 2 samples: 1 rule failed" in done.stdout


def test_test_takes_one_rule(rules: Path) -> None:
    (rules / "b.yml").write_text(RULE.replace("a2b10", "a2b11"))
    assert "1 rule without samples" in hostbrake("test", "--rules", rules).stdout
    assert hostbrake("test", "--rules", rules, "--rule", RULE_ID).returncode == 0
    assert hostbrake("test", "--rules", rules, "--rule", RULE_ID[:-1] + "1").returncode == 1
    assert hostbrake("test", "--rules", rules, "--rule", "nothing").returncode == 2


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (SAMPLES.replace("/usr/bin/true}", "/usr/bin/true, Colour: red}"), 4, "Colour"),
        (SAMPLES.replace("{category: process_creation, Image: /usr/bin/true}", "text"), 4, "an event is an object"),
        (SAMPLES.partition("no_match")[0], 1, "`no_match` must be a list of at least one event"),
        (SAMPLES + "perhaps: []\n", 5, "unknown key `perhaps`"),
        ("match: [\n", 2, "not YAML"),
        ("- 1\n", 0, "must be one map"),
    ],
)
def test_faults_in_a_sample_file_have_their_place(rules: Path, text: str, line: int, says: str) -> None:
    path = rules / "samples" / f"{RULE_ID}.yml"
    path.write_text(text)
    done = hostbrake("test", "--rules", rules)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{path}:{line}: " if line else f"{path}: ") and says in done.stderr


def test_samples_of_no_rule_are_a_fault(rules: Path) -> None:
    (rules / "samples" / "nobody.yml").write_text(SAMPLES)
    done = hostbrake("test", "--rules", rules)
    assert done.returncode == 2 and "no rule has this id" in done.stderr


CORRELATION = """\
title: Twice within a minute
id: 0b5f3c1e-7b1d-4f7e-9a43-3c1a1c9a2b11
correlation:
  type: event_count
  rules: [0b5f3c1e-7b1d-4f7e-9a43-3c1a1c9a2b10]
  group-by: User
  timespan: 1m
  condition: {gte: 2}
"""


def in_a_row(*seconds: int, user: str = "a") -> str:
    return "".join(
        f"{'  - - ' if place == 0 else '    - '}"
        f'{{time: "2026-03-01T10:{second // 60:02}:{second % 60:02}Z", category: process_creation, Image: /evil, '
        f"User: {user}}}\n"
        for place, second in enumerate(seconds)
    )


def test_samples_of_a_correlation_are_events_in_a_row_and_do_not_mix(rules: Path) -> None:
    (rules / "b.yml").write_text(CORRELATION)
    samples = rules / "samples" / "0b5f3c1e-7b1d-4f7e-9a43-3c1a1c9a2b11.yml"
    samples.write_text("match:\n" + in_a_row(0, 59) + "no_match:\n" + in_a_row(0) + in_a_row(0, 60) + in_a_row(30))
    done = hostbrake("test", "--rules", rules)
    assert (done.returncode, done.stderr) == (0, ""), "the rule that only feeds it has samples of its own"
    assert "2 rules, 6 samples" in done.stdout
    samples.write_text("match:\n" + in_a_row(0, 60) + "no_match:\n" + in_a_row(0, 1))
    done = hostbrake("test", "--rules", rules)
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        "does not match, but must",
        "matches, but must not",
    ]
    samples.write_text("match:\n  - []\nno_match:\n" + in_a_row(0))
    assert hostbrake("test", "--rules", rules).returncode == 2


def test_list_tells_rules_that_only_feed(rules: Path) -> None:
    (rules / "b.yml").write_text(CORRELATION)
    listed = orjson.loads(hostbrake("list", "--json", "--rules", rules).stdout)
    assert [(rule["silent"], rule["category"]) for rule in listed] == [
        (True, "process_creation"),
        (False, "correlation"),
    ]
    assert "feeds" in hostbrake("list", "--rules", rules).stdout
