"""Microseconds per event for 10, 100 and 1,000 synthetic rules, none of which match: `python -m bench.match_bench`."""

from __future__ import annotations

import random
import statistics
import string
import time

from sensor.events import AnyEvent, NetworkConnection, ProcessCreation
from sensor.match import ir
from sensor.match.matcher import Matcher
from sensor.verdict import RuleInfo

EVENTS = 5_000
ROUNDS = 15
AIM = 1.5


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


def costs(counts: tuple[int, ...], events: dict[str, list[AnyEvent]], rounds: int) -> dict[tuple[int, str], float]:
    """(rules, kind of event) -> microseconds of CPU per event, the median over rounds in which each has its turn."""
    matchers = {count: Matcher(rules(count, random.Random(2))) for count in counts}
    taken: dict[tuple[int, str], list[float]] = {(count, kind): [] for count in counts for kind in events}
    for _ in range(rounds):
        for (count, kind), times in taken.items():
            match = matchers[count].match
            start = time.thread_time()
            for event in events[kind]:
                match(event)
            times.append((time.thread_time() - start) / len(events[kind]) * 1e6)
    return {key: statistics.median(times) for key, times in taken.items()}


def sample_events(count: int) -> dict[str, list[AnyEvent]]:
    seed = random.Random(2)
    return {"exec": [exec_event(seed) for _ in range(count)], "connect": [connect_event(seed) for _ in range(count)]}


def main() -> None:
    counts = (10, 100, 1000)
    taken = costs(counts, sample_events(EVENTS), ROUNDS)
    print(f"{'rules':>7}{'exec µs':>10}{'connect µs':>12}{'mean µs':>10}{'growth':>9}{'aim':>6}")
    first = sum(taken[10, kind] for kind in ("exec", "connect")) / 2
    for count in counts:
        both = taken[count, "exec"], taken[count, "connect"]
        mean = sum(both) / 2
        print(f"{count:>7}{both[0]:>10.2f}{both[1]:>12.2f}{mean:>10.2f}{mean / first:>9.2f}{AIM:>6.1f}")


if __name__ == "__main__":
    main()
