"""The sink keeps one JSON object a line, loses nothing in silence and waits for nobody."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sensor.record.sink import BACKLOG, Sink

HOSTILE = {"a": "x\ny\0\u2028\u2029\x85\r", "b": ["\ud800", 1 << 70, -(1 << 70)], "\udfff": {"c": 1.5}}


def lines(path: Path) -> list[object]:
    """Every line by every rule of Unicode, parsed."""
    text = path.read_bytes().decode()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def test_hostile_records_are_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    sink = Sink(str(path))
    assert sink.write(HOSTILE) and sink.write({"n": 2})
    first, second = lines(path)
    assert isinstance(first, dict) and first["a"] == HOSTILE["a"] and second == {"n": 2}
    assert first["b"] == ["\\ud800", str(1 << 70), str(-(1 << 70))]
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
    assert not sink.losses


def test_the_descriptor_is_not_inherited(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path / "a"))
    seen = subprocess.run(["ls", "-l", "/proc/self/fd"], stdout=subprocess.PIPE, close_fds=False)
    assert str(tmp_path).encode() not in seen.stdout
    sink.close()


def test_a_rotated_file_is_opened_anew(tmp_path: Path) -> None:
    path, old = tmp_path / "a", tmp_path / "a.1"
    sink = Sink(str(path))
    sink.write({"n": 1})
    path.rename(old)
    sink.write({"n": 2})
    path.unlink()
    sink.write({"n": 3})
    assert lines(old) == [{"n": 1}] and lines(path) == [{"n": 3}]


def test_a_line_that_a_crash_cut_short_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"n":1}\n{"n":')
    Sink(str(path)).write({"n": 2})
    assert path.read_bytes().splitlines() == [b'{"n":1}', b'{"n":', b'{"n":2}']


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """As a disk that fills up: the last write is cut short (setrlimit(2), RLIMIT_FSIZE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_a_full_disk_loses_whole_records_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sink = Sink(str(path))
    with files_end_at(1000):
        written = [sink.write({"n": n, "pad": "x" * 90}) for n in range(20)]
    assert 5 < sum(written) < 20
    assert sink.losses.total() == 20 - sum(written)
    assert sink.write({"n": 20})
    assert [line["n"] for line in lines(path) if isinstance(line, dict)] == [*range(sum(written)), 20]


def test_a_full_device_is_counted_by_cause() -> None:
    sink = Sink("/dev/full")
    assert not sink.write({"n": 1}) and not sink.write({"n": 2})
    assert sink.losses == {"ENOSPC": 2}


def test_a_missing_directory_is_said_at_once_and_one_that_goes_later_is_counted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Sink(str(tmp_path / "no" / "a"))
    directory = tmp_path / "d"
    directory.mkdir()
    sink = Sink(str(directory / "a"))
    (directory / "a").unlink()
    directory.rmdir()
    assert not sink.write({})
    assert sink.losses == {"ENOENT": 1}


def test_a_named_pipe_without_reader_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = Sink(str(path))
    assert not sink.write({"n": 1})
    assert sink.losses == {"ENXIO": 1}
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert sink.write({"n": 2})
    assert os.read(reader, 100) == b'{"n":2}\n'
    os.close(reader)
    assert not sink.write({"n": 3})
    assert sink.losses == {"ENXIO": 1, "EPIPE": 1}


WRITER = """
import json, sys, time
from sensor.record.sink import Sink
sink = Sink("-", float(sys.argv[1]))
start = time.monotonic()
kept = [sink.write({"n": n, "pad": "x" * 5000}) for n in range(400)]
spent = time.monotonic() - start
sink.close()
json.dump({"kept": sum(kept), "spent": spent, "lost": sink.losses.total(), "why": sorted(sink.losses)}, sys.stderr)
"""


def writer(stdout: object, wait_s: float = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(wait_s)], stdout=stdout, stderr=subprocess.PIPE)  # type: ignore[call-overload,no-any-return]


def said(process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.stderr is not None
    report = json.loads(process.stderr.read().splitlines()[-1])
    assert isinstance(report, dict) and process.wait(60) == 0
    return report


def test_a_reader_that_never_reads_holds_nothing_up() -> None:
    process = writer(subprocess.PIPE)
    report = said(process)
    assert report["why"] == ["unread"] and report["lost"]
    # what the pipe took is whole lines but for the last
    assert process.stdout is not None
    got = process.stdout.read().split(b"\n")
    assert [json.loads(line)["n"] for line in got[:-1]] == list(range(len(got) - 1))
    assert len(got) - 1 + int(str(report["lost"])) == 400


def test_a_reader_that_is_slow_gets_every_record() -> None:
    process = writer(subprocess.PIPE, wait_s=60)
    assert process.stdout is not None
    time.sleep(0.3)
    got = process.stdout.read().splitlines()
    assert [json.loads(line)["n"] for line in got] == list(range(400))
    assert said(process)["lost"] == 0


def test_a_closed_pipe_is_counted() -> None:
    reader, end = os.pipe()
    os.close(reader)
    process = writer(end)
    os.close(end)
    report = said(process)
    assert report["lost"] == 400 and report["why"] == ["EPIPE"]


def test_a_socket_as_standard_output_is_never_waited_for() -> None:
    """systemd's StandardOutput=journal is one."""
    ours, theirs = socket.socketpair()
    process = writer(theirs.fileno())
    theirs.close()
    report = said(process)
    assert report["lost"] and report["why"] == ["unread"]
    assert ours.recv(20).startswith(b'{"n":0,')
    ours.close()


def test_standard_output_stays_blocking_for_others() -> None:
    reader, end = os.pipe()
    process = writer(end)
    said(process)
    assert os.get_blocking(end)
    os.close(reader)
    os.close(end)


def test_the_backlog_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = Sink(str(path))
    sizes = 0
    for _ in range(2 * BACKLOG // 1000):
        sizes += 1000 if sink.write({"p": "x" * 991}) else 0
    assert sizes <= BACKLOG + (1 << 17)
    got = b""
    while True:
        try:
            chunk = os.read(reader, 1 << 16)
        except BlockingIOError:
            break
        got += chunk
        sink.flush()
    assert len(got) == sizes and all(json.loads(line) for line in got.splitlines())
    os.close(reader)
