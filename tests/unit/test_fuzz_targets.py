"""What `make fuzz` runs works, and accepts its seeds; the long runs are its own."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.insert(0, str(FUZZ))

from targets import TARGETS, joined, parts  # noqa: E402


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_neighbours(name: str) -> None:
    run, seeds = TARGETS[name]
    chance = random.Random(11)
    for seed in seeds():
        run(seed)
        for _ in range(5):
            at = chance.randrange(len(seed))
            run(seed[:at] + chance.randbytes(1) + seed[at + chance.randrange(3) :])
            run(seed[:at])


def test_parts_are_read_as_they_are_written() -> None:
    told = [(False, b"a"), (True, b"answer"), (False, b"\0" * 300)]
    assert list(parts(joined(4, told))) == told


def test_what_raises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.decode", lambda data: data[9])
    with pytest.raises(IndexError):
        TARGETS["decode"].run(b"short")
