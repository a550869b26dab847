"""Holds on disk: what is remembered, merged, taken back, and what a damaged or hostile file does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensor.respond.holds import Hold, Target, add, forget, hold, read_holds

ROME = Target("agent", "rome")
PLACE = Target("cgroup", "/a\nb/ü")


def test_what_was_frozen_is_gathered_and_given_back_once(tmp_path: Path) -> None:
    directory = tmp_path / "state/holds"
    hold(directory, ROME, {"/a": 1})
    (first,), _ = read_holds(directory)
    hold(directory, ROME, {"/b": 2})
    assert add(directory, ROME, {"/c": 3})
    assert read_holds(directory) == ([Hold(ROME, first.since, {"/a": 1, "/b": 2, "/c": 3})], [])
    taken = forget(directory, ROME)
    assert taken is not None and taken.frozen == {"/a": 1, "/b": 2, "/c": 3}
    assert forget(directory, ROME) is None and not add(directory, ROME, {"/d": 4})
    assert read_holds(directory) == ([], [])


def test_a_cgroup_of_any_name(tmp_path: Path) -> None:
    hold(tmp_path, PLACE, {"/a\nb/ü": 7})
    hold(tmp_path, ROME, {})
    assert {held.target for held in read_holds(tmp_path)[0]} == {PLACE, ROME}
    assert forget(tmp_path, PLACE) is not None
    assert [held.target for held in read_holds(tmp_path)[0]] == [ROME]


def test_no_directory_holds_nothing(tmp_path: Path) -> None:
    assert read_holds(tmp_path / "none") == ([], []) and forget(tmp_path / "none", ROME) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"frozen": {"/a": "x"}, "since": "y"}', b'{"frozen": 3}'],
)
def test_a_damaged_file_still_holds_its_agent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent-rome.json").write_bytes(content)
    (tmp_path / "cgroup-0123.json").write_bytes(content)
    assert read_holds(tmp_path) == ([Hold(ROME, 0.0, {})], ["cgroup-0123.json"])
    hold(tmp_path, ROME, {"/a": 1})
    assert json.loads((tmp_path / "agent-rome.json").read_text())["frozen"] == {"/a": 1}


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        hold(tmp_path / "file/holds", ROME, {})
