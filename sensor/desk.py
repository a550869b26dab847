"""What operators ask and answer through the control socket, beside `status`."""

from __future__ import annotations

import structlog

from sensor.control import Request
from sensor.record.audit.requests import Requests

log = structlog.get_logger()

READING = frozenset({"status", "pending", "decision", "reloaded"})
"""Commands that change nothing."""


def note_request(requests: Requests, request: Request) -> None:
    """The same for the audit trail. Of what is no request nothing is kept but that it came."""
    peer = request.peer
    known = request.verdict in ("answered", "refused")
    said = {"user": peer.user, "arguments": request.arguments or None, "reason": request.why} if known else {}
    requests.note(
        request.command if known and request.command else request.verdict,
        "done" if request.verdict == "answered" else "refused",
        (peer.pid, peer.uid, peer.gid),
        looks=request.command in READING or request.verdict != "answered",
        **{name: value for name, value in said.items() if value is not None},
    )


def log_request(request: Request) -> None:
    """Who asked for what, and whether they got it. Of what was only read nothing is said."""
    if request.command in READING and request.verdict == "answered":
        return
    log.info(
        "control request",
        command=request.command,
        arguments=request.arguments,
        by=str(request.peer),
        pid=request.peer.pid,
        verdict=request.verdict,
        reason=request.why,
    )
