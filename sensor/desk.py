"""What operators ask and answer through the control socket, beside `status`."""

from __future__ import annotations

import structlog

from sensor.control import Request

log = structlog.get_logger()

READING = frozenset({"status", "pending", "decision", "reloaded"})
"""Commands that change nothing."""


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
