"""What the service manager hears of us (sd_notify(3)): ready, alive, stopping."""

from __future__ import annotations

import os
import socket
import time

from sensor.record.log import Limited

_PATIENCE_S = 1.0
"""How long `ready` and `stopping` wait for a manager that is slow to read; `alive` never waits."""


class Supervisor:
    """Speaks to $NOTIFY_SOCKET where there is one, and keeps the watchdog fed at half its period."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # abstract socket (unix(7))
            self._address = "\0" + self._address[1:]
        watchdog_us = os.environ.get("WATCHDOG_USEC", "")
        is_meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())  # sd_watchdog_enabled(3)
        self._period = int(watchdog_us) / 2e6 if watchdog_us.isdigit() and is_meant else 0.0
        self._fed = 0.0
        self._trouble = Limited()

    def ready(self) -> None:
        self._send("READY=1\nSTATUS=watching", _PATIENCE_S)

    def stopping(self) -> None:
        self._send("STOPPING=1", _PATIENCE_S)

    def alive(self) -> None:
        """Call often; sends only when it is time."""
        now = time.monotonic()
        if self._period and now - self._fed >= self._period:
            self._fed = now
            self._send("WATCHDOG=1", 0)

    def _send(self, text: str, wait_s: float) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(wait_s)
            try:
                sender.sendto(text.encode(), self._address)
            except OSError as error:
                self._trouble.error("the service manager was not told", what=text, why=str(error))
