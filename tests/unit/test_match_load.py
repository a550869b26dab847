"""Rule directories: what is read, every fault with its place, and a cache that changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matching import fires, parse

from sensor.faults import FaultsError
from sensor.match import cache as kept
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.verdict import RuleInfo

GOOD = """\
title: Good
id: 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a01
level: high
tags: [attack.command-and-control, attack.t1572, attack.t1059.004, cve.2024-1]
logsource: {product: linux, category: process_creation}
detection:
  sel: {Image|endswith: /ssh}
  condition: sel
response: {action: kill, scope: process}
"""


def write(directory: Path, **texts: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / f"{name}.yml").write_text(text)
    return directory


def test_what_an_alert_says_of_its_rule(tmp_path: Path) -> None:
    write(tmp_path, good=GOOD)
    (rule,) = load_rules([tmp_path])
    assert rule.info == RuleInfo(
        id="5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a01",
        title="Good",
        level="high",
        techniques=("T1572", "T1059.004"),
        action="kill",
        scope="process",
        path=str(tmp_path / "good.yml"),
    )


def test_defaults_and_a_derived_id_that_stays(tmp_path: Path) -> None:
    bare = "title: Bare\nlogsource: {category: process_creation}\ndetection: {s: {Image: a}, condition: s}\n"
    (one,) = load_rules([write(tmp_path / "one", bare=bare)])
    (two,) = load_rules([write(tmp_path / "two", bare=bare)])
    (other,) = load_rules([write(tmp_path / "two", bare=bare.replace("Bare", "Other"))])
    assert one.info.id == two.info.id != other.info.id
    assert (one.info.level, one.info.action, one.info.scope) == ("medium", "alert", "cgroup")
    documents, faults = parse(f"{bare}---\n{bare}")
    assert not faults
    assert len({rule.info.id for rule in documents}) == 2


def test_which_files_are_read(tmp_path: Path) -> None:
    def rule(number: int) -> str:
        return GOOD.replace("6a01", f"6a{number:02}").replace("Good", f"Rule {number}")

    write(tmp_path / "r" / "b" / "deep", x=rule(1))
    write(tmp_path / "r" / "samples", x="not: a rule")
    write(tmp_path / "r" / "b" / "samples", x="not: a rule")
    write(tmp_path / "r" / ".git", x="not: a rule")
    (tmp_path / "r" / "a.yaml").write_text(rule(2))
    (tmp_path / "r" / ".hidden.yml").write_text("not: a rule")
    (tmp_path / "r" / "README.md").write_text("not a rule")
    (tmp_path / "single.yml").write_text(rule(3))
    (tmp_path / "empty.yml").write_text("# nothing yet\n")
    rules = load_rules([tmp_path / "r", str(tmp_path / "r"), tmp_path / "single.yml", tmp_path / "empty.yml"])
    assert [rule.info.title for rule in rules] == ["Rule 2", "Rule 1", "Rule 3"]
    assert rules.summary() == {"full": 3, "degraded": 0, "never": 0}


def test_several_documents_and_collection_actions() -> None:
    text = """\
action: global
title: Shared
logsource: {category: process_creation}
detection: {condition: sel}
---
detection: {sel: {Image: /a}}
---
detection: {sel: {Image: /b}}
level: low
---
action: repeat
title: Again
detection: {sel: {CommandLine: c}}
---
action: reset
---
title: Alone
logsource: {category: process_creation}
detection: {s: {Image: /d}, condition: s}
---
"""
    rules, faults = parse(text)
    assert not faults
    assert [(rule.info.title, rule.line) for rule in rules] == [
        ("Shared", 6),
        ("Shared", 8),
        ("Again", 11),
        ("Alone", 17),
    ]
    assert fires(rules[0], image="/a")
    assert not fires(rules[0], image="/b")
    assert fires(rules[1], image="/b")
    assert fires(rules[2], image="/b", command_line="c")
    assert not fires(rules[2], image="/b")
    assert fires(rules[3], image="/d")


BROKEN = {
    "shape": "- a list\n",
    "yaml": "title: [\n",
    "twice": GOOD.replace("level: high", "level: high\nlevel: low"),
    "common": """\
title: Bad
id: nonsense
level: urgent
status: fine
date: yesterday
tags:
  - attack.t1
  - loose
logsource: {}
detection:
  sel:
    Image|nosuch: a
    CommandLine|re:
      - fine
      - '(unclosed'
    DestinationIp|cidr: [10.0.0.0/8, 10.0.0.0/99]
    User|base64: 'a*b'
  empty: {}
  condition: sel
response:
  action: explode
  scope: everyone
  colour: red
""",
    "types": """\
title: Types
id: 5
logsource: {category: process_creation}
level: nope
detection:
  sel:
    1: a
    Image|re: 5
    CommandLine|contains: {a: b}
    User|startswith: 7
  condition: [sel, 3]
response: kill
""",
    "conditions": """\
title: Conditions
logsource: {service: sshd}
detection:
  sel: {Image: a}
  condition:
    - sel
    - sel and missing
    - 1 of none*
    - sel and
    - sel | count() > 3
""",
    "bare": "title: Bare\n",
    "correlation": "title: C\ncorrelation: {type: nonsense, rules: [x], timespan: 1m, condition: {gte: 1}}\n",
    "action": "action: explode\n",
    "unused": GOOD.replace("6a01", "6a02").replace(
        "sel: {Image|endswith: /ssh}", "sel: {Image: a}\n  odd: {User|nosuch: a}"
    ),
}


def test_every_fault_of_every_file_at_once(tmp_path: Path) -> None:
    write(tmp_path, good=GOOD, copy=GOOD, **BROKEN)
    (tmp_path / "bytes.yml").write_bytes(b"title: \xff\n")
    (tmp_path / "gone.yml").symlink_to("nowhere")
    with pytest.raises(FaultsError) as caught:
        load_rules([tmp_path, tmp_path / "missing"])
    lines = [str(fault).removeprefix(f"{tmp_path}/") for fault in caught.value.faults]
    for line in EXPECTED:
        assert [found for found in lines if found.startswith(line)], f"{line!r} is not in\n" + "\n".join(lines)
    assert len(lines) == len(EXPECTED), "\n".join(lines)


EXPECTED = [
    "action.yml:1: unknown action 'explode'",
    "bare.yml:1: Sigma rule must have a log source",
    "bare.yml:1: Sigma rule must have a detection",
    "bytes.yml: is not UTF-8 (byte 7)",
    "common.yml:2: Sigma rule identifier must be an UUID",
    "common.yml:3: 'urgent' is not a valid Sigma rule level",
    "common.yml:4: 'fine' is not a valid Sigma rule status",
    "common.yml:5: Rule date 'yesterday' is invalid",
    "common.yml:8: tag 'loose'",
    "common.yml:9: Sigma log source can't be empty",
    "common.yml:12: `Image|nosuch`: Unknown modifier 'nosuch'",
    "common.yml:15: `CommandLine|re`: Regular expression '(unclosed' is invalid",
    "common.yml:16: `DestinationIp|cidr`: Invalid CIDR expression",
    "common.yml:17: `User|base64`: Base64 encoding of strings with wildcards",
    "common.yml:18: Detection is empty",
    "common.yml:21: response.action 'explode' is unknown; known: alert, isolate, freeze, kill, deny",
    "common.yml:22: response.scope 'everyone' is unknown; known: process, cgroup, agent",
    "common.yml:23: unknown key 'colour' in response",
    "conditions.yml:7: condition: detection 'missing' is not defined",
    "conditions.yml:8: condition: `1 of none*` refers to no detection",
    "conditions.yml:9: condition: ",
    "conditions.yml:10: condition: The pipe syntax",
    "correlation.yml:2: 'nonsense' is no valid Sigma correlation type",
    "gone.yml: cannot be read: No such file",
    "good.yml:2: id 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a01 is also that of the rule at ",
    "missing: cannot be read: No such file",
    "shape.yml:1: a rule is a map",
    "twice.yml:2: id 5ba2a9c8-5d4c-4f1c-9c8b-0d3c0b1f6a01 is also that of the rule at ",
    "twice.yml:4: duplicate key 'level'",
    "types.yml:2: `id` must be text",
    "types.yml:4: 'nope' is not a valid Sigma rule level",
    "types.yml:7: `1`: a key here must be text",
    "types.yml:8: `Image|re`: a regular expression must be text",
    "types.yml:9: `CommandLine|contains`: Unsupported type",
    "types.yml:10: `User|startswith`: this modifier",
    "types.yml:11: `condition` must be text",
    "types.yml:12: response must be a map",
    "unused.yml:8: `User|nosuch`",
    "yaml.yml:2: not YAML",
]


plain_values = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["sel", "1 of them", "a*", "x", "\\ud800"])
)
keys = st.sampled_from(
    ["sel", "condition", "Image|re", "Image|cidr", "|all", "Image|expand|lt", "action", "type", "rules", 5]
)
oddities = st.recursive(
    plain_values, lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3), max_leaves=8
)
sections = [
    "title",
    "id",
    "name",
    "level",
    "tags",
    "related",
    "logsource",
    "detection",
    "response",
    "correlation",
    "filter",
]
documents = st.dictionaries(st.sampled_from([*sections, "action", "date", "fields"]), oddities, max_size=5)
sound = {
    "title": "T",
    "logsource": {"category": "process_creation"},
    "detection": {"sel": {"Image": "a"}, "condition": "sel"},
}


@settings(max_examples=300, deadline=None)
@given(st.lists(documents, min_size=1, max_size=3), st.booleans())
def test_no_document_however_odd_raises(odd: list[dict[str, object]], over_sound: bool) -> None:
    texts = [yaml.safe_dump({**sound, **document} if over_sound else document) for document in odd]
    rules, faults = parse("---\n".join(texts), texts[0])
    Matcher(rules)
    assert all(fault.path.startswith("/rules/r") and "\n" not in fault.what for fault in faults)


def test_the_cache_gives_the_same_rules_without_pysigma(tmp_path: Path) -> None:
    rules, cache = write(tmp_path / "r", good=GOOD), tmp_path / "state" / "rules.cache"
    assert load_rules([rules], cache).cache == "written"
    assert cache.stat().st_mode & 0o777 == 0o600
    assert load_rules([rules], cache).cache == "used"
    assert load_rules([rules], cache).rules == load_rules([rules]).rules
    program = (
        "import sys; from pathlib import Path; from sensor.match.load import load_rules;"
        f"print(load_rules([{str(rules)!r}], Path({str(cache)!r})).cache,"
        "[name for name in sys.modules if name.split('.')[0] in ('sigma', 'yaml', 're2')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "used []\n"


def test_a_change_in_any_file_makes_the_cache_stale(tmp_path: Path) -> None:
    rules, cache = write(tmp_path / "r", good=GOOD), tmp_path / "cache"
    load_rules([rules], cache)
    write(rules, good=GOOD.replace("/ssh", "/scp"))
    changed = load_rules([rules], cache)
    assert changed.cache == "written"
    assert fires(changed.rules[0], image="/bin/scp")
    write(rules, more=GOOD.replace("6a01", "6a02"))
    assert len(load_rules([rules], cache)) == 2
    (rules / "more.yml").unlink()
    assert len(load_rules([rules], cache)) == 1


def test_faults_are_found_in_spite_of_a_cache_and_are_not_cached(tmp_path: Path) -> None:
    rules, cache = write(tmp_path / "r", good=GOOD), tmp_path / "cache"
    load_rules([rules], cache)
    before = cache.read_bytes()
    write(rules, bad="title: Bad\n")
    for _ in range(2):
        with pytest.raises(FaultsError):
            load_rules([rules], cache)
    assert cache.read_bytes() == before


@pytest.mark.parametrize("spoil", ["truncated", "flipped", "garbage", "empty", "sealed nonsense"])
def test_a_damaged_cache_is_rewritten(tmp_path: Path, spoil: str) -> None:
    rules, cache = write(tmp_path / "r", good=GOOD), tmp_path / "cache"
    load_rules([rules], cache)
    content = cache.read_bytes()
    at = content.index(b"/ssh")
    key = kept.key_of([(str(rules / "good.yml"), "good.yml", GOOD.encode())])
    cache.write_bytes(
        {
            "truncated": content[:-5],
            "flipped": content[:at] + b"/scp" + content[at + 4 :],
            "garbage": b"\xff\x00" * 99,
            "empty": b"",
            "sealed nonsense": kept._seal(key, b"[1]") + b"\n[1]",
        }[spoil]
    )
    loaded = load_rules([rules], cache)
    assert loaded.cache == "written"
    assert fires(loaded.rules[0], image="/bin/ssh")
    assert load_rules([rules], cache).cache == "used"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_cache_that_others_could_write_is_not_used(tmp_path: Path, mode: int) -> None:
    rules, cache = write(tmp_path / "r", good=GOOD), tmp_path / "cache"
    load_rules([rules], cache)
    cache.chmod(mode)
    assert load_rules([rules], cache).cache == "written"
    assert cache.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_cache_of_another_user_is_not_used(tmp_path: Path) -> None:
    rules, cache = write(tmp_path / "r", good=GOOD), tmp_path / "cache"
    load_rules([rules], cache)
    os.chown(cache, 65534, 65534)
    assert load_rules([rules], cache).cache == "written"
    assert cache.stat().st_uid == os.geteuid()


def test_a_link_a_fifo_or_a_directory_is_no_cache(tmp_path: Path) -> None:
    rules, real, cache = write(tmp_path / "r", good=GOOD), tmp_path / "real", tmp_path / "cache"
    load_rules([rules], real)
    cache.symlink_to(real)
    assert load_rules([rules], cache).cache == "written"
    assert not cache.is_symlink()
    cache.unlink()
    os.mkfifo(cache)
    assert load_rules([rules], cache).cache == "written"
    assert cache.is_file()
    cache.unlink()
    cache.mkdir()
    loaded = load_rules([rules], cache)
    assert loaded.cache.startswith("not written: ")
    assert len(loaded) == 1
    assert not list(tmp_path.glob(".cache.*"))


def test_the_cache_key_covers_what_gives_rules_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [("/r/a.yml", "a.yml", b"x")]
    keys = {kept.key_of(files), kept.key_of([("/r/a.yml", "a.yml", b"y")]), kept.key_of([("/r/b.yml", "b.yml", b"x")])}
    monkeypatch.setattr(kept, "_pysigma_version", lambda: "pysigma-99.dist-info")
    keys.add(kept.key_of(files))
    monkeypatch.setattr(kept, "__version__", "99")
    keys.add(kept.key_of(files))
    monkeypatch.setattr(kept.ir, "SCHEMA", 99)
    keys.add(kept.key_of(files))
    assert len(keys) == 6


def test_the_version_of_pysigma_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert kept._pysigma_version().lower().startswith(f"pysigma-{version('pysigma')}.")
