"""Reads rule directories: Sigma rules of specification 2, all faults of all files at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sensor.faults import Fault, FaultsError
from sensor.match import cache as kept
from sensor.match.ir import Rule, RuleSet

__all__ = ["RuleSet", "load_rules"]

_SUFFIXES = (".yml", ".yaml")
_LISTS = "data"
_LARGEST = 16 << 20


def load_rules(dirs: Sequence[Path | str], cache: Path | None = None) -> RuleSet:
    """All rules in the *.yml and *.yaml files below `dirs` (a rule file may be given too).

    Directories named `samples` and hidden names are skipped; those named `data` hold lists (`sensor.match.lists`).
    A rule that this sensor cannot decide is loaded and says so in its `coverage`; a rule that is wrong is a fault.
    Raises FaultsError with every fault of every file. With `cache`, a file that this function keeps, unchanged rules
    load without pySigma; a cache that is stale, damaged or open to other users is not used, and one that cannot be
    written is no error (`RuleSet.cache`).
    """
    faults: list[Fault] = []
    files = _read(dirs, faults)
    key = kept.key_of(files) if cache and not faults else b""
    if cache and not faults:
        rules = kept.read(cache, key)
        if rules is not None:
            return RuleSet(rules=rules, cache="used")
    found = _parse(files, faults)
    if faults:
        raise FaultsError(faults)
    rules = tuple(sorted(found, key=lambda rule: (rule.info.path, rule.info.id)))
    if not cache:
        return RuleSet(rules=rules)
    try:
        kept.write(cache, key, rules)
    except OSError as error:
        return RuleSet(rules=rules, cache=f"not written: {error}")
    return RuleSet(rules=rules, cache="written")


def _parse(files: list[tuple[str, str, bytes]], faults: list[Fault]) -> list[Rule]:
    from sensor.match import lists, sigma_file  # noqa: PLC0415 (imports pySigma: 0.1 s and 13 MB)

    values = lists.read([file for file in files if _is_list(file[1])], faults)
    rules, found = sigma_file.parse([sigma_file.SourceFile(*file) for file in files if not _is_list(file[1])], values)
    faults += found
    return rules


def _is_list(name: str) -> bool:
    return _LISTS in name.split("/")[:-1]


def _read(dirs: Sequence[Path | str], faults: list[Fault]) -> list[tuple[str, str, bytes]]:
    """(path, path below its directory, content) of each rule file, each once."""
    files: dict[str, tuple[str, str, bytes]] = {}
    for top in dirs:
        for path, name in _paths(Path(top), faults):
            try:
                if path.stat().st_size > _LARGEST:
                    faults.append(Fault(str(path), 0, f"is larger than {_LARGEST >> 20} MiB"))
                    continue
                files.setdefault(str(path.resolve()), (str(path), name, path.read_bytes()))
            except OSError as error:
                faults.append(Fault(str(path), 0, f"cannot be read: {error.strerror}"))
    return sorted(files.values())


def _paths(top: Path, faults: list[Fault]) -> Iterator[tuple[Path, str]]:
    if top.is_file():
        yield top, f"{_LISTS}/{top.name}" if top.parent.name == _LISTS else top.name
        return

    def report(error: OSError) -> None:
        faults.append(Fault(str(error.filename), 0, f"cannot be read: {error.strerror}"))

    for place, below, names in os.walk(top, onerror=report):
        below[:] = sorted(name for name in below if name != "samples" and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                path = Path(place, name)
                yield path, path.relative_to(top).as_posix()
