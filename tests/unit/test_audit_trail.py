"""The writer: what it appends is whole and in order, across rotation, restarts, crashes and full disks."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from auditing import check, incident, lines_of, make_trail, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.record.audit import layout, recover, trail
from sensor.record.audit.line import LINE_BYTES, parse_line
from sensor.record.audit.merkle import Tree, leaf_hash
from sensor.record.audit.note import parse_public_key, read_checkpoint
from sensor.record.audit.trail import Audit, AuditError
from sensor.record.audit.verify import verify_trail


def records(directory: Path) -> list[dict[str, Any]]:
    return [parse_line(line[:-1]) for line in lines_of(directory)]


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: writes are cut short there, as on a full disk (setrlimit(2))."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_records_are_chained_and_the_checkpoint_is_their_tree(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    assert [audit.append("request", command="status", uid=number) for number in range(5)] == [0, 1, 2, 3, 4]
    audit.close()
    tree, head = Tree(), "0" * 64
    for index, line in enumerate(lines_of(tmp_path / "audit")):
        record = parse_line(line[:-1])
        assert (record["index"], record["prev"], record["uid"]) == (index, head, index)
        head = leaf_hash(line[:-1]).hex()
        tree.append(leaf_hash(line[:-1]))
    checkpoint = read_checkpoint((tmp_path / "audit/checkpoint").read_bytes())
    assert (checkpoint.size, checkpoint.root) == (5, tree.root())


def test_the_private_key_is_for_its_owner_and_not_beside_the_trail(tmp_path: Path) -> None:
    make_trail(tmp_path, incidents=1)
    key = tmp_path / layout.PRIVATE_KEY
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not any(key.read_bytes() in path.read_bytes() for path in (tmp_path / "audit").iterdir())
    public = parse_public_key((tmp_path / "audit/key.pub").read_text())
    assert public.name == read_checkpoint((tmp_path / "audit/checkpoint").read_bytes()).origin
    assert all(not path.stat().st_mode & 0o027 for path in (tmp_path / "audit").iterdir())


def test_a_key_that_others_may_read_signs_nothing(tmp_path: Path) -> None:
    make_trail(tmp_path, incidents=1)
    (tmp_path / layout.PRIVATE_KEY).chmod(0o640)
    audit = Audit(tmp_path)
    audit.append("start")
    audit.close()
    assert audit.losses == {"checkpoint": 1}


HOSTILE = {"a": "x\ny\0\u2028\u2029\x85\r", "b": ["\ud800", 1 << 70], "\udfff": {"c": float("nan")}, "index": 77}


def test_hostile_fields_forge_nothing(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    loop: list[object] = []
    loop.append(loop)
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert audit.append("event", **HOSTILE, prev="0", time="never", kind="stop", self=1) == 0
    assert audit.append("event", loop=loop) is audit.append("event", deep=deep) is None
    assert audit.append("event", large="x" * LINE_BYTES) is None
    index = audit.append("event", last=True)
    audit.close()
    found = records(tmp_path / "audit")
    assert found[0]["index"] == 0 and found[0]["kind"] == "event" and found[0]["a"] == HOSTILE["a"]
    told = [record for record in found if record["kind"] == "loss"]
    assert sum(record["missing"] for record in told) == 3 and found[-1]["index"] == index
    assert audit.losses == {"unencodable": 2, "oversized": 1}
    assert check(tmp_path / "audit").losses == {"unencodable": 2, "oversized": 1}


@settings(deadline=None, max_examples=20)
@given(st.lists(st.dictionaries(st.text(max_size=8), st.text() | st.integers() | st.floats() | st.none(), max_size=4)))
def test_any_fields_make_a_trail_that_verifies(tmp_path_factory: pytest.TempPathFactory, made: list[Any]) -> None:
    directory = tmp_path_factory.mktemp("any")
    audit = Audit(directory, segment_bytes=500)
    for fields in made:
        audit.append("event", **fields)
    audit.append("stop")
    audit.close()
    assert not audit.losses and check(directory / "audit").is_good()


def test_segments_are_named_by_their_first_record(tmp_path: Path) -> None:
    directory = make_trail(tmp_path, segment_bytes=1500)
    found = layout.segments(directory)
    assert len(found) > 3
    for segment in found:
        first = parse_line(segment.path.read_bytes().split(b"\n")[0])
        assert (first["index"], segment.path.name) == (segment.first, f"trail-{segment.first:012d}.jsonl")
        assert segment.path.stat().st_size < 1500 + 500
    assert check(directory).is_good()


def test_a_restart_goes_on(tmp_path: Path) -> None:
    for run in range(4):
        audit = Audit(tmp_path, segment_bytes=1000)
        assert audit.summary()["records"] == audit.summary()["signed"] == run * 9
        audit.append("start", run=run)
        incident(audit, f"a{run}")
        incident(audit, f"b{run}")
        audit.close()
    report = check(tmp_path / "audit")
    assert report.is_good() and report.records == report.signed == 36 and report.responses == 8


@pytest.mark.parametrize("state", ["kept", "gone", "rubbish", "old"])
def test_a_killed_sensor_loses_nothing_that_it_wrote(tmp_path: Path, state: str) -> None:
    """What was appended since the last checkpoint is found again, whatever became of the state file."""
    make_trail(tmp_path)
    before = (tmp_path / "audit/state").read_bytes()
    program = (
        "import os, signal, sys; from pathlib import Path; from sensor.record.audit.trail import Audit\n"
        f"audit = Audit(Path({str(tmp_path)!r}), 2000)\n"
        "for number in range(25): audit.append('event', number=number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    match state:
        case "gone":
            (tmp_path / "audit/state").unlink()
        case "rubbish":
            (tmp_path / "audit/state").write_bytes(os.urandom(300))
        case "old":
            (tmp_path / "audit/state").write_bytes(before)
    audit = Audit(tmp_path)
    assert audit.append("start") == 34 + 25
    audit.close()
    assert not audit.losses and check(tmp_path / "audit").is_good()


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(1, 1200))
def test_a_torn_end_is_set_aside_and_told(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Whatever a crash left of what came after the last checkpoint."""
    state_dir = tmp_path_factory.mktemp("state")
    directory = make_trail(state_dir, incidents=2, segment_bytes=1 << 20)
    with (directory / layout.segment_name(0)).open("rb+") as file:
        signed = file.seek(0, os.SEEK_END)
        audit = Audit(state_dir)
        incident(audit, "late")
        audit._mutex.acquire()  # as if it were killed: neither closed nor heard of again
        os.close(audit._lock_fd or -1)
        end = file.seek(0, os.SEEK_END)
        kept = max(signed, end - cut)
        file.truncate(kept)
        content = (directory / layout.segment_name(0)).read_bytes()
    torn = len(content) - content.rfind(b"\n") - 1
    again = Audit(state_dir)
    again.append("start")
    again.close()
    assert check(directory).is_good()
    told = [record for record in records(directory) if record["kind"] == "loss"]
    if not torn:
        assert not told and not again.losses
        return
    assert again.losses == {"torn": 1} and len(told) == 1
    assert (told[0]["what"], told[0]["bytes"]) == ("torn", torn)
    assert (directory / told[0]["aside"]).read_bytes() == content[-torn:]


def test_zeros_as_a_power_cut_leaves_them(tmp_path: Path) -> None:
    directory = make_trail(tmp_path)
    with layout.segments(directory)[-1].path.open("ab") as file:
        file.write(bytes(5000))
    audit = Audit(tmp_path)
    assert audit.losses == {"torn": 1}
    audit.close()
    report = check(directory)
    assert report.is_good() and report.losses == {"torn": 1}


def cut_signed(directory: Path) -> None:
    path = layout.segments(directory)[-1].path
    os.truncate(path, path.stat().st_size - 1)


def flip_last(directory: Path) -> None:
    path = layout.segments(directory)[-1].path
    path.write_bytes(path.read_bytes()[:-3] + b"0" + path.read_bytes()[-2:])


def remove_segments(directory: Path) -> None:
    for segment in layout.segments(directory):
        segment.path.unlink()


def remove_key(directory: Path) -> None:
    (directory.parent / layout.PRIVATE_KEY).unlink()


def change_unsigned_state(directory: Path) -> None:
    (directory / "state").unlink()
    first = layout.segments(directory)[0].path
    first.write_bytes(first.read_bytes().replace(b"rome-rl", b"rome-xx", 1))


@pytest.mark.parametrize("damage", [cut_signed, flip_last, remove_segments, remove_key, change_unsigned_state])
def test_a_trail_that_cannot_go_on_is_set_aside_whole(tmp_path: Path, damage: Any) -> None:
    directory = make_trail(tmp_path)
    damage(directory)
    old = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}
    audit = Audit(tmp_path)
    audit.append("start")
    audit.close()
    assert audit.losses == {"trail_aside": 1}
    told = records(directory)[0]
    aside = directory / told["aside"]
    assert (told["kind"], told["what"]) == ("loss", "trail_aside") and told["checkpoint"] == old["checkpoint"].decode()
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == old
    assert (directory / "key.pub").read_text() != old["key.pub"].decode(), "two histories under one name"
    assert check(directory).is_good()
    assert not list(aside.glob("*.key*"))


def test_a_large_trail_without_state_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trail(tmp_path)
    (tmp_path / "audit/state").unlink()
    monkeypatch.setattr(recover, "REPLAY_BYTES", 1000)
    audit = Audit(tmp_path)
    audit.close()
    assert audit.losses == {"trail_aside": 1}
    assert "state" in records(tmp_path / "audit")[0]["why"]


def test_a_checkpoint_that_a_crash_cut_short_is_taken_back(tmp_path: Path) -> None:
    directory = make_trail(tmp_path)
    whole = (directory / "checkpoints").read_bytes()
    for state in (True, False):
        for torn in (b"vm/hostbr", b"vm/hostbrake/1\n70\nabc=\n\n\xe2\x80\x94 vm"):
            (directory / "checkpoints").write_bytes(whole + torn)
            if not state:
                (directory / "state").unlink(missing_ok=True)
            Audit(tmp_path).close()
            assert (directory / "checkpoints").read_bytes() == whole
            assert check(directory).is_good()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_damage_keeps_it_from_opening(
    damaged: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a file holds: records are written, and what cannot go on is kept aside."""
    state_dir = tmp_path_factory.mktemp("state") / "copy"
    shutil.copytree(damaged, state_dir)
    directory = state_dir / "audit"
    names = sorted(path.name for path in directory.iterdir() if path.name != "lock")
    path = directory / data.draw(st.sampled_from(names))
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=50)) + content[end:])
    audit = Audit(state_dir)
    index = audit.append("start")
    audit.close()
    assert index is not None and set(audit.losses) <= {"torn", "trail_aside"}
    if "trail_aside" in audit.losses:
        assert (next(directory.glob("aside-*")) / path.name).exists() and check(directory).is_good()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state_dir = tmp_path_factory.mktemp("damaged")
    make_trail(state_dir, incidents=3)
    return state_dir


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Nothing that `append` returned for is lost, and no kill leaves a trail that cannot go on."""
    program = (
        "import sys; from pathlib import Path; from sensor.record.audit.trail import Audit\n"
        f"audit = Audit(Path({str(tmp_path)!r}), 5000)\n"
        "while True:\n"
        "    print(audit.append('action', intent=None, outcome='would'), flush=True)\n"
        "    audit.tick()"
    )
    for run in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert child.stdout is not None
        for _ in range(20 + run * 37):
            child.stdout.readline()
        child.kill()
        printed = [line for line in child.stdout.read().split("\n")[:-1] if line.isdigit()]
        child.wait()
        audit = Audit(tmp_path)
        # A kill can cut short a write that crosses a page (generic_perform_write, mm/filemap.c): that is told as torn.
        assert set(audit.losses) <= {"torn"} and (not printed or audit.summary()["records"] > int(printed[-1]))
        audit.close()
        assert check(tmp_path / "audit").is_good()


def test_one_writer(tmp_path: Path) -> None:
    first = Audit(tmp_path)
    with pytest.raises(AuditError, match="another sensor writes"):
        Audit(tmp_path)
    assert first.append("start") == 0
    first.close()
    Audit(tmp_path).close()


def test_writers_of_several_threads(tmp_path: Path) -> None:
    audit = Audit(tmp_path, segment_bytes=5000)
    threads = [
        threading.Thread(target=lambda: [audit.append("notification", n=n) for n in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        audit.tick()
    audit.close()
    report = check(tmp_path / "audit")
    assert report.is_good() and report.records == 800


def test_checked_while_it_is_written(tmp_path: Path) -> None:
    audit = Audit(tmp_path, segment_bytes=4000)
    audit.append("start")
    settle(audit)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            incident(audit, "a")
            audit.tick()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reports = [check(tmp_path / "audit")]
        until = time.monotonic() + 60
        while len(reports) < 10 or (reports[-1].records == reports[0].records and time.monotonic() < until):
            reports.append(check(tmp_path / "audit"))
    finally:
        stop.set()
        writer.join()
        audit.close()
    assert all(report.is_good() for report in reports), reports
    assert reports[-1].records > reports[0].records


def test_a_full_disk_is_counted_and_told_once_there_is_room(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.append("start")
    size = (tmp_path / "audit" / layout.segment_name(0)).stat().st_size
    with file_limit(size + 40):
        assert [audit.append("intent", alert=str(number)) for number in range(7)] == [None] * 7
        audit.tick()
    assert audit.losses == {"EFBIG": 6, "ENOSPC": 1} or audit.losses.total() == 7
    intent = audit.append("intent", alert="7")
    audit.append("action", alert="7", intent=intent, outcome="done")
    audit.append("action", alert="3", intent=None, outcome="done")
    audit.close()
    found = records(tmp_path / "audit")
    assert [record["kind"] for record in found] == ["start", "loss", "intent", "action", "action"]
    assert (found[1]["what"], found[1]["missing"]) == ("missing", 7)
    report = check(tmp_path / "audit")
    assert report.is_good() and sum(report.losses.values()) == 7 and report.without_intent == 1


def test_room_is_told_of_at_a_tick_too(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    with file_limit(10):
        assert audit.append("start") is None
    audit.tick()
    assert [record["kind"] for record in records(tmp_path / "audit")] == ["loss"]
    audit.close()


def test_a_checkpoint_that_cannot_be_written_is_counted_and_comes_later(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.append("start")
    (tmp_path / "audit/checkpoints").mkdir()
    audit.tick()
    audit._end_round()
    assert audit.losses == {"checkpoint": 1} and audit.summary()["signed"] == 0
    (tmp_path / "audit/checkpoints").rmdir()
    audit.close()
    assert check(tmp_path / "audit").is_good()


def test_a_trail_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file in its place")
    audit = Audit(tmp_path)
    assert audit.unavailable is not None and "audit" in audit.unavailable
    assert audit.append("start") is None
    (tmp_path / "audit").unlink()
    audit.tick()
    assert audit.unavailable is None
    assert audit.append("event") == 1
    audit.close()
    assert check(tmp_path / "audit").losses == {"EEXIST": 1}


def test_a_trail_taken_meanwhile_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("")
    audit = Audit(tmp_path)
    (tmp_path / "audit").unlink()
    other = Audit(tmp_path)
    audit.tick()
    assert audit.unavailable is not None and "another sensor" in audit.unavailable
    assert audit.append("start") is None
    audit.close()
    other.close()


@pytest.mark.parametrize("deed", ["cut", "append", "remove"])
def test_who_else_changes_it_is_noticed_and_what_follows_is_whole(tmp_path: Path, deed: str) -> None:
    audit = Audit(tmp_path)
    incident(audit, "a")
    settle(audit)
    path = tmp_path / "audit" / layout.segment_name(0)
    if deed == "cut":
        os.truncate(path, 100)
    elif deed == "append":
        path.open("ab").write(b"more")
    else:
        path.unlink()
    audit.tick()
    assert audit.losses == {"changed": 1}
    incident(audit, "b")
    settle(audit)
    audit.tick()
    assert audit.losses == {"changed": 1}
    audit.close()
    report = check(tmp_path / "audit")
    assert not report.is_good() and report.losses == {"changed": 1}
    later = layout.segments(tmp_path / "audit")[-1]
    assert later.first == 4 and len(later.path.read_bytes().splitlines()) == 5


def test_checkpoints_come_with_time_with_numbers_and_after_a_deed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signs() -> bool:
        audit.tick()
        audit._end_round()
        return audit.summary()["signed"] == audit.summary()["records"]

    audit = Audit(tmp_path)
    audit.append("event")
    assert not signs()
    for _ in range(trail.CHECKPOINT_RECORDS):
        audit.append("event")
    assert signs()
    audit.append("action", alert="a", intent=None, outcome="would")
    assert signs()
    monkeypatch.setattr(trail, "CHECKPOINT_S", 0.0)
    audit.append("event")
    assert signs()
    audit.close()


def test_descriptors_are_let_go_and_not_inherited(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    audit = Audit(tmp_path, segment_bytes=200)
    for number in range(20):
        audit.append("event", number=number)
        audit.tick()
    assert audit._fd is not None and fcntl.fcntl(audit._fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    audit.close()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
    assert audit.append("event") is None and audit.losses == {"EBADF": 1}


def test_verify_refuses_what_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify_trail(tmp_path / "nothing", [])
