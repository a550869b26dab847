"""What is said of a program that a connection may steer: which connections may, and the event."""

from __future__ import annotations

from sensor.context.commands import reads_commands
from sensor.context.conversations import Base, Conversations
from sensor.context.processes import Process, Processes
from sensor.context.wiring import Wired
from sensor.decode import Ends, Payload
from sensor.events import ProcessStdio

_SECURE = ("tls", "quic")
"""Protocols that hide what is said in them."""


def may_steer(raw: Payload, owner: Process | None, conversations: Conversations) -> bool:
    """Some first words came of a flow that was opened here, by `owner`: may a shell hear them?"""
    said = conversations.flows.said(raw.ends)
    if said is None or said.protocol == "unknown" or (owner is not None and owner.piped):
        return said is not None
    if said.protocol not in _SECURE or said.name is not None:
        return False
    return conversations.names.name(raw.cgroup_id, raw.ends.remote, raw.time) is None


def process_stdio(
    base: Base, processes: Processes, conversations: Conversations, ends: Ends, fed: Wired, *, ran: bool
) -> ProcessStdio:
    """`base` is of the process that is fed, `ends` of the connection that feeds it."""
    process = fed.process
    own = processes.find(process.tgid, process.start, "", ())
    parent = processes.find(*process.parent, "", ())
    feeder = processes.find(*fed.feeder, "", ())
    said = conversations.flows.said(ends)
    name = conversations.names.name(process.cgroup_id, ends.remote, base["boottime"])
    return ProcessStdio(
        **base,
        **conversations.ends(ends),
        destination_hostname=(said.name if said else None) or name,
        image=own.image if own else None,
        command_line=own.command_line if own else None,
        args=own.args if own else None,
        parent_process_id=process.parent[0] or None,
        parent_image=parent.image if parent else None,
        parent_command_line=parent.command_line if parent else None,
        application_protocol=said.protocol if said else None,
        plain_text=said.plain if said and said.protocol == "unknown" else None,
        stdio_kind=fed.kind,
        fed_by_process_id=fed.feeder[0],
        fed_by_image=feeder.image if feeder else None,
        fed_by_command_line=feeder.command_line if feeder else None,
        fed_by_stdio=fed.by_stdio,
        only_connection=fed.only_connection,
        reads_commands=reads_commands(own.image, own.args) if own else None,
        ran_programs=ran,
    )
