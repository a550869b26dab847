"""Records of an incident in words, for people. Nothing here makes text harmless: see `sensor.record.report.model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sensor.events import RecordError, from_record
from sensor.record.alerts import sentence
from sensor.record.report.fields import TEXT, count, mapping, milliseconds, text

DONE = {
    "kill": "killed",
    "freeze": "frozen",
    "isolate": "cut off from network and GPUs",
    "deny": "denied by the kernel",
}
_NAMED = frozenset({"index", "time", "kind", "prev", "alert", "alerts", "incident", "agent", "owner", "event"})


def in_words(record: Mapping[str, Any]) -> str:
    """One record, in at most a thousand characters."""
    kind = record["kind"]
    tell = {"event": _event, "verdict": _verdict, "intent": _intent, "action": _action, "request": _request}.get(
        kind, _anything
    )
    return tell(record)[:TEXT]


def duration(milliseconds: float) -> str:
    """To three digits or so, in the unit that suits: `0.42 ms`, `3.5 ms`, `12.3 s`, `4 min 5 s`."""
    if milliseconds < 999.5:
        digits = 2 if milliseconds < 0.995 else 1 if milliseconds < 99.95 else 0
        return f"{milliseconds:.{digits}f}".rstrip("0").rstrip(".") + " ms" if digits else f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 99.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(place for place, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def _event(record: Mapping[str, Any]) -> str:
    said = mapping(record, "event")
    try:
        return sentence(from_record(said))
    except RecordError:
        return f"an event that is none: {_plain(said)}"


def _verdict(record: Mapping[str, Any]) -> str:
    times = count(record, "count")
    words = f"{text(record, 'level') or ''} {text(record, 'title') or text(record, 'rule') or 'a rule'}".strip()
    if detail := text(record, "detail"):
        words += f" ({detail})"
    if times is not None:
        words += f", {times} more like it"
    known = milliseconds(record, "detect_ms")
    return words if known is None else f"{words}; known after {duration(known)}"


def _intent(record: Mapping[str, Any]) -> str:
    target = text(record, "cgroup") or text(record, "process") or ""
    return f"about to {text(record, 'action') or 'act'} {text(record, 'scope') or ''} {target}".strip()


def _action(record: Mapping[str, Any]) -> str:
    action, outcome = text(record, "action") or "act", text(record, "outcome")
    why = f": {reason}" if (reason := text(record, "reason")) else ""
    deed = DONE.get(action, action)
    if outcome == "would":
        return f"nothing done, in monitor mode; else {deed}{why}"
    if outcome == "pending":
        return f"{deed}, waits for a decision{why}"
    if outcome == "none":
        return f"nothing more was done{why}"
    if outcome == "done" and (reason or "").startswith("approved"):
        return f"let go on{why}"
    if outcome != "done":
        return f"{'REFUSED' if outcome == 'refused' else 'FAILED'} to {action}{why}"
    processes = count(record, "processes")
    stopped = milliseconds(record, "respond_ms")
    many = f", {processes} process{'' if processes == 1 else 'es'}" if processes else ""
    after = f", verified after {duration(stopped)}" if stopped else ""
    return f"{deed}{many}{after}{why}"


def _request(record: Mapping[str, Any]) -> str:
    uid = count(record, "uid")
    who = text(record, "user") or ("somebody" if uid is None else f"user {uid}")
    return f"{who} asked to {text(record, 'command') or 'do something'}: {text(record, 'answer') or 'no answer'}"


def _anything(record: Mapping[str, Any]) -> str:
    return _plain({name: value for name, value in record.items() if name not in _NAMED and value is not None})


def _plain(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else orjson.dumps(value, default=str).decode()}"
        for name, value in fields.items()
    )
