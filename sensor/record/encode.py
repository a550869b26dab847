"""One JSON object, one line, whatever its strings hold."""

from __future__ import annotations

import orjson

_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""Characters that JSON allows in a string (RFC 8259 section 7) but at which some readers end a line."""


def encode(record: object) -> bytes:
    """JSON without a line end. Lone surrogates and integers beyond 64 bits come out as text."""
    try:
        data = orjson.dumps(record, default=str)
    except TypeError:
        data = orjson.dumps(_encodable(record), default=str)
    for raw, escaped in _LINE_ENDS:
        if raw in data:
            data = data.replace(raw, escaped)
    return data


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    if isinstance(value, dict):
        return {str(_encodable(key)): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value
