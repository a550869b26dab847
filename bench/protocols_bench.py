"""First payloads a second on one core, by kind and for a mix: `python -m bench.protocols_bench`.

A flow's cost is that of the Flow itself and of the payloads until it is done.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from bench.tls_bench import quic_flights
from sensor.protocols import Flow

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))
from flow_builders import Transcript, client_hello
from near_misses import NEAR
from transcripts import KNOWN

ROUNDS = 7
PAYLOADS = 10_000
AIM = 50_000
MIX = {
    "tls": 30, "dns": 20, "http": 15, "random": 10, "http json of another kind": 5, "ssh": 5, "postgresql": 3,
    "redis": 3, "stratum": 2, "monero": 2, "socks5": 2, "connect": 1, "websocket": 1, "http2": 1,
}  # fmt: skip
"""Flows in a hundred, as a node with an ordinary day and a miner might have them."""
IMPORT = """
import time
began = time.perf_counter()
import {module}
took = time.perf_counter() - began
resident = int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1024
print(f"import {module}: {{took * 1e3:.0f}} ms, {{resident:.0f}} MB in all")
"""


def recognise(transcript: Transcript) -> int:
    """Payloads that were looked at."""
    transport: Literal["tcp", "udp"] = "udp" if transcript.transport == "udp" else "tcp"
    flow = Flow(transport, transcript.port)
    for count, (way, data) in enumerate(transcript.turns, 1):
        if way == ">":
            flow.outbound(data)
        else:
            flow.inbound(data)
        if flow.done:
            return count
    return len(transcript.turns)


def rate(flows: list[Transcript]) -> float:
    """Payloads a second of CPU time: the best of several rounds, because the machine's noise only ever adds."""
    best = 0.0
    for _ in range(ROUNDS):
        began = time.process_time()
        payloads = sum(map(recognise, flows))
        best = max(best, payloads / (time.process_time() - began))
    return best


def main() -> None:
    samples = {name: (KNOWN | NEAR)[name] for name in MIX if name not in ("tls", "random")}
    noise = random.Random(1)
    samples["tls"] = Transcript([(">", client_hello("registry.example.com"))], {})
    # each with keys of its own, which take most of the time
    flights = [Transcript([(">", data) for data in flight], {}, "udp", 443) for flight in quic_flights(200, 0)]
    samples["random"] = Transcript([(">", noise.randbytes(300)), ("<", noise.randbytes(900))], {})
    for name in sorted(samples):
        print(f"{name:28} {rate([samples[name]] * (PAYLOADS // 4)):10,.0f} payloads a second")
    print(f"{'quic':28} {rate(flights):10,.0f} payloads a second")
    mix = random.Random(2).choices(list(MIX), weights=list(MIX.values()), k=PAYLOADS)
    print(f"{'mix':28} {rate([samples[name] for name in mix]):10,.0f} payloads a second (aim: {AIM:,})")
    for module in ("sensor.protocols", "hpack"):
        subprocess.run([sys.executable, "-c", IMPORT.format(module=module)], check=True)


if __name__ == "__main__":
    main()
