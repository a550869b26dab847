"""Whatever is done to a trail, `verify` finds it and says where."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from auditing import check, copy_trail, key_of, lines_of, make_trail, rehash, replace_all, rewrite
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.record.audit import layout
from sensor.record.audit.line import LINE_BYTES
from sensor.record.audit.note import PrivateKey
from sensor.record.audit.verify import FINDINGS, verify_trail


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trail(tmp_path_factory.mktemp("state"))


@contextmanager
def copied(trail: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield copy_trail(trail, Path(directory) / "audit")


def test_a_whole_trail(trail: Path) -> None:
    report = check(trail)
    assert report.is_good() and report.records == report.signed == len(lines_of(trail)) == 34
    assert report.segments > 2 and report.checkpoints > 3 and report.responses == 8
    assert not report.open_intents and not report.losses


@settings(deadline=None)
@given(data=st.data())
def test_any_flipped_byte(trail: Path, data: st.DataObject) -> None:
    with copied(trail) as copy:
        path = data.draw(st.sampled_from([*(segment.path for segment in layout.segments(copy)), copy / "checkpoints"]))
        content = bytearray(path.read_bytes())
        offset = data.draw(st.integers(0, len(content) - 1))
        content[offset] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        report = check(copy)
        assert not report.is_good()
        if path.name == "checkpoints":
            assert report.findings[0].file.startswith("checkpoints")
            return
        number = content[:offset].count(b"\n") + 1
        places = {(finding.file, finding.line) for finding in report.findings}
        # No later record holds the last one's hash: the signature alone tells, of all that it covers anew.
        is_last = path == layout.segments(copy)[-1].path and number == content.count(b"\n")
        spans = any("or one after it, up to the 34th" in str(finding) for finding in report.findings)
        assert (path.name, number) in places or (is_last and spans), report.findings


def drop(lines: list[bytes], a: int, b: int) -> list[bytes]:
    return lines[:a] + lines[max(a + 1, b) :]


def swap(lines: list[bytes], a: int, b: int) -> list[bytes]:
    lines = list(lines)
    b = (a + 1) % len(lines) if a == b else b
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def repeat(lines: list[bytes], a: int, b: int) -> list[bytes]:
    return [*lines[:b], lines[a], *lines[b:]]


def insert(lines: list[bytes], a: int, b: int) -> list[bytes]:
    return [*lines[:b], lines[a].replace(b'"time":"20', b'"time":"19'), *lines[b:]]


def truncate(lines: list[bytes], a: int, b: int) -> list[bytes]:
    return lines[:a]


def change(lines: list[bytes], a: int, b: int) -> list[bytes]:
    return [*lines[:a], lines[a].replace(b'"time":"20', b'"time":"19'), *lines[a + 1 :]]


DEEDS = [drop, swap, repeat, insert, truncate, change]


@settings(deadline=None)
@given(deed=st.sampled_from(DEEDS), a=st.integers(0, 33), b=st.integers(0, 33), covered=st.booleans())
def test_any_change_of_records(
    trail: Path, deed: Callable[[list[bytes], int, int], list[bytes]], a: int, b: int, covered: bool
) -> None:
    """`covered`: the records are numbered and chained anew after it; the checkpoints show it all the same."""
    with copied(trail) as copy:
        if covered:
            replace_all(copy, rehash(deed(lines_of(copy), a, b)))
        else:
            rewrite(copy, lambda lines: deed(lines, a, b))
        report = check(copy)
        assert not report.is_good()
        if covered:
            # The first checkpoint behind the change does not fit, the one before it does.
            assert report.signed <= min(a, b) if deed in (swap, repeat, insert) else report.signed <= a
            assert any(
                (finding.what.startswith("or one after it") and finding.index == report.signed)
                or "the end is missing" in finding.what
                for finding in report.findings
            )


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(1, 6000))
def test_any_cut(trail: Path, cut: int) -> None:
    with copied(trail) as copy:
        left = cut
        for segment in reversed(layout.segments(copy)):
            size = segment.path.stat().st_size
            if left >= size:
                segment.path.unlink()
            else:
                segment.path.write_bytes(segment.path.read_bytes()[: size - left])
            left = max(0, left - size)
        report = check(copy)
        assert any(text in finding.what for finding in report.findings for text in ("the end is missing", "unfinished"))


def test_a_missing_segment_is_named(trail: Path, tmp_path: Path) -> None:
    for number in range(len(layout.segments(trail))):
        copy = copy_trail(trail, tmp_path / str(number))
        found = layout.segments(copy)
        found[number].path.unlink()
        report = check(copy)
        assert not report.is_good()
        if number + 1 < len(found):
            after = found[number + 1]
            assert report.findings[0].file == after.path.name and "a segment is missing" in report.findings[0].what


def test_the_changed_record_is_named(trail: Path, tmp_path: Path) -> None:
    lines = lines_of(trail)
    for index in range(len(lines) - 2):  # of the last but one no third record tells which of the two was changed
        copy = copy_trail(trail, tmp_path / str(index))
        rewrite(copy, lambda lines: change(lines, index, 0))  # noqa: B023
        first = next(finding for finding in check(copy).findings if finding.what.startswith("was changed:"))
        assert first.index == index
        segment = next(s for s in reversed(layout.segments(copy)) if s.first <= index)
        assert (first.file, first.line) == (segment.path.name, index - segment.first + 1)


def test_several_changes_are_all_named(trail: Path, tmp_path: Path) -> None:
    copy = copy_trail(trail, tmp_path / "copy")

    def deed(lines: list[bytes]) -> list[bytes]:
        lines = change(change(lines, 3, 0), 20, 0)
        lines[10] = b"\xff\n"
        del lines[28]
        return lines

    rewrite(copy, deed)
    places = {finding.index: finding.what for finding in check(copy).findings}
    assert places[3].startswith("was changed") and places[20].startswith("was changed")
    assert places[10] == "is no JSON" and "1 before it is missing" in places[29]


def test_a_cut_that_takes_the_checkpoints_along_needs_one_from_elsewhere(trail: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copy(trail / "checkpoint", kept)
    copy = copy_trail(trail, tmp_path / "copy")
    notes, _ = layout.read_notes(copy / "checkpoints")
    signed = [int(note.split(b"\n")[1]) for note in notes]
    (copy / "checkpoints").write_bytes(b"".join(note + b"\n" for note in notes[:-2]))
    (copy / "checkpoint").write_bytes(notes[-3])
    rewrite(copy, lambda lines: lines[: signed[-3]])
    for segment in layout.segments(copy):
        if not segment.path.stat().st_size:
            segment.path.unlink()
    assert check(copy).is_good()
    report = check(copy, kept)
    assert [finding.what for finding in report.findings] == [
        f"is the last of {signed[-3]}, and for {signed[-1]} was signed (kept): the end is missing"
    ]


def test_signed_anew_with_another_key(trail: Path, tmp_path: Path) -> None:
    """Everything rewritten, checkpoints and public key too: only the key kept elsewhere shows it."""
    forged = make_trail(tmp_path / "forged", incidents=2)
    assert check(forged).is_good()
    report = verify_trail(forged, [key_of(trail)])
    assert report.signed == 0 and {finding.what for finding in report.findings} == {
        "checkpoint not accepted: no signature of the key that should have signed it"
    }


def test_two_histories(trail: Path, tmp_path: Path) -> None:
    private = PrivateKey(key_of(trail).name, bytes(32))
    notes, _ = layout.read_notes(trail / "checkpoints")
    copy = copy_trail(trail, tmp_path / "copy")
    from sensor.record.audit.note import read_checkpoint

    resigned = [private.sign(read_checkpoint(note)) for note in notes]
    (copy / "checkpoints").write_text("".join(note + "\n" for note in resigned))
    (copy / "checkpoint").write_text(resigned[-1])
    last = read_checkpoint(notes[-1])
    other = private.sign(type(last)(last.origin, last.size, bytes(32))).encode()
    assert verify_trail(copy, [private.public()]).is_good()
    report = verify_trail(copy, [private.public()], [("kept", other)])
    assert str(report.findings[0]) == f"kept: two different histories were signed for {last.size} records"


def test_no_checkpoint_and_nothing_at_all(trail: Path, tmp_path: Path) -> None:
    copy = copy_trail(trail, tmp_path / "copy")
    (copy / "checkpoints").unlink()
    assert check(copy).is_good(), "the last one covers all"
    (copy / "checkpoint").unlink()
    assert "there is no checkpoint here" in check(copy).findings[0].what
    for segment in layout.segments(trail):
        (copy / segment.path.name).unlink()
    shutil.copy(trail / "checkpoints", copy)
    assert "the end is missing" in check(copy).findings[0].what


def test_an_action_before_its_intent(tmp_path: Path) -> None:
    """The chain and the checkpoints are whole: the sensor itself did wrong."""
    from sensor.record.audit.trail import Audit

    audit = Audit(tmp_path)
    intent = audit.append("intent", alert="a", action="kill")
    audit.append("action", alert="a", intent=intent, outcome="done")
    audit.append("action", alert="a", intent=intent, outcome="done")
    audit.append("action", alert="b", intent=None, outcome="failed")
    audit.append("action", alert="c", intent=None, outcome="would")
    other = audit.append("intent", alert="d")
    audit.append("action", alert="e", intent=other, outcome="done")
    open_one = audit.append("intent", alert="f")
    audit.close()
    report = check(tmp_path / "audit")
    assert [(finding.index, finding.what) for finding in report.findings] == [
        (index, "is an action without its intent before it") for index in (2, 3, 6)
    ]
    assert report.responses == 1 and report.open_intents == [open_one]


def test_rubbish_is_bounded(tmp_path: Path) -> None:
    trail = make_trail(tmp_path)
    last = layout.segments(trail)[-1].path
    with last.open("ab") as file:
        file.write(random.Random(7).randbytes(3 * LINE_BYTES) + b"\n[" * 1000 + b"{" * LINE_BYTES * 2)
    report = check(trail)
    assert len(report.findings) == FINDINGS and report.more_findings > 900
