"""Microseconds per enrich: `python bench/context_bench.py [events]`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from sensor import decode
from sensor.context.agents import Agents
from sensor.context.enrich import Context
from sensor.context.identity import TICK, start_ticks
from sensor.node import cgroup2_mount

ARGS = ["/usr/bin/python3", "-m", "trainer", "--config", "conf/run.yml", "--steps", "1000"]


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    context = Context(cgroup_root=cgroup2_mount(), agents=Agents())
    began = time.perf_counter()
    context.seed()
    took = (time.perf_counter() - began) * 1e3
    print(f"seed     {took:8.2f} ms for {len(context.processes)} processes")
    pids = [os.getppid(), 1]
    chain = tuple((pid, (start_ticks(pid) or 0) * TICK) for pid in pids) * 3
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def common(number: int) -> dict[str, object]:
        return {"time": now + number, "tgid": 1_000_000 + number, "start": now, "cgroup_id": 1, "uid": 0}

    origin: dict[str, object] = {"image": ARGS[0], "ancestors": chain, "truncated": False, "agent": 0}
    origin |= {"denied": False, "unwanted": False}
    where: dict[str, object] = {"address": "127.0.0.1", "port": 9, "protocol": 6, "source_address": None}
    what: dict[str, object] = {"source_port": None, "repeats": 0}
    how: dict[str, object] = {"args": ARGS, "cwd": "/", "parent_image": "/bin/sh"}
    stdio: dict[str, object] = {"fileless": False, "stdio_socket": False, "stdio_family": 0}
    number: dict[str, object] = {"major": 195, "minor": 0, "access": 3, "repeats": 0}
    kinds: dict[str, Callable[[int], decode.Kernel]] = {
        "exec": lambda n: decode.Exec(**common(n), **origin, **how, **stdio),
        "connect": lambda n: decode.Connect(**common(n), **origin, **where, **what),
        "device": lambda n: decode.DeviceAccess(**common(n), **origin, **number),
        "exit": lambda n: decode.Exit(**common(n)),
    }
    for kind, make in kinds.items():
        batch = [make(n) for n in range(events)]
        began = time.process_time()
        for raw in batch:
            context.enrich(raw)
        print(f"{kind:8} {(time.process_time() - began) * 1e6 / events:8.2f} us an event")
    print(context.losses())


if __name__ == "__main__":
    main()
