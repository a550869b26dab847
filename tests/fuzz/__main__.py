"""Feeds hostile bytes to what reads them: python tests/fuzz [--seconds N] [TARGET [FILE …]]

Guided by coverage where atheris is there, else by mutating the seeds. What was learned stays in build/fuzz, and so does
an input that fails: give its file to run it again.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "fuzz"
LONGEST = 6000
SLOWEST_S = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", help="one of them instead of all")
    parser.add_argument("files", nargs="*", type=Path, help="run these once, and nothing else")
    parser.add_argument("--seconds", type=int, default=120, help="in all (default 120)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return one(given.target, given.seconds)
    sys.path.insert(0, str(HERE.parent / "unit"))
    from targets import TARGETS

    if given.target and given.target not in TARGETS:
        parser.error(f"no target {given.target!r}; there are {', '.join(TARGETS)}")
    for file in given.files:
        TARGETS[given.target].run(file.read_bytes())
    if given.files:
        return 0
    chosen = [given.target] if given.target else list(TARGETS)
    share = str(max(1, given.seconds // len(chosen)))
    # each in a process of its own: libFuzzer ends the one that it runs in
    failed = [
        name for name in chosen if subprocess.run([sys.executable, HERE, name, "--one", "--seconds", share]).returncode
    ]
    sys.stdout.write(f"failed: {', '.join(failed)}; the inputs are in {BUILD}\n" if failed else "nothing failed\n")
    return bool(failed)


def one(name: str, seconds: int) -> int:
    sys.path.insert(0, str(HERE.parent / "unit"))
    try:
        import atheris
    except ImportError:
        atheris = None
    with atheris.instrument_imports(include=["sensor", "dns"]) if atheris else contextlib.nullcontext():
        import dns.message  # noqa: F401 (else imported in a thread, which is not instrumented)
        from targets import TARGETS
    run, seeds = TARGETS[name]
    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    sys.stdout.write(f"{name}: {'atheris' if atheris else 'random mutation'}, {seconds} s\n")
    sys.stdout.flush()
    if atheris is None:
        return mutate(name, seconds)
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", f"-max_len={LONGEST}", "-rss_limit_mb=1500"]
    atheris.Setup(
        [name, *limits, "-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={corpus}-", str(corpus)], run
    )
    atheris.Fuzz()
    return 0


def mutate(name: str, seconds: int) -> int:
    """Changes seeds at random until the time is over."""
    from targets import TARGETS

    run, seeds = TARGETS[name]
    known, chance, until, count = seeds(), random.Random(), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = bytearray(chance.choice(known))
        for _ in range(chance.choice([0, 1, 1, 2, 4, 16])):
            at = chance.randrange(len(data) + 1)
            kind = chance.randrange(4)
            if kind == 0:
                data[at : at + 1] = bytes([chance.choice([0, 1, 0x7F, 0xC0, 0xFF, chance.randrange(256)])])
            elif kind == 1:
                del data[at : at + chance.choice([1, 2, 8, 50])]
            elif kind == 2:
                data[at:at] = chance.randbytes(chance.choice([1, 2, 9]))
            else:
                other = chance.choice(known)
                start = chance.randrange(len(other) + 1)
                data[at:at] = other[start : start + chance.choice([1, 8, 64])]
        count += 1
        try:
            run(bytes(data[:LONGEST]))
        except BaseException:
            (BUILD / f"{name}-failed").write_bytes(data[:LONGEST])
            raise
    sys.stdout.write(f"{name}: {count} inputs\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
