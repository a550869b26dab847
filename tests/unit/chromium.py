"""A real headless Chromium, spoken to in the DevTools protocol over a pipe: NUL-ended JSON on descriptors 3 and 4."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
REQUIRE = "HOSTBRAKE_REQUIRE_CHROMIUM"
PATIENCE_S = 120
_ABOVE = 20
"""Descriptors from here on are in nobody's way."""
_ENTER = "import os, sys; os.dup2({}, 3); os.dup2({}, 4); os.execv(sys.argv[1], sys.argv[1:])"


def find() -> str:
    """Its program; skips the test, or fails it where `REQUIRE` is set."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        why = f"no Chromium here ({', '.join(NAMES)}): packages-test.apt has one"
        pytest.fail(f"{REQUIRE} is set, and there is {why}") if os.environ.get(REQUIRE) else pytest.skip(why)
    return found


class Browser:
    """One browser with one page."""

    def __init__(self, place: Path) -> None:
        own_read, its_write = _pipe()
        its_read, own_write = _pipe()
        flags = ["--headless", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={place}", "--no-first-run"]
        # It has no sandbox as root, and elsewhere only where user namespaces are allowed; /dev/shm may be small.
        flags += ["--no-sandbox", "--disable-dev-shm-usage"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTER.format(its_read, its_write), find(), *flags, "about:blank"],
            pass_fds=(its_read, its_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_read)
        os.close(its_write)
        self._read, self._write, self._buffer, self._number = own_read, own_write, b"", 0
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        os.close(self._read)
        os.close(self._write)

    def open(self, page: Path, width: int, scheme: str = "light", media: str = "") -> None:
        """Load it in a window of that width, by `scheme` (prefers-color-scheme) and as `media` ("print")."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        until = time.monotonic() + PATIENCE_S
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._take(until)

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """What the page had to say to its console, refusals by its policy included."""
        said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in said]

    def requests(self) -> list[str]:
        """Every address that it asked for."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        until = time.monotonic() + PATIENCE_S
        while True:
            answer = self._take(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result = answer["result"]
                assert isinstance(result, dict)
                return result

    def _take(self, until: float) -> dict[str, Any]:
        """The next message; events are kept, too."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "Chromium is gone"
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        assert isinstance(message, dict)
        if "method" in message:
            self.events.append(message)
        return message


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
