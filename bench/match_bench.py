"""Microseconds per event for 10, 100 and 1,000 synthetic rules, none of which match: `python bench/match_bench.py`."""

from __future__ import annotations

import random
import string
import time

from sensor.events import AnyEvent, NetworkConnection, ProcessCreation
from sensor.match import ir
from sensor.match.matcher import Matcher
from sensor.verdict import RuleInfo

EVENTS = 20_000
ROUNDS = 7


def word(seed: random.Random) -> str:
    return "".join(seed.choices(string.ascii_lowercase + string.digits + "-", k=seed.randint(5, 12)))


def exec_rule(seed: random.Random) -> ir.Node:
    """As most rules are: a program's name and some arguments, or arguments alone, and an exclusion."""
    arguments = ir.AnyOf(tuple(ir.Text("command_line", (ir.MANY, f" --{word(seed)}", ir.MANY)) for _ in range(4)))
    parent = ir.Not(ir.Text("parent_image", (ir.MANY, f"/{word(seed)}")))
    program = ir.AnyOf(tuple(ir.Text("image", (ir.MANY, f"/{word(seed)}")) for _ in range(2)))
    return ir.All((program, arguments, parent) if seed.random() < 0.5 else (arguments, parent))


def connect_rule(seed: random.Random) -> ir.Node:
    port = ir.Text("destination_port", (str(seed.randint(10_000, 60_000)),))
    host = ir.Text("destination_hostname", (ir.MANY, f".{word(seed)}.example"))
    return ir.All((port if seed.random() < 0.5 else host, ir.Text("initiated", ("true",))))


def rules(count: int, seed: random.Random) -> list[ir.Rule]:
    made = []
    for number in range(count):
        category, make = seed.choice([("process_creation", exec_rule), ("network_connection", connect_rule)])
        info = RuleInfo(id=str(number), title="synthetic")
        made.append(ir.Rule(info=info, category=category, condition=make(seed), coverage=ir.Coverage("full")))
    return made


def exec_event(seed: random.Random) -> AnyEvent:
    arguments = " ".join(f"-{seed.choice(string.ascii_letters)} /srv/{word(seed)}/{word(seed)}" for _ in range(3))
    return ProcessCreation(
        time=0,
        image=f"/usr/bin/{seed.choice(['python3.11', 'bash', 'cc1', 'true', 'ninja', 'git'])}",
        command_line=f"tool {arguments}",
        parent_image="/usr/bin/bash",
        parent_command_line="bash -c make",
        ancestors=["/usr/bin/bash", "/usr/bin/make", "/usr/lib/systemd/systemd"],
        user="root",
        cgroup_path="/system.slice/ci.service",
    )


def connect_event(seed: random.Random) -> AnyEvent:
    return NetworkConnection(
        time=0,
        initiated=True,
        protocol="tcp",
        destination_ip=f"10.{seed.randrange(256)}.{seed.randrange(256)}.7",
        destination_port=seed.randint(1, 9_999),
        destination_hostname=f"{word(seed)}.internal",
    )


def microseconds(matcher: Matcher, events: list[AnyEvent]) -> float:
    """The best of several rounds: the machine's noise only ever adds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for event in events:
            matcher.match(event)
        best = min(best, time.perf_counter() - start)
    return best / len(events) * 1e6


def main() -> None:
    seed = random.Random(2)
    kinds = {"exec": [exec_event(seed) for _ in range(EVENTS)], "connect": [connect_event(seed) for _ in range(EVENTS)]}
    first: dict[str, float] = {}
    for count in (10, 30, 100, 1000):
        matcher = Matcher(rules(count, seed))
        for kind, events in kinds.items():
            cost = microseconds(matcher, events)
            growth = cost / first.setdefault(kind, cost)
            print(f"{count:5} rules  {kind:8} {cost:6.2f} µs per event  {growth:4.2f} times that of 10 rules")


if __name__ == "__main__":
    main()
