"""When to look for steered programs, how often, and what is told of it."""

from __future__ import annotations

from sensor import wire
from sensor.context.held import HeldEnd
from sensor.context.remote import Remote
from sensor.decode import Ends, Exec, FlowTotals, Payload

SECOND = 1_000_000_000
CGROUP = 5


def ends(cookie: int) -> Ends:
    return Ends(cookie, "198.51.100.7", "10.0.0.1", 4444, 5555, 6)


def words(cookie: int, time: int = 0, cgroup: int = CGROUP) -> Payload:
    return Payload(time, 10, 10, cgroup, 0, ends(cookie), 0, False, b"$ ")


def closed(cookie: int) -> FlowTotals:
    return FlowTotals(0, 10, 10, CGROUP, 0, ends(cookie), 0, 0, 0, 0, 0, 1, True, False)


def program(time: int, *, fed: bool = True, parent: int = 1, cgroup: int = CGROUP) -> Exec:
    origin = ("/bin/id", ((parent, parent),), False, 0, False, False)
    return Exec(time, 99, 99, cgroup, 0, *origin, ["id"], "/", "", False, False, 0, fed)


def wiring(cookie: int) -> list[HeldEnd]:
    """Process 10 holds the connection and feeds process 20."""

    def end(tgid: int, fd: int, kind: int, role: int, object_: int) -> HeldEnd:
        return HeldEnd(0, tgid, tgid, CGROUP, 0, (1, 1), fd, kind, role, object_, 0)

    pipes = [end(10, 1, wire.PIPE, wire.WRITE, 100), end(20, 0, wire.PIPE, wire.READ, 100)]
    back = [end(20, 1, wire.PIPE, wire.WRITE, 101), end(10, 0, wire.PIPE, wire.READ, 101)]
    return [*pipes, *back, end(10, 3, wire.INTERNET, 0, cookie)]


def test_a_few_looks_after_the_first_words_and_then_none() -> None:
    remote = Remote()
    remote.spoke(words(7), "external")
    looks = []
    for now in range(0, 200 * SECOND, SECOND // 10):
        if remote.due(now):
            assert remote.due(now) == [CGROUP]
            assert not remote.looked([end for end in wiring(7) if end.kind == wire.INTERNET], now, 1000)
            looks.append(now / SECOND)
    assert looks == [0.3, 2.3, 12.3, 72.3]


def test_elsewhere_is_nowhere() -> None:
    remote = Remote()
    for scope in ("loopback", "local", "metadata"):
        remote.spoke(words(7), scope)
    assert not remote.due(10 * SECOND)


def test_looks_take_a_small_share_of_the_time() -> None:
    remote = Remote()
    remote.spoke(words(7), "external")
    assert remote.due(SECOND)
    remote.looked(wiring(7), SECOND, SECOND // 10)
    remote.spoke(words(8), "private")
    assert not remote.due(5 * SECOND)
    assert remote.due(6 * SECOND)


def test_a_closed_flow_is_let_go_whoever_says_so() -> None:
    remote = Remote()
    remote.spoke(words(7), "external")
    remote.ended(closed(7))
    assert 7 not in remote and not remote.due(SECOND)
    remote.spoke(words(8), "external")
    assert remote.due(SECOND)
    remote.looked(wiring(7), SECOND, 0)
    assert 8 not in remote, "nobody holds it"
    remote.spoke(words(9), "external")
    assert remote.due(2 * SECOND)
    remote.looked([], 2 * SECOND, 0)
    assert 9 in remote, "a look that failed says nothing"


def test_a_program_that_begins_beside_it_is_looked_at() -> None:
    remote = Remote()
    remote.spoke(words(7), "external")
    for now in (1, 4, 20, 100):
        assert remote.due(now * SECOND)
        remote.looked([end for end in wiring(7) if end.kind == wire.INTERNET], now * SECOND, 0)
    remote.started(program(200 * SECOND, fed=False))
    remote.started(program(200 * SECOND, cgroup=6))
    assert not remote.due(201 * SECOND)
    remote.started(program(200 * SECOND))
    assert remote.due(201 * SECOND)
    assert len(remote.looked(wiring(7), 201 * SECOND, 0)) == 1
    remote.started(program(300 * SECOND, cgroup=6, parent=10))
    assert set(remote.due(301 * SECOND)) == {CGROUP, 6}, "below its owner, in another cgroup"


def test_each_is_told_once_and_once_more_when_it_runs_something() -> None:
    remote = Remote()
    remote.spoke(words(7), "external")
    assert remote.due(SECOND)
    ((suspect, found),) = remote.looked(wiring(7), SECOND, 0)
    assert (suspect.ends.cookie, found.process.tgid, found.feeder) == (7, 20, (10, 10))
    assert remote.due(4 * SECOND)
    assert not remote.looked(wiring(7), 4 * SECOND, 0)
    assert not remote.started(program(5 * SECOND, parent=30))
    assert remote.started(program(5 * SECOND, parent=20)) == [(suspect, found)]
    assert not remote.started(program(5 * SECOND, parent=20))
    remote.exited((20, 20))
    assert remote.due(6 * SECOND)
    assert remote.looked(wiring(7), 6 * SECOND, 0), "another process with the same number"


def test_tables_are_bounded_and_what_goes_unlooked_at_is_counted() -> None:
    remote = Remote(limit=100)
    for cookie in range(250):
        remote.spoke(words(cookie, cgroup=cookie), "external")
    assert remote.evicted == 150
    assert sorted(remote.due(SECOND)) == list(range(150, 250))
    remote.looked([end for cookie in range(250) for end in wiring(cookie)], SECOND, 0)
    for cookie in range(250, 350):
        remote.spoke(words(cookie), "external")
    assert remote.evicted == 150
