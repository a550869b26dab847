"""Who feeds whom: descriptors in, programs that a connection steers out."""

from __future__ import annotations

import random

import pytest

from sensor import wire
from sensor.context.held import HeldEnd, held_ends
from sensor.context.wiring import Wired, wired
from sensor.decode import DecodeError

FAR = 7
INTERNET, PIPE, PTY, UNIX = wire.INTERNET, wire.PIPE, wire.PTY, wire.UNIX
READ, WRITE, MASTER = wire.READ, wire.WRITE, wire.MASTER


def end(tgid: int, fd: int, kind: int, object_: int, role: int = 0, *, peer: int = 0, parent: int = 1) -> HeldEnd:
    return HeldEnd(0, tgid, tgid, 1, 0, (parent, parent), fd, kind, role, object_, peer)


def pipes(tgid: int, give: int, take: int, parent: int = 1) -> list[HeldEnd]:
    """A program that reads pipe `give` and writes pipe `take`."""
    return [end(tgid, 0, PIPE, give, READ, parent=parent), end(tgid, 1, PIPE, take, WRITE, parent=parent)]


def told(*ends: HeldEnd) -> set[tuple[int, str, int, bool, bool]]:
    found = wired(ends, [FAR])
    return {(w.process.tgid, w.kind, w.feeder[0], w.by_stdio, w.only_connection) for w in found}


NC = [*pipes(10, 101, 100), end(10, 3, INTERNET, FAR)]


def test_netcat_between_two_pipes() -> None:
    assert told(*NC, *pipes(20, 100, 101)) == {(20, "pipe", 10, True, True)}


def test_through_others_in_both_directions() -> None:
    chain = [*pipes(11, 100, 102), *pipes(12, 103, 101)]
    assert (20, "pipe", 10, True, True) in told(*NC, *chain, *pipes(20, 102, 103))


def test_one_way_is_not_enough() -> None:
    assert not told(*NC, *pipes(20, 100, 999))
    assert not told(*NC, *pipes(20, 999, 101))
    assert not told(*NC, end(20, 0, PIPE, 100, WRITE), end(20, 1, PIPE, 101, READ)), "the wrong ends"


def test_another_connection_is_no_matter() -> None:
    assert not wired([*NC, *pipes(20, 100, 101)], [8])


def test_pty_and_its_master() -> None:
    slave = [end(20, fd, PTY, 5) for fd in range(3)]
    relay = [end(10, 3, INTERNET, FAR), end(10, 4, PTY, 5, MASTER), end(10, 5, INTERNET, 8)]
    assert told(*slave, *relay) == {(20, "pty", 10, False, False)}
    stranger = [end(30, 3, INTERNET, FAR), end(30, 0, PTY, 5)]
    assert not told(*slave, end(10, 4, PTY, 5, MASTER), *stranger), "on the same terminal is not at its other end"


def test_pty_behind_a_program_whose_streams_are_the_connection() -> None:
    relay = [*(end(10, fd, INTERNET, FAR) for fd in range(3)), end(10, 4, PTY, 5, MASTER)]
    assert told(*relay, *(end(20, fd, PTY, 5) for fd in range(3))) == {
        (10, "socket", 10, True, True),
        (20, "pty", 10, True, True),
    }


def test_pair_of_unix_sockets() -> None:
    relay = [end(10, 3, INTERNET, FAR), end(10, 4, UNIX, 50, peer=51)]
    assert told(*relay, *(end(20, fd, UNIX, 51, peer=50) for fd in range(2))) == {(20, "unix", 10, False, True)}
    assert not told(*relay, *(end(20, fd, UNIX, 51, peer=49) for fd in range(2)))


def test_a_shell_that_holds_the_connection_and_is_fed_by_another() -> None:
    reader = [end(10, 0, INTERNET, FAR), end(10, 1, PIPE, 100, WRITE)]
    shell = [end(20, 0, PIPE, 100, READ), end(20, 5, INTERNET, FAR)]
    assert told(*reader, *shell) == {(20, "pipe", 10, False, True)}


def test_only_the_uppermost_of_those_on_the_same_streams() -> None:
    assert {w[0] for w in told(*NC, *pipes(20, 100, 101), *pipes(21, 100, 101, parent=20))} == {20}


def test_any_wiring_ends_and_what_is_told_is_so() -> None:
    chance = random.Random(4)
    for _ in range(300):
        ends = [
            end(
                tgid := chance.randrange(2, 12),
                chance.randrange(6),
                chance.randrange(1, 5),
                chance.randrange(6, 10),
                chance.randrange(8),
                peer=chance.randrange(6, 10),
                parent=chance.randrange(1, tgid),
            )
            for _ in range(chance.randrange(60))
        ]
        for found in wired(ends, [6, 7]):
            assert isinstance(found, Wired) and found.process.fd == 0
            assert any(e.kind == INTERNET and e.object == found.connection and e.tgid == found.feeder[0] for e in ends)


def test_a_crowd_on_one_terminal_is_no_work() -> None:
    crowd = [end(tgid, fd, PTY, 5) for tgid in range(100, 3100) for fd in range(3)]
    server = [end(10, 4, PTY, 5, MASTER), end(10, 3, INTERNET, FAR)]
    assert len(wired([*crowd, *server], range(250))) == 3000


def test_what_is_no_whole_record() -> None:
    record = wire.HELD_END.pack(1, 2, 3, 4, 5, 6, 7, 8, 9, PIPE, READ)
    (held,) = held_ends(record, 42)
    assert (held.time, held.object, held.tgid, held.parent, held.fd) == (42, 1, 6, (7, 4), 9)
    with pytest.raises(DecodeError):
        held_ends(record + b"x", 42)
