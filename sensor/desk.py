"""What operators ask and answer through the control socket, beside `status`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from msgspec.structs import asdict

from sensor.control import ControlError, Handler, Peer, Request
from sensor.record.audit.requests import Requests
from sensor.respond.approvals import ApprovalError, Approvals
from sensor.respond.casebook import Casebook
from sensor.respond.cases import Case, Grant, now
from sensor.respond.process import read_proc

log = structlog.get_logger()

READING = frozenset(
    {"status", "pending", "decision", "incidents", "notified", "reloaded", "drill-agents", "drill-alerts"}
)
"""Commands that change nothing."""

AgentOf = Callable[[Peer, str], str | None]
"""The agent of whoever asks, out of the cgroup at this path."""


class Desk:
    """The commands of the approvals."""

    def __init__(self, approvals: Approvals, book: Casebook, agent_of: AgentOf) -> None:
        self._approvals = approvals
        self._book = book
        self._agent_of = agent_of

    def commands(self) -> dict[str, Handler]:
        return {
            "pending": self._pending,
            "decision": self._decision,
            "approve": self._approve,
            "deny": self._deny,
        }

    def summary(self) -> dict[str, int]:
        """For `status`."""
        return {"pending": len(self._book.pending), "grants": len(self._book.grants)}

    def _pending(self, _arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        self._book.forget_old_grants()
        return {
            "mode": self._approvals.mode,
            "cases": [_case(case) for case in self._book.pending],
            "grants": [_grant(grant) for grant in self._book.grants.values()],
        }

    def _decision(self, arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        """What became of a case; `outcome` is null while that is not known."""
        closed = self._approvals.closed(_id(arguments))
        return {"outcome": None if closed is None else asdict(closed.outcome)}

    def _approve(self, arguments: dict[str, Any], peer: Peer) -> dict[str, Any]:
        for_s = arguments.get("for_s")
        if for_s is not None and (not isinstance(for_s, int) or isinstance(for_s, bool)):
            raise ControlError("for_s is a whole number of seconds")
        self._check(peer)
        try:
            self._approvals.approve(_id(arguments), str(peer), for_s)
        except ApprovalError as error:
            raise ControlError(str(error)) from None
        return self._decision(arguments, peer)

    def _deny(self, arguments: dict[str, Any], peer: Peer) -> dict[str, Any]:
        self._check(peer)
        try:
            self._approvals.deny(_id(arguments), str(peer))
        except ApprovalError as error:
            raise ControlError(str(error)) from None
        return self._decision(arguments, peer)

    def guarded(self, handler: Handler) -> Handler:
        """The same for whoever is no workload."""

        def checked(arguments: dict[str, Any], peer: Peer) -> dict[str, Any]:
            self._check(peer)
            return handler(arguments, peer)

        return checked

    def _check(self, peer: Peer) -> None:
        """An agent does not answer for itself, whatever user it runs as; raises ControlError."""
        lines = (read_proc(f"{peer.pid}/cgroup") or b"").split(b"\n")
        path = next((line[3:].decode(errors="backslashreplace") for line in lines if line.startswith(b"0::")), None)
        if path is None:
            raise ControlError(f"who asks cannot be told: process {peer.pid} is gone")
        agent = self._agent_of(peer, path)
        frozen = (ref.path for case in self._book.pending for ref in case.cgroups)
        if agent is not None or any(path == place or path.startswith(place + "/") for place in frozen):
            whose = f"of agent {agent}" if agent else "a case's"
            raise ControlError(f"process {peer.pid} runs in {path}, which is {whose}: a workload answers for none")


def _id(arguments: dict[str, Any]) -> str:
    given = arguments.get("id")
    if not isinstance(given, str):
        raise ControlError("id must name a case")
    return given.strip().lower()[:32]


def _case(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "rule": {"id": case.rule.id, "name": case.rule.title, "level": case.rule.level},
        "agent": case.agent,
        "owner": case.owner,
        "cgroups": [asdict(ref) for ref in case.cgroups],
        "wanted": case.wanted,
        "recent": case.recent,
        "event": case.event,
        "asked": case.asked,
        "left_s": _left(case.deadline),
        "repeats": case.repeats,
        "frozen": case.held,
    }


def _grant(grant: Grant) -> dict[str, Any]:
    return {
        "rule": {"id": grant.rule, "name": grant.title},
        "for": grant.whom,
        "by": grant.by,
        "case": grant.case,
        "left_s": _left(grant.until),
    }


def _left(until: int) -> float:
    return round((until - now()) / 1e9, 1)


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
