"""`python -m sensor.record.notify.sender`: the process that talks to the outside, and holds no privilege.

It reads a request a line, {"number", "url", "title", "body", "level"}, forks for each, and the fork writes
{"number", "why"} when it is done: one that hangs, or is led astray by what a service answers, is gone after
`LIMIT_S` and harms no other. URLs come through the pipe alone, and nothing of apprise's own words leaves: they may
quote a URL.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import re
import resource
import signal
import sys
from typing import Any

LIMIT_S = 25
CHECK = "check"
"""The level of a message that is not to be sent: is the URL one of a service?"""
NO_APPRISE = 3
"""Exit status where apprise is not installed."""
_CONNECT_S, _READ_S = 8.0, 12.0
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # include/uapi/linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h


def main() -> None:
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        apprise = _apprise()
    except ImportError:
        sys.exit(NO_APPRISE)
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_privileges(libc)
    for line in sys.stdin.buffer:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # what is under way is sent again by the next sensor
            _serve(apprise, json.loads(line), answers)


def _apprise() -> Any:
    import apprise  # noqa: PLC0415 (takes a second and 50 MB)

    apprise.Apprise.instantiate("json://127.0.0.1")  # reads every service's code now, while files can still be read
    return apprise


def _drop_privileges(libc: ctypes.CDLL) -> None:
    """No capability, and none to be had by exec: capabilities(7). And an end when the sensor ends."""
    nothing = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(header, nothing):
        sys.exit(f"privileges cannot be given up: {os.strerror(ctypes.get_errno())}")
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _serve(apprise: Any, request: dict[str, Any], answers: int) -> None:
    """In the fork; does not return."""
    signal.alarm(LIMIT_S)  # its default is the end
    why: str | None = "apprise could not handle this"
    try:
        why = _send(apprise, **{name: request[name] for name in ("url", "title", "body", "level")})
    finally:  # whatever a service's code raises ends here
        os.write(answers, json.dumps({"number": request["number"], "why": why}).encode() + b"\n")
        os._exit(0)


class _Status(logging.Handler):
    """Finds in apprise's words what a service answered, and keeps nothing else of them."""

    code: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        match = re.search(r"\berror=(\d{3})\b", record.getMessage())
        self.code = match[1] if match else self.code


def _send(apprise: Any, url: str, title: str, body: str, level: str) -> str | None:
    """None where the service took it, else why not, in words that hold nothing of the URL."""
    logging.disable(logging.NOTSET)
    status = _Status()
    logger = logging.getLogger("apprise")
    logger.addHandler(status)
    logger.propagate = False
    asset = apprise.AppriseAsset(storage_mode="memory", async_mode=False, app_id="Hostbrake", app_url="")
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        return "apprise knows no such service, or its URL lacks something"
    if level == CHECK:
        return None
    service.socket_connect_timeout = min(service.socket_connect_timeout or _CONNECT_S, _CONNECT_S)
    service.socket_read_timeout = min(service.socket_read_timeout or _READ_S, _READ_S)
    everyone = apprise.Apprise(asset=asset)
    everyone.add(service)
    kind = {"critical": apprise.NotifyType.FAILURE, "low": apprise.NotifyType.INFO}
    if everyone.notify(
        body=body,
        title=title,
        notify_type=kind.get(level, apprise.NotifyType.WARNING),
        body_format=apprise.NotifyFormat.TEXT,
    ):
        return None
    return f"the service answered with status {status.code}" if status.code else "the service could not be reached"


if __name__ == "__main__":
    main()
