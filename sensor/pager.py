"""What the control socket is asked about incidents and those who are told of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sensor.control import ControlError, Handler, Peer
from sensor.record.notify.notifier import Notifier


def pager_commands(notifier: Notifier | None, agents: Callable[[], Collection[str]]) -> dict[str, Handler]:
    """`notifier` is None where notifications are off; `agents` gives the names of those that there are now."""

    def paging() -> Notifier:
        if notifier is None:
            raise ControlError("notifications are off: `notify: null` in the configuration, or --no-notify")
        return notifier

    def ack(arguments: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return paging().acknowledge(_text(arguments, "id"), str(peer))

    def incidents(_arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        return paging().incidents()

    def notify(arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        agent = None if arguments.get("operators") is True else _text(arguments, "agent")
        if agent is not None and agent not in agents():
            raise ControlError(f"there is no agent {agent[:80]!r}")
        return paging().test(agent)

    def notified(arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        ticket = arguments.get("test")
        if not isinstance(ticket, int):
            raise ControlError("test is missing")
        return paging().tested(ticket)

    return {"ack": ack, "incidents": incidents, "notify": notify, "notified": notified}


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise ControlError(f"{name} is missing")
    return value
