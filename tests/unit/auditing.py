"""A finished trail to tamper with, for the audit tests."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensor.record.audit import layout
from sensor.record.audit.line import NO_HEAD, encode_line, parse_line
from sensor.record.audit.merkle import leaf_hash
from sensor.record.audit.note import PublicKey, parse_public_key
from sensor.record.audit.trail import Audit
from sensor.record.audit.verify import Report, verify_trail


def settle(audit: Audit, size: int | None = None) -> None:
    """Tick until all (or `size` records) are signed for."""
    until = time.monotonic() + 30
    while audit.summary()["signed"] < (audit.summary()["records"] if size is None else size):
        assert time.monotonic() < until, "never signed"
        audit.tick()
        time.sleep(0.002)


def incident(audit: Audit, alert: str, **fields: Any) -> None:
    """The four records of one response."""
    audit.append("event", alert=alert, event={"category": "process_creation", "Image": "/bin/xmrig", **fields})
    audit.append("verdict", alert=alert, rule="r", title="A miner", agent="rome-rl")
    intent = audit.append("intent", alert=alert, action="kill", agent="rome-rl", cgroup="/rome/job")
    audit.append("action", alert=alert, intent=intent, action="kill", outcome="done", processes=3, agent="rome-rl")


def make_trail(state_dir: Path, incidents: int = 8, segment_bytes: int = 2000) -> Path:
    """A trail of some segments with some checkpoints; gives its directory."""
    audit = Audit(state_dir, segment_bytes)
    audit.append("start", version="0")
    for number in range(incidents):
        incident(audit, f"alert{number}", number=number)
        if number % 3 == 0:
            settle(audit)
    audit.append("stop")
    audit.close()
    assert not audit.losses
    return state_dir / layout.AUDIT_DIR


def copy_trail(trail: Path, to: Path) -> Path:
    shutil.copytree(trail, to)
    return to


def key_of(trail: Path) -> PublicKey:
    return parse_public_key((trail / layout.PUBLIC_KEY).read_text())


def check(trail: Path, *elsewhere: Path) -> Report:
    return verify_trail(trail, [key_of(trail)], [(path.name, path.read_bytes()) for path in elsewhere])


def lines_of(trail: Path) -> list[bytes]:
    """Every line, its end included."""
    return [line for segment in layout.segments(trail) for line in segment.path.read_bytes().splitlines(keepends=True)]


def rewrite(trail: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines, and leave each segment as many as before, as far as there are."""
    found = layout.segments(trail)
    counts = [len(segment.path.read_bytes().splitlines()) for segment in found]
    changed = change(lines_of(trail))
    counts[-1] = len(changed)
    for segment, count in zip(found, counts, strict=True):
        segment.path.write_bytes(b"".join(changed[:count]))
        del changed[:count]


def replace_all(trail: Path, lines: list[bytes]) -> None:
    """Have these lines and no others, in one segment."""
    for segment in layout.segments(trail):
        segment.path.unlink()
    (trail / layout.segment_name(0)).write_bytes(b"".join(lines))


def rehash(lines: list[bytes]) -> list[bytes]:
    """Number and chain the records anew, as somebody without the key would to cover a change up."""
    head, made = NO_HEAD, []
    for index, line in enumerate(lines):
        record = parse_line(line[:-1])
        fields = {name: value for name, value in record.items() if name not in ("index", "kind", "prev")}
        new = encode_line(index, record["kind"], fields, head)
        head = leaf_hash(new).hex()
        made.append(new + b"\n")
    return made
