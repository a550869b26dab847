"""One record of the trail: one JSON object on one line, in the only encoding that it can have.

    {"index": 7, "time": "…Z", "kind": "intent", …fields, "prev": "…"}

`prev` is the RFC 6962 leaf hash of the line before (without its line end), in hexadecimal; the first record has 64
zeros. The same hash is the record's leaf in the Merkle tree, so the chain and the tree protect the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from sensor.events import rfc3339
from sensor.record.encode import encode

Kind = Literal[
    "start",
    "stop",
    "reload",
    "event",
    "verdict",
    "intent",
    "action",
    "approval",
    "notification",
    "drill",
    "request",
    "loss",
]
NO_HEAD = "0" * 64
"""`prev` of the first record."""
LINE_BYTES = 1 << 20
"""No line is longer, its end included."""


class LineError(Exception):
    """Not a record of the trail; the message is a clause."""


def encode_line(index: int, kind: Kind, fields: Mapping[str, Any], prev: str) -> bytes:
    """The record without a line end. Raises TypeError, ValueError or RecursionError for what JSON cannot hold."""
    own = {"index": index, "time": rfc3339(time.time_ns()), "kind": kind}
    return encode({**own, **fields, **own, "prev": prev})


def parse_line(line: bytes) -> dict[str, Any]:
    """The inverse of `encode_line`; raises LineError for every line that it would not have written."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise LineError("is no JSON") from None
    if not isinstance(record, dict):
        raise LineError("is no JSON object")
    names = (("index", int), ("time", str), ("kind", str), ("prev", str))
    if any(type(record.get(name)) is not kind for name, kind in names) or record["index"] < 0:
        raise LineError("lacks index, time, kind or prev")
    try:
        if encode(record) != line:
            raise LineError("is not in the encoding that the sensor writes")
    except (TypeError, ValueError, RecursionError):
        raise LineError("is not in the encoding that the sensor writes") from None
    return record
