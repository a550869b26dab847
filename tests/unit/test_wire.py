"""The Python mirror of bpf/wire.h against what the compiler made of it: the object's BTF."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sensor import wire
from sensor.daemon import TURN_S
from sensor.kernel.core import OBJECT, SCRATCH_PER_CPU, ring_bytes

BPF = Path(__file__).parents[2] / "bpf"


@pytest.fixture(scope="module")
def types() -> dict[int, dict[str, Any]]:
    command = ["bpftool", "-j", "btf", "dump", "file", str(OBJECT), "format", "raw"]
    dump = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {entry["id"]: entry for entry in dump["types"]}


def scalars(types: dict[int, dict[str, Any]], type_id: int, offset: int = 0) -> list[tuple[int, int]]:
    """(offset, size) in bytes of each scalar in a type; an array of bytes counts as one, as `16s` does."""
    entry = types[type_id]
    if entry["kind"] in ("TYPEDEF", "CONST", "VOLATILE"):
        return scalars(types, entry["type_id"], offset)
    if entry["kind"] == "INT":
        return [(offset, entry["size"])]
    if entry["kind"] == "ARRAY":
        ((_, size),) = scalars(types, entry["type_id"])
        if size == 1:
            return [(offset, entry["nr_elems"])]
        return [(offset + size * index, size) for index in range(entry["nr_elems"])]
    assert entry["kind"] == "STRUCT", entry
    found = []
    for member in entry["members"]:
        found += scalars(types, member["type_id"], offset + member["bits_offset"] // 8)
    return found


def layout(format_: str) -> list[tuple[int, int]]:
    found = []
    done = "="
    for count, code in re.findall(r"(\d*)([A-Za-z])", format_):
        for field in [count + code] if code == "s" else [code] * int(count or 1):
            found.append((struct.calcsize(done), struct.calcsize("=" + field)))
            done += field
    return found


@pytest.mark.parametrize(
    ("name", "mirror"),
    [
        ("header", wire.HEADER),
        ("sweep", wire.SWEEP),
        ("exec_event", wire.EXEC_EVENT),
        ("connect_event", wire.CONNECT_EVENT),
        ("device_event", wire.DEVICE_EVENT),
        ("cgroup_event", wire.CGROUP_EVENT),
        ("payload_event", wire.PAYLOAD_EVENT),
        ("flow_event", wire.FLOW_EVENT),
        ("rounding_event", wire.ROUNDING_EVENT),
        ("relay_event", wire.RELAY_EVENT),
        ("held_end", wire.HELD_END),
        ("policy", wire.POLICY),
        ("egress_key", wire.EGRESS_KEY),
        ("resolved_key", wire.RESOLVED_KEY),
        ("program_key", wire.PROGRAM_KEY),
        ("program_node", wire.PROGRAM_NODE),
        ("brakes", wire.BRAKES),
    ],
)
def test_structs_lie_as_the_compiler_laid_them(
    types: dict[int, dict[str, Any]], name: str, mirror: struct.Struct
) -> None:
    (entry,) = [e for e in types.values() if e["kind"] == "STRUCT" and e["name"] == name]
    assert layout(mirror.format) == scalars(types, entry["id"])
    assert mirror.size == entry["size"], "no padding at the end"


def enumerators(prefix: str) -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", (BPF / "wire.h").read_text(), flags=re.DOTALL)
    return re.findall(rf"\b({prefix}\w+)\b(?=\s*(?:=\s*\d+)?\s*[,}}])", text)


def test_kinds_flags_and_counters_have_the_same_order() -> None:
    assert [name.removeprefix("EVENT_").lower() for name in enumerators("EVENT_")[:-1]] == list(wire.KINDS.values())
    assert list(wire.KINDS) == list(range(1, len(wire.KINDS) + 1))
    assert [name.removeprefix("COUNT_").lower() for name in enumerators("COUNT_")] == list(wire.COUNTERS)
    flags = dict(re.findall(r"FLAG_(\w+) = (\d+)", (BPF / "wire.h").read_text()))
    assert flags and {name: getattr(wire, name) for name in flags} == {n: int(v) for n, v in flags.items()}


def test_kinds_and_roles_of_ends() -> None:
    assert [getattr(wire, name.removeprefix("END_")) for name in enumerators("END_")] == [1, 2, 3, 4]
    roles = dict(re.findall(r"ROLE_(\w+) = (\d+)", (BPF / "wire.h").read_text()))
    assert {name: int(value) for name, value in roles.items()} == {"READ": 1, "WRITE": 2, "MASTER": 4}
    assert (wire.READ, wire.WRITE, wire.MASTER) == (1, 2, 4)


def test_constants_that_user_space_repeats() -> None:
    common = (BPF / "common.bpf.h").read_text()
    assert f"#define SCRATCH_PER_CPU {SCRATCH_PER_CPU}\n" in common
    assert f"#define TURN_NS {TURN_S * 1e9:.0f}ULL " in common
    assert f"#define ANCESTORS {wire.ANCESTORS}\n" in (BPF / "wire.h").read_text()


@pytest.mark.parametrize(("cpus", "mebibytes"), [(1, 4), (2, 4), (16, 4), (17, 8), (64, 16), (256, 32), (1024, 32)])
def test_the_ring_grows_with_the_machine(cpus: int, mebibytes: int) -> None:
    assert ring_bytes(cpus) == mebibytes << 20
