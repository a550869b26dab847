"""The log is JSON lines on stderr where no person looks, and holds nothing up."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import structlog

from sensor.record import log


def run(code: str, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code], timeout=60, **kwargs)  # type: ignore[call-overload,no-any-return]


def test_json_lines_on_standard_error_and_none_on_standard_output() -> None:
    code = "import structlog, sensor.record.log; structlog.get_logger().info('ready', text='a\\nb\\u2028')"
    done = run(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    record = json.loads(line)
    assert record["event"] == "ready" and record["level"] == "info" and record["text"] == "a\nb\u2028"
    assert record["timestamp"].endswith("Z")


def test_rich_is_not_loaded_for_the_log_and_can_be_loaded_after() -> None:
    code = "import sys, sensor.record.log; assert 'rich' not in sys.modules; import rich.table"
    assert run(code).returncode == 0


def test_a_log_that_nobody_reads_holds_nothing_up() -> None:
    code = """
import structlog, sensor.record.log
for n in range(5000): structlog.get_logger().info("x", pad="y" * 100)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert process.wait(60) == 0
    assert process.stderr is not None
    process.stderr.close()


def test_a_closed_log_stops_nothing() -> None:
    code = "import os, structlog, sensor.record.log; os.close(2); structlog.get_logger().error('x'); print('on')"
    assert run(code, stdout=subprocess.PIPE).stdout == b"on\n"


def test_equal_trouble_is_logged_once_a_minute_with_what_was_left_out() -> None:
    out = io.StringIO()
    log.configure(out)
    try:
        now = [0.0]
        limited = log.Limited(lambda: now[0])
        for second in range(0, 121, 10):
            now[0] = second
            limited.error("trouble", n=second)
        structlog.get_logger().info("other")
    finally:
        log.configure()
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(r["event"], r.get("n"), r.get("left_out")) for r in records] == [
        ("trouble", 0, None),
        ("trouble", 60, 5),
        ("trouble", 120, 5),
        ("other", None, None),
    ]


def test_without_a_standard_error_there_is_no_log_and_no_harm() -> None:
    code = "import structlog, sensor.record.log; structlog.get_logger().error('lost'); print('alive')"
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"alive\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_no_value_acts_on_it() -> None:
    out = Terminal()
    log.configure(out)
    try:
        structlog.get_logger().error("response failed", cgroup="/\x1b]0;owned\x07\x1b[2J\u202e", rule="a\nb")
    finally:
        log.configure()
    text = out.getvalue()
    assert text.count("\n") == 1 and "response failed" in text
    for harm in ("\x1b]0;", "\x07", "\x1b[2J", "\u202e"):
        assert harm not in text
