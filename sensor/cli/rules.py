"""`hostbrake rules`: what the rules are, whether they are right, what they cover, and whether they do as they say."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sensor.cli.samples import Sample, read_samples
from sensor.config import default_rules, shipped_rules_dir
from sensor.events import to_record
from sensor.faults import Fault, FaultsError, printable
from sensor.match.ir import Rule, Status
from sensor.match.load import RuleSet, load_rules
from sensor.match.matcher import Matcher

_LEVELS = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "informational": "dim"}
_STATUSES: dict[Status, tuple[str, str]] = {
    "full": ("full", "green"),
    "degraded": ("degraded", "yellow"),
    "never": ("never fires", "red"),
}

_directories = click.option(
    "--rules",
    "directories",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    metavar="DIR",
    help="directory of rules, repeatable; default: the shipped ones and /etc/hostbrake/rules.d",
)
_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output")


@click.group()
def rules() -> None:
    """List, validate and test rules; show what they cover.

    Rules are Sigma rules in *.yml files below the rule directories; docs/RULES.md says how to write one.
    """


@rules.command("list", short_help="Every rule: level, action, category and title.")
@_directories
@_json
def list_rules(directories: tuple[Path, ...], as_json: bool) -> None:
    """Every rule: level, action, category and title.

    The action `feeds` is that of a rule that raises no alert itself: it only feeds correlation rules.
    """
    found = _load(directories)
    if as_json:
        _write_json([_description(rule) for rule in found])
        return
    table = _table("level", "action", "category", "rule")
    for rule in found:
        info = rule.info
        action = Text("feeds" if rule.silent else info.action, "" if rule.silent or info.action == "alert" else "bold")
        title = Text.assemble(printable(info.title), "\n", (printable(info.id), "dim"))
        table.add_row(Text(info.level, _LEVELS[info.level]), action, Text(printable(_category(rule))), title)
    _console().print(table)
    click.echo(_count(len(found), "rule"))


@rules.command("validate", short_help="Name every fault of every rule.")
@click.argument("paths", type=click.Path(path_type=Path, exists=True), nargs=-1)
@_directories
def validate(paths: tuple[Path, ...], directories: tuple[Path, ...]) -> None:
    """Name every fault of every rule in PATHs (files or directories); exit 2 if there is one."""
    found = _load((*paths, *directories))
    limited = f" ({found.limited()}; why: hostbrake rules coverage)" if found.limited() else ""
    click.echo(f"{_count(len(found), 'rule')} {'is' if len(found) == 1 else 'are'} valid{limited}")


@rules.command("coverage", short_help="Which rules can be decided, and why not.")
@_directories
@_json
def coverage(directories: tuple[Path, ...], as_json: bool) -> None:
    """Which rules this sensor can decide in full, in part (degraded) or not at all (never fires), and why."""
    found = _load(directories)
    counts = Counter(rule.coverage.status for rule in found)
    if as_json:
        _write_json({"counts": {status: counts[status] for status in _STATUSES}, "rules": [_covered(r) for r in found]})
        return
    limited = [rule for rule in found if rule.coverage.status != "full"]
    if limited:
        table = _table("coverage", "rule", "reason")
        for rule in limited:
            reasons = "\n".join(map(printable, rule.coverage.reasons))
            table.add_row(Text(*_STATUSES[rule.coverage.status]), Text(printable(rule.info.title)), Text(reasons))
        _console().print(table)
    says = ", ".join(f"{counts[status]} {name}" for status, (name, _) in _STATUSES.items())
    click.echo(f"{_count(len(found), 'rule')}: {says}")


@rules.command("test", short_help="Run each rule's samples through the matcher.")
@_directories
@click.option("--rule", "only", metavar="ID", help="test this rule alone")
def test(directories: tuple[Path, ...], only: str | None) -> None:
    """Run each rule's samples (samples/RULE-ID.yml) through the matcher.

    Exits 1 where a sample and its rule disagree or a shipped rule has no samples, 2 where a file has a fault.
    """
    tops = _tops(directories)
    found = load_rules(tops)
    known = {rule.info.id: rule for rule in found}
    if only is not None and only not in known:
        raise click.BadParameter(f"no rule has the id {only}", param_hint="--rule")
    samples = _samples(tops, known, only)
    disagreements = _disagreements(found, samples)
    without = [rule for rule in found if rule.info.id not in samples and only in (None, rule.info.id)]
    wanting = [rule for rule in without if only is not None or _is_shipped(rule)]
    for rule in wanting:
        click.echo(f"{rule.info.path}: no samples: samples/{rule.info.id}.yml is missing", err=True)
    for sample, what in disagreements:
        click.echo(f"{sample.path}:{sample.line}: {what}", err=True)
    events = sum(map(len, samples.values()))
    bad = len({sample.path for sample, _ in disagreements}) + len(wanting)
    verdict = f"{_count(bad, 'rule')} failed" if bad else "all as they should be"
    click.echo(f"{_count(len(samples), 'rule')}, {_count(events, 'sample')}: {verdict}")
    if len(without) > len(wanting):
        click.echo(f"{_count(len(without) - len(wanting), 'rule')} without samples")
    sys.exit(1 if bad else 0)


def _tops(directories: Sequence[Path]) -> list[Path]:
    return list(directories) or [Path(path) for path in default_rules()]


def _load(directories: Sequence[Path]) -> RuleSet:
    return load_rules(_tops(directories))


def _samples(tops: Iterable[Path], known: dict[str, Rule], only: str | None) -> dict[str, list[Sample]]:
    """The samples of each rule; raises FaultsError with the faults of every sample file."""
    faults: list[Fault] = []
    samples: dict[str, list[Sample]] = {}
    for path in sorted({path for top in tops for path in (top / "samples").glob("*.y*ml")}):
        if only not in (None, path.stem):
            continue
        if path.stem not in known:
            faults.append(Fault(str(path), 0, "no rule has this id"))
        found, wrong = read_samples(path)
        samples.setdefault(path.stem, []).extend(found)
        faults += wrong
    if faults:
        raise FaultsError(faults)
    return samples


def _disagreements(found: RuleSet, samples: dict[str, list[Sample]]) -> list[tuple[Sample, str]]:
    correlations = {rule.info.id for rule in found if rule.correlation is not None}
    # Alone, each rule speaks for itself, also where it only feeds a correlation.
    plain = [msgspec.structs.replace(rule, silent=False) for rule in found if rule.info.id not in correlations]
    single = Matcher(plain)
    never = {rule.info.id: rule.coverage.reasons for rule in found if rule.coverage.status == "never"}
    wrong: list[tuple[Sample, str]] = []
    for rule_id, events in samples.items():
        for sample in events:
            matched = _matches(rule_id, sample, found if rule_id in correlations else single)
            if matched == (sample.expected == "match"):
                continue
            what = "matches, but must not" if matched else "does not match, but must"
            if rule_id in never:
                what += f" (the rule never fires: {'; '.join(never[rule_id])})"
            wrong.append((sample, f"{what}: {_shown(sample)}"))
    return wrong


def _matches(rule_id: str, sample: Sample, rules: RuleSet | Matcher) -> bool:
    """A matcher is used as it is; rules get one of their own, so that no sample sees what another left behind."""
    matcher = rules if isinstance(rules, Matcher) else Matcher(rules)
    verdicts = [verdict for event in sample.events for verdict in matcher.match(event)]
    if matcher is not rules:
        verdicts += matcher.finish()
    return any(verdict.rule.id == rule_id for verdict in verdicts)


def _shown(sample: Sample) -> str:
    records = list(map(to_record, sample.events))
    for record in records:
        del record["category"]
        if "Args" in record:
            record.pop("CommandLine", None)
        if len(records) == 1:
            del record["time"]
    return orjson.dumps(records if len(records) > 1 else records[0]).decode()


def _is_shipped(rule: Rule) -> bool:
    return Path(rule.info.path).resolve().is_relative_to(Path(shipped_rules_dir()).resolve())


def _category(rule: Rule) -> str:
    return "correlation" if rule.correlation is not None else rule.category or "-"


def _description(rule: Rule) -> dict[str, Any]:
    info = rule.info
    return {
        "id": info.id,
        "level": info.level,
        "action": info.action,
        "scope": info.scope,
        "category": "correlation" if rule.correlation is not None else rule.category,
        "silent": rule.silent,
        "title": info.title,
        "techniques": info.techniques,
        "path": info.path,
    }


def _covered(rule: Rule) -> dict[str, Any]:
    info, found = rule.info, rule.coverage
    return {"id": info.id, "title": info.title, "path": info.path, "status": found.status, "reasons": found.reasons}


def _write_json(value: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


def _console() -> Console:
    """Wide where nobody looks at it, so that a pipe gets one line for each."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
