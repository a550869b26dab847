"""Cases on disk, their names, and the last events: bounded, and damage is said and never fatal."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.duration import in_words, seconds
from sensor.events import ProcessCreation
from sensor.respond import cases, recent
from sensor.respond.casebook import Casebook
from sensor.respond.cases import Case, CgroupRef, Grant, State, new_id, now
from sensor.respond.recent import Recent
from sensor.verdict import RuleInfo

EVENT = {"category": "process_creation", "time": "2026-01-01T00:00:00Z", "CommandLine": "x\u2028\0 y"}


def case(name: str = "lusab", **changes: Any) -> Case:
    fields: dict[str, Any] = {
        "id": name,
        "rule": RuleInfo(id="r", title="Rule", kinds=("billing",)),
        "agent": "rome",
        "owner": "Ada",
        "cgroups": [CgroupRef("/rome", 7)],
        "event": EVENT,
        "wanted": "x",
        "recent": ["y"],
        "asked": 1,
        "deadline": now() + 10**12,
        "within_s": 900,
    }
    return Case(**(fields | changes))


def grant(left_s: float) -> Grant:
    return Grant(rule="r", title="Rule", whom="rome", until=now() + int(left_s * 1e9), by="root", case="lusab")


def kept(path: Path, state: State) -> Casebook:
    cases.write(path, msgspec.json.encode(state))
    return Casebook(path)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / cases.STATE_FILE
    book = Casebook(path)
    assert (book.cases, book.grants, book.losses) == ({}, {}, {}) and not path.exists()
    book.cases["lusab"] = case()
    book.grants["r", "rome"] = grant(60)
    assert book.save()
    again = Casebook(path)
    assert again.cases == book.cases and again.grants == book.grants and not again.losses
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert again.grant_of("r", "rome") and not again.grant_of("r", "oslo") and not again.grant_of("s", "rome")
    assert again.pending == [case(deadline=again.cases["lusab"].deadline)]


def test_of_another_boot_nothing_holds(tmp_path: Path) -> None:
    book = kept(tmp_path / "s", State(boot="other", cases=[case()], grants=[grant(60)]))
    assert (book.cases, book.grants, book.losses) == ({}, {}, {})


def test_an_approval_ends(tmp_path: Path) -> None:
    book = kept(tmp_path / "s", State(grants=[grant(-1)]))
    assert book.grant_of("r", "rome") is None
    assert book.forget_old_grants() and not book.grants and not book.forget_old_grants()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def of_another_owner(path: Path) -> None:
    os.chown(path, 65534, -1)


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without_cgroups(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(State(cases=[case(cgroups=[])])))


def twice_the_same(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(State(cases=[case(), case()])))


def no_event(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(State(cases=[case(event={"category": "x"})])))


def never_ending(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(State(cases=[case(deadline=2**62)])))


def no_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"rome", b"rom\xff"))


def of_a_later_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        writable_by_others,
        of_another_owner,
        a_link,
        a_fifo,
        a_directory,
        without_cgroups,
        twice_the_same,
        no_event,
        never_ending,
        no_text,
        of_a_later_version,
    ],
)
def test_damage_is_set_aside_and_counted(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    if damage is of_another_owner and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    path = tmp_path / "s"
    cases.write(path, msgspec.json.encode(State(cases=[case()])))
    damage(path)
    book = Casebook(path)
    assert (book.cases, dict(book.losses)) == ({}, {"damaged": 1})
    assert path.with_name("s.damaged").lstat() and not path.is_symlink() and not path.exists()
    assert book.save()


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_content_is_fatal(tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int) -> None:
    path = tmp_path_factory.mktemp("state") / "s"
    good = msgspec.json.encode(State(cases=[case()], grants=[grant(60)]))
    cases.write(path, good[:place] + noise + good[place + len(noise) :])
    book = Casebook(path)
    assert book.losses or set(book.cases) <= {book_case.id for book_case in book.cases.values()}


def test_that_it_cannot_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    book = Casebook(tmp_path / "file" / "s")
    assert not book.save() and not book.save() and not book.is_written
    assert book.losses["not_written"] == 2
    (tmp_path / "file").unlink()
    assert book.save() and book.is_written


def test_names_can_be_said_and_are_not_used_twice() -> None:
    taken: set[str] = set()
    for _ in range(2000):
        name = new_id(taken)
        assert len(name) == 5 and name not in taken and set(name[1::2]) <= set("aiou") and name.isalpha()
        taken.add(name)


def test_the_last_events_of_a_cgroup_and_those_below() -> None:
    ring = Recent()
    for number in range(100):
        place = ("/rome/a", "/rome/b", "/romeo")[number % 3]
        ring.note(ProcessCreation(time=number, cgroup_id=number % 3, cgroup_path=place))
    found = [event.time for event in ring.below("/rome")]
    assert found == sorted(found) and len(found) == recent.EVENTS and found[-1] == 99
    assert {event.cgroup_path for event in ring.below("/rome/a")} == {"/rome/a"}
    for number in range(2 * recent.CGROUPS):
        ring.note(ProcessCreation(time=1, cgroup_id=1000 + number, cgroup_path=f"/x/{number}"))
    assert ring.below("/rome") == [] and len(ring.below("/x")) == recent.EVENTS


@pytest.mark.parametrize(("text", "length"), [("1s", 1), ("15m", 900), ("2h", 7200), ("30d", 2_592_000)])
def test_lengths_of_time(text: str, length: int) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "15", "m", "0s", "-1s", "1.5h", "1w", "31d", "1 h", "999999999s", "\u0661s"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"no length of time|longer than 30 days"):
        seconds(text)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (90_000, "1 d 1 h"),
        (61, "1 min 1 s"),
    ],
)
def test_in_words(length: float, words: str) -> None:
    assert in_words(length) == words
