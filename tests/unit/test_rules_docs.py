"""docs/RULES.md says what is so: its example works, its fields are all there are, its table is the shipped rules."""

from __future__ import annotations

import re
from pathlib import Path

from sensor.cli.samples import read_samples
from sensor.config import shipped_rules_dir
from sensor.events import CLASSES, NetworkConnection, fields_of
from sensor.match.fanout import ADDRESSES_RULE, PORTS_RULE
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.match.profiles import DESTINATION_RULE, PROGRAM_RULE, VOLUME_RULE

PAGE = (Path(__file__).parents[2] / "docs" / "RULES.md").read_text()


def test_the_example_is_a_rule_and_its_samples_agree(tmp_path: Path) -> None:
    rule_text, sample_text, _ = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "rule.yml").write_text(rule_text)
    (tmp_path / "sample.yaml.txt").write_text(sample_text)
    (rule,) = load_rules([tmp_path])
    samples, faults = read_samples(tmp_path / "sample.yaml.txt")
    assert rule.coverage.status == "full" and not faults and len(samples) == 3
    for sample in samples:
        assert bool(Matcher([rule]).match(sample.event)) == (sample.expected == "match")


def test_the_correlation_of_the_example_fires(tmp_path: Path) -> None:
    *_, text = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "rule.yml").write_text(text)
    rules = load_rules([tmp_path])
    assert [rule.coverage.status for rule in rules] == ["full", "full"]
    matcher = Matcher(rules)
    to = [f"10.0.0.{number}" for number in (1, 2, 3, 4, 4, 5)]
    found = [
        verdict.rule.title
        for number, address in enumerate(to)
        for verdict in matcher.match(
            NetworkConnection(
                time=10**18 + number, process_guid="p", destination_ip=address, destination_scope="private"
            )
        )
    ]
    assert found == ["One process reaches for many hosts"]


def test_the_table_of_fields_is_complete() -> None:
    rows = dict(re.findall(r"^\| `?(all|\w+_\w+)`? \| (.*) \|$", PAGE, re.M))

    def named(row: str) -> set[str]:
        names = set(re.findall(r"`(\w+)`", rows[row]))
        return (names - rows.keys()).union(*(named(other) for other in names & rows.keys()))

    for category in CLASSES:
        assert named("all") | named(category) == set(fields_of(category))


def test_the_table_of_rules_is_the_shipped_ones() -> None:
    rows = set(re.findall(r"^\| (.+) \| (\w+) \| (\w+) \| `rules/(.+)` \|$", PAGE, re.M))
    top = Path(shipped_rules_dir())
    rules = load_rules([top])
    assert rows == {(r.info.title, r.info.level, r.info.action, str(Path(r.info.path).relative_to(top))) for r in rules}


def test_the_table_of_what_is_built_in() -> None:
    built_in = (ADDRESSES_RULE, PORTS_RULE, VOLUME_RULE, DESTINATION_RULE, PROGRAM_RULE)
    rows = re.findall(r"^\| (.+) \| (\w+) \| .+ \| `([0-9a-f-]{36})` \|$", PAGE, re.M)
    assert rows == [(rule.title, rule.level, rule.id) for rule in built_in]
