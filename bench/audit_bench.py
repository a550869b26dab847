"""Microseconds per record of the audit trail: `python -m bench.audit_bench [records] [directory]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from sensor.events import ProcessCreation, to_record
from sensor.record.audit.layout import PUBLIC_KEY
from sensor.record.audit.note import parse_public_key
from sensor.record.audit.trail import Audit
from sensor.record.audit.verify import verify_trail

ALERT = "5f4865b1afc64772967c81ed1a8c82be"
EVENT = ProcessCreation(
    time=1_700_000_000_000_000_000,
    process_id=4856,
    process_guid="0a1b2c3d-4856-123456",
    image="/usr/bin/ssh",
    command_line="/usr/bin/ssh -N -R 0:127.0.0.1:58703 root@127.0.0.1",
    args=["/usr/bin/ssh", "-N", "-R", "0:127.0.0.1:58703", "root@127.0.0.1"],
    parent_image="/usr/bin/dash",
    ancestors=["/usr/bin/dash", "/usr/bin/python3.11", "/usr/lib/systemd/systemd"],
    cgroup_path="/rome.slice/job",
    agent="rome-rl",
    agent_owner="Ada Example",
)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as directory:
        audit = Audit(Path(directory))
        for name in ("intent", "event", "one of each, then 0.2 s of rest"):
            took = _append(audit, name, count)
            print(f"append {name:32} median {took[len(took) // 2]:6.1f}   p99 {took[len(took) * 99 // 100]:6.1f} us")
        began = time.perf_counter()
        audit.close()
        print(f"sync and sign, {audit.summary()['records']:,} records: {(time.perf_counter() - began) * 1e3:.0f} ms")
        began = time.perf_counter()
        again = Audit(Path(directory))
        print(f"open again: {(time.perf_counter() - began) * 1e3:.1f} ms")
        again.close()
        _read(Path(directory) / "audit")


def _append(audit: Audit, name: str, count: int) -> list[float]:
    intent = {"alert": ALERT, "agent": "rome-rl", "owner": "Ada Example", "action": "kill", "scope": "cgroup"}
    took = []
    rests = name.startswith("one")
    for _ in range(10 if rests else count):
        if rests:
            time.sleep(0.2)
        began = time.perf_counter()
        if name != "intent":
            audit.append("event", alert=ALERT, event=to_record(EVENT))
        if name != "event":
            audit.append("intent", **intent, cgroup="/rome.slice/job", process=EVENT.process_guid)
        took.append((time.perf_counter() - began) * 1e6)
    return sorted(took)


def _read(trail: Path) -> None:
    key = parse_public_key((trail / PUBLIC_KEY).read_text())
    began = time.perf_counter()
    report = verify_trail(trail, [key])
    took = time.perf_counter() - began
    assert report.is_good()
    print(f"verify: {took * 1e6 / report.records:.1f} us a record")


if __name__ == "__main__":
    main()
