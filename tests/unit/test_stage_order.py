"""Data flows one way: a stage imports only itself, the stages before it and the shared vocabulary."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sensor

ROOT = Path(sensor.__file__).parent
STAGES = ["kernel", "decode", "context", "match", "respond", "record"]
TOP = {"pipeline", "daemon", "control", "cli"}
VOCABULARY = {"events", "verdict", "faults", "yamlfile", "node", "config", "wire"}


def part(module: str) -> str:
    """sensor.match.load -> match; sensor.wire -> wire."""
    return module.split(".")[1]


def files() -> dict[str, Path]:
    """Module name -> file, for every module below sensor."""
    names = ((path.relative_to(ROOT.parent).with_suffix(""), path) for path in ROOT.rglob("*.py"))
    modules = {".".join(name.parts).removesuffix(".__init__"): path for name, path in names}
    del modules["sensor"]
    return modules


def imports(path: Path) -> set[str]:
    """What the file imports of sensor, also inside functions and for typing only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.startswith("sensor.")}


def reached(module: str) -> set[str]:
    """The parts of sensor that the module imports, directly or through others."""
    known = files()
    seen: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        while name not in known and name.count(".") > 1:  # a class or function of the module
            name = name.rpartition(".")[0]
        if name in known and name not in seen:
            seen.add(name)
            pending += imports(known[name])
    return {part(name) for name in seen} - {part(module)}


@pytest.mark.parametrize("module", sorted(name for name in files() if part(name) in STAGES))
def test_stage_imports_only_stages_before_it(module: str) -> None:
    later = reached(module) & ({*STAGES[STAGES.index(part(module)) + 1 :]} | TOP)
    assert not later, f"{module} comes before {', '.join(sorted(later))}"


@pytest.mark.parametrize("module", sorted(name for name in files() if part(name) in VOCABULARY))
def test_vocabulary_imports_no_stage(module: str) -> None:
    assert not reached(module) & ({*STAGES} | TOP)


def test_every_part_is_there() -> None:
    assert {part(name) for name in files()} >= {*STAGES} | TOP | VOCABULARY


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from sensor.respond import act\n    import sensor.daemon\n")
    assert {part(name) for name in imports(file)} == {"respond", "daemon"}
    assert reached("sensor.pipeline") >= {"context", "events"}, "also through other modules"
