"""A verdict and its outcome -> one line of JSON in the names of the Elastic Common Schema."""

from __future__ import annotations

import hashlib
from typing import Any

from sensor.events import (
    AnyEvent,
    CgroupMigration,
    CpuRounding,
    DeviceOpen,
    DnsQuery,
    FlowEvent,
    NetworkConnection,
    NetworkFlow,
    NetworkPayload,
    NetworkRelay,
    ProcessCreation,
    ProcessStdio,
    rfc3339,
)
from sensor.node import host
from sensor.verdict import SEVERITY, Outcome, Verdict

_REASON_LENGTH = 600
_QUOTE_LENGTH = 200
_SHORT_LENGTH = 80

_CATEGORY = {
    ProcessCreation.CATEGORY: ("process", "exec"),
    ProcessStdio.CATEGORY: ("process", "stdio"),
    NetworkConnection.CATEGORY: ("network", "connect"),
    NetworkPayload.CATEGORY: ("network", "payload"),
    NetworkFlow.CATEGORY: ("network", "flow"),
    NetworkRelay.CATEGORY: ("network", "relay"),
    DnsQuery.CATEGORY: ("network", "dns-query"),
    DeviceOpen.CATEGORY: ("host", "device-open"),
    CpuRounding.CATEGORY: ("process", "cpu-rounding"),
    CgroupMigration.CATEGORY: ("process", "cgroup-migration"),
}
"""event.category (of ECS's allowed values) and event.action, by Sigma category."""


def to_alert(verdict: Verdict, outcome: Outcome) -> dict[str, Any]:
    """The alert as nested objects; what there is nothing to say of is left out."""
    rule, event = verdict.rule, verdict.event
    name, machine_id = host()
    category, action = _CATEGORY[event.CATEGORY]
    return _without_nothing(
        {
            "@timestamp": rfc3339(event.time),
            "event": {
                "kind": "alert",
                "id": alert_id(verdict),
                "category": [category],
                "action": action,
                "severity": SEVERITY[rule.level],
                "reason": reason(verdict),
                "duration": _duration(event),
            },
            "rule": {"id": rule.id, "name": rule.title, "level": rule.level},
            "threat": {"technique": {"id": list(rule.techniques)}},
            "host": {"name": name, "id": machine_id},
            "process": _process(event),
            **_what(event),
            **_where(event),
            "response": {name: getattr(outcome, name) for name in outcome.__struct_fields__},
        }
    )


def reason(verdict: Verdict) -> str:
    """Who did what, where, and by which rule, in one sentence of printable characters."""
    event = verdict.event
    where = _workload_in_words(event)
    rule = _quoted(verdict.rule.title, _QUOTE_LENGTH)
    text = f"{sentence(event)}{f' in {where}' if where else ''}: {rule}"
    if verdict.detail:
        text += f" ({_quoted(verdict.detail, _QUOTE_LENGTH)})"
    return text if len(text) <= _REASON_LENGTH else text[: _REASON_LENGTH - 1] + "…"


def sentence(event: AnyEvent) -> str:
    """Who did what, in printable characters."""
    who = _quoted(_base_name(event.image) or "a process", _SHORT_LENGTH)
    if event.process_id is not None:
        who += f" (pid {event.process_id}{f', {_quoted(event.user, _SHORT_LENGTH)}' if event.user else ''})"
    if event.agent:
        who += f" of agent {_quoted(event.agent, _SHORT_LENGTH)}"
    return f"{who} {_deed(event)}"


def _deed(event: AnyEvent) -> str:
    if isinstance(event, ProcessCreation):
        how = "was kept from running" if event.denied else "ran"
        return f"{how} `{_quoted(event.command_line or event.image or '?', _QUOTE_LENGTH)}`"
    if isinstance(event, FlowEvent):
        return _deed_in_the_network(event)
    if isinstance(event, DnsQuery):
        kind = f" ({_quoted(event.query_type, _SHORT_LENGTH)})" if event.query_type else ""
        return f"looked up {_quoted(event.query_name or '?', _QUOTE_LENGTH)}{kind}"
    if isinstance(event, CgroupMigration):
        return "was moved out of its agent's cgroups"
    if isinstance(event, CpuRounding):
        return "kept changing the rounding mode of its arithmetic at random"
    deed = "was kept from opening" if event.denied else "opened"
    return f"{deed} {_quoted(event.device_class or 'device', _SHORT_LENGTH)} {event.device_major}:{event.device_minor}"


def _deed_in_the_network(event: FlowEvent) -> str:
    name = _quoted(event.destination_hostname or event.destination_ip or "?", _SHORT_LENGTH)
    name = f"[{name}]" if ":" in name else name
    port = "" if event.destination_port is None else f":{event.destination_port}"
    kind = " ".join(filter(None, (event.destination_scope, event.protocol)))
    peer = f"{name}{port}{f' ({_quoted(kind, _SHORT_LENGTH)})' if kind else ''}"
    if event.denied:
        return f"was kept from connecting to {peer}"
    if isinstance(event, NetworkPayload):
        return f"spoke {_quoted(event.application_protocol or 'an unknown protocol', _SHORT_LENGTH)} with {peer}"
    if isinstance(event, ProcessStdio):
        feeder = _quoted(_base_name(event.fed_by_image) or "a process", _SHORT_LENGTH)
        return f"was fed by a connection to {peer} through {feeder} (pid {event.fed_by_process_id})"
    if isinstance(event, NetworkFlow):
        return f"sent {event.bytes_out or 0} and received {event.bytes_in or 0} bytes, the peer being {peer}"
    if isinstance(event, NetworkRelay):
        return f"relayed between {peer} and {_inner_end(event)}, {event.relay_exchanges or 0} times"
    return f"connected to {peer}"


def _inner_end(event: NetworkRelay) -> str:
    ip = _quoted(event.relay_ip or "?", _SHORT_LENGTH)
    ip = f"[{ip}]" if ":" in ip else ip
    if event.relay_initiated:
        return f"{ip}:{event.relay_port} ({_quoted(event.relay_scope or '?', _SHORT_LENGTH)})"
    return f"{ip}, which connected to its port {event.relay_port}"


def _workload_in_words(event: AnyEvent) -> str | None:
    if event.slurm_job_id:
        return f"Slurm job {_quoted(event.slurm_job_id, _SHORT_LENGTH)}"
    if event.container_id:
        return f"container {_quoted(event.container_id[:12], _SHORT_LENGTH)}"
    name = event.systemd_unit or event.cgroup_path
    return _quoted(name, _QUOTE_LENGTH) if name else None


def _process(event: AnyEvent) -> dict[str, Any]:
    return {
        "pid": event.process_id,
        "entity_id": event.process_guid,
        "executable": event.image,
        "name": _base_name(event.image),
        "args": event.args,
        "command_line": event.command_line,
        "working_directory": event.current_directory if isinstance(event, ProcessCreation) else None,
        "user": {"id": None if event.user_id is None else str(event.user_id), "name": event.user},
        "parent": {
            "pid": event.parent_process_id,
            "executable": event.parent_image,
            "command_line": event.parent_command_line,
        },
    }


def _what(event: AnyEvent) -> dict[str, Any]:
    if isinstance(event, FlowEvent):
        return _flow(event)
    if isinstance(event, DnsQuery):
        return {
            "dns": {
                "question": {"name": event.query_name, "type": event.query_type},
                "answers": {"data": event.query_results},
            }
        }
    if isinstance(event, DeviceOpen):
        return {
            "device": {
                "class": event.device_class,
                "major": event.device_major,
                "minor": event.device_minor,
            }
        }
    return {}


def _flow(event: FlowEvent) -> dict[str, Any]:
    source: dict[str, Any] = {"ip": event.source_ip, "port": event.source_port}
    destination: dict[str, Any] = {
        "ip": event.destination_ip,
        "port": event.destination_port,
        "domain": event.destination_hostname,
    }
    network = {"transport": event.protocol.lower() if event.protocol else None}
    said = {"source": source, "destination": destination, "network": network}
    if isinstance(event, NetworkFlow):
        source |= {"bytes": event.bytes_out, "packets": event.packets_out}
        destination |= {"bytes": event.bytes_in, "packets": event.packets_in}
    elif isinstance(event, NetworkRelay):
        network["protocol"] = event.application_protocol
        said["relay"] = {
            "ip": event.relay_ip,
            "port": event.relay_port,
            "initiated": event.relay_initiated,
            "exchanges": event.relay_exchanges,
            "turns": event.relay_turns,
            "bytes": {"in": event.relay_bytes_in, "out": event.relay_bytes_out},
            "process": {"pid": event.relay_process_id, "executable": event.relay_image},
        }
    elif isinstance(event, ProcessStdio):
        network["protocol"] = event.application_protocol
    elif isinstance(event, NetworkPayload):
        network["protocol"] = event.application_protocol
        said |= {
            "ssh": {"banner": event.ssh_banner},
            "stratum": {"method": event.stratum_method},
            "tls": {"client": {"server_name": event.tls_server_name, "ja4": event.tls_ja4}},
            "http": {"request": {"method": event.http_method}},
            "url": {"domain": event.http_host, "path": event.http_path},
            "socks": {"destination": event.socks_destination},
        }
    return said


def _duration(event: AnyEvent) -> int | None:
    """ECS's event.duration, in nanoseconds."""
    if not isinstance(event, NetworkFlow) or event.duration is None:
        return None
    return round(event.duration * 1_000_000_000)


def _where(event: AnyEvent) -> dict[str, Any]:
    pod = event.kubernetes_pod
    return {
        "cgroup": {"id": event.cgroup_id, "path": event.cgroup_path},
        "container": {"id": event.container_id},
        "systemd": {"unit": event.systemd_unit},
        "orchestrator": {"type": "kubernetes", "resource": {"type": "pod", "id": pod}} if pod else None,
        "slurm": {"job": {"id": event.slurm_job_id}},
        "workload": {"agent": event.agent, "owner": event.agent_owner, "purpose": event.agent_purpose},
    }


def alert_id(verdict: Verdict) -> str:
    """Equal for the same rule and event, live or replayed: a record's times have microseconds."""
    event = verdict.event
    parts: list[object] = [verdict.rule.id, event.CATEGORY, event.time // 1000, event.process_guid]
    if isinstance(event, FlowEvent):
        parts += [event.protocol, event.destination_ip, event.destination_port]
        if isinstance(event, (NetworkPayload, NetworkFlow, NetworkRelay, ProcessStdio)):
            parts += [event.source_ip, event.source_port]
        if isinstance(event, NetworkRelay):
            parts += [event.relay_turns, event.relay_exchanges]
    elif isinstance(event, DnsQuery):
        parts += [event.query_name, event.query_type]
    elif isinstance(event, DeviceOpen):
        parts += [event.device_major, event.device_minor, event.access]
    return hashlib.blake2b(repr(parts).encode(errors="backslashreplace"), digest_size=16).hexdigest()


def _without_nothing(value: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, item in value.items():
        inner = _without_nothing(item) if isinstance(item, dict) else item
        if inner is not None and inner not in ({}, []):
            kept[key] = inner
    return kept


def _quoted(text: str, limit: int) -> str:
    """Hostile text made harmless: what is not printable (controls, bidirectional marks) escaped, and cut."""
    cut = text[: limit + 1]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return cut if len(cut) <= limit else cut[: limit - 1] + "…"


def _base_name(path: str | None) -> str | None:
    return path.rstrip("/").rpartition("/")[2] or path if path else None
