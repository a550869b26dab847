"""Profiles on disk: a restart goes on where the sensor was; damage costs one profile and is told."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiling import WEEK, connected, fed, habit, ran, the_profile

from sensor.match.profile_store import DamagedError, read, write
from sensor.match.profiles import Profiles


def test_a_restart_goes_on(tmp_path: Path) -> None:
    first = Profiles(tmp_path)
    fed(first, habit(range(100)))
    first.save(at_once=True)
    second = Profiles(tmp_path)
    assert fed(second, habit(range(100, WEEK + 2))) == []
    assert second.summary()["learned"] == 1 and second.losses() == {}
    second.save(at_once=True)
    third = Profiles(tmp_path)
    (verdict,) = fed(third, [connected(WEEK + 2, "198.51.100.7"), connected(WEEK + 2, destination_hostname="pypi.org")])
    assert verdict.rule.level == "low"
    assert fed(third, [connected(WEEK + 2, "192.0.2.1")]) == [], "the name behind the address is kept"
    whole = Profiles()
    fed(whole, habit())
    assert the_profile(whole) == the_profile(second)


def test_saving_is_one_file_at_a_time_and_only_what_changed(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    fed(profiles, (ran(0, agent=f"agent-{n}") for n in range(3)))
    profiles.save()
    assert list(tmp_path.iterdir()) == [], "not due yet"
    profiles._due = 0
    for written in (1, 2, 3, 3):
        profiles.save()
        assert len(list(tmp_path.iterdir())) == written
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.unlink()
    profiles.match(ran(1, agent="agent-1"))
    profiles.save(at_once=True)
    assert [file.name for file in tmp_path.iterdir()] == ["agent-1.json"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _deep(path: Path) -> None:
    path.write_bytes(b"[" * 1_000_000)


def _other_agent(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"rome-rl"', b'"else"'))


def _other_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))


def _large(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" " * (8 << 20))


def _writable(path: Path) -> None:
    path.chmod(0o622)


def _link(path: Path) -> None:
    path.rename(path.with_name("else"))
    path.symlink_to("else")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _full(path: Path) -> None:
    profile = read(path, "rome-rl")
    assert profile is not None
    some = profile.programs.seen["/usr/bin/python3"]
    profile.programs.seen |= {str(n): some for n in range(2000)}
    write(path, profile)


def _no_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"rome-rl", b"rome-\xff\xff"))


DAMAGE = [_no_text, _cut, _empty, _deep, _other_agent, _other_version, _large, _writable, _link, _pipe, _full]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_counted_set_aside_and_learned_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    before = Profiles(tmp_path)
    fed(before, habit())
    before.save(at_once=True)
    path = tmp_path / "rome-rl.json"
    damage(path)
    after = Profiles(tmp_path)
    assert fed(after, habit(range(WEEK + 2, WEEK + 5))) == []
    assert after.losses() == {"damaged": 1} and after.summary()["learned"] == 0
    assert path.with_name("rome-rl.json.damaged").is_symlink() or path.with_name("rome-rl.json.damaged").exists()
    after.save(at_once=True)
    assert read(path, "rome-rl") == the_profile(after)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_profile_or_damage(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("profiles") / "a.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DamagedError):
        read(path, "a")


def test_what_cannot_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    profiles = Profiles(tmp_path / "file" / "profiles")
    fed(profiles, habit(range(1)))
    profiles.save(at_once=True)
    assert profiles.losses()["unwritten"] == 1


def test_a_name_that_is_no_agents_leaves_no_file(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path / "profiles")
    for name in ("../x", "a/b", "", "A", "x\0y", "a" * 300):
        profiles.match(ran(0, agent=name))
    profiles.save(at_once=True)
    assert list(tmp_path.iterdir()) == []


def test_read_only_leaves_everything_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "rome-rl.json").write_text("damaged")
    profiles = Profiles(tmp_path, keeps=False)
    fed(profiles, habit(range(2)))
    profiles.save(at_once=True)
    assert profiles.losses() == {"damaged": 1}
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("rome-rl.json", "damaged")]
