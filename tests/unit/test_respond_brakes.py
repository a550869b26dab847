"""New limits over old ones: at every write in between, what both deny is denied and what both allow is allowed."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from sensor import wire
from sensor.agents_file import AgentFile, Egress, Exec, Gpu, Match, Owner
from sensor.kernel.policies import Policies, egress_key
from sensor.match.limits import compile_limits
from sensor.respond.brakes import Brakes
from sensor.respond.cgroupfs import CgroupRoot

GLOBS = ("*/ssh", "/usr/bin/ssh", "/usr/bin/*", "/usr/*", "/opt/a/b", "/opt/*", "/opt/ssh/x")
PATHS = ("/usr/bin/ssh", "/usr/bin/true", "/usr/sbin/x", "/opt/a/b", "/opt/a", "/opt/ssh/x", "/srv/ssh", "/srv/x")
NETWORKS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3:443", "[2001:db8::/32]:22", "192.0.2.7")
ADDRESSES = (("10.1.2.3", 443), ("10.1.2.3", 80), ("10.9.9.9", 1), ("192.0.2.7", 5), ("2001:db8::1", 22), ("::1", 9))


class Maps:
    """What the hooks would read. It answers as bpf/policy.bpf.h and bpf/program.bpf.h do."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}
        self.written: Callable[[], None] = lambda: None

    def update(self, name: str, key: bytes, value: bytes) -> None:
        self.tables.setdefault(name, {})[key] = value
        self.written()

    def delete(self, name: str, key: bytes) -> bool:
        found = self.tables.setdefault(name, {}).pop(key, None)
        self.written()
        return found is not None

    def keys(self, name: str, size: int) -> Iterator[bytes]:
        yield from list(self.tables.get(name, {}))

    def value(self, name: str, key: bytes, size: int) -> bytes | None:
        return self.tables.get(name, {}).get(key)

    def denied(self, cgroup_id: int) -> frozenset[object]:
        """All of `PATHS`, `ADDRESSES` and "gpu" that a process in the cgroup may not use."""
        policy = self.value("policies", cgroup_id.to_bytes(8, sys.byteorder), 8)
        if not wire.BRAKES.unpack(self.tables["brakes"][b"\0\0\0\0"])[0] or policy is None:
            return frozenset()
        agent = wire.POLICY.unpack(policy)[0]
        flags = int.from_bytes(self.value("limits", agent.to_bytes(4, sys.byteorder), 4) or b"", sys.byteorder)
        if not flags & wire.LIMIT_ENFORCED:
            return frozenset()
        found: set[object] = {"gpu"} if flags & wire.LIMIT_GPU else set()
        if flags & wire.LIMIT_EGRESS:
            found |= {to for to in ADDRESSES if not self._may_reach(agent, *to)}
        if flags & (wire.LIMIT_PROGRAMS | wire.LIMIT_PROGRAMS_ALONE):
            found |= {path for path in PATHS if self._refuses(agent, path, bool(flags & wire.LIMIT_PROGRAMS_ALONE))}
        return frozenset(found)

    def _may_reach(self, agent: int, address: str, port: int) -> bool:
        network = ipaddress.ip_network(address)
        while True:
            keys = {egress_key(agent, network, port), egress_key(agent, network, None)}
            if keys & self.tables.get("egress", {}).keys():
                return True
            if not network.prefixlen:
                return False
            network = network.supernet()

    def _refuses(self, agent: int, path: str, alone: bool) -> bool:
        parts = [part.encode() for part in path.split("/")[1:]]
        nodes = self.tables.get("named", {})
        by_name = nodes.get(wire.PROGRAM_KEY.pack(agent, wire.PROGRAM_BY_NAME, parts[-1]))
        verdict = wire.PROGRAM_NODE.unpack(by_name)[1] if by_name else 0
        state = wire.PROGRAM_ROOT
        for place, part in enumerate(parts):
            node = nodes.get(wire.PROGRAM_KEY.pack(agent, state, part))
            if node is None:
                break
            state, here, below = wire.PROGRAM_NODE.unpack(node)
            verdict |= here if place == len(parts) - 1 else below
        return bool(verdict & wire.PROGRAM_DENIED or (alone and not verdict & wire.PROGRAM_ALLOWED))


SOME = st.lists(st.sampled_from(GLOBS), max_size=3)
AGENTS = st.builds(
    AgentFile,
    agent=st.sampled_from(["rome", "milan"]),
    purpose=st.just("tests"),
    owner=st.just(Owner(name="Ada", notify=["mailto://ada@example.org"])),
    match=st.just([Match(cgroup="/x")]),
    gpu=st.none() | st.builds(Gpu, allow=st.booleans()),
    egress=st.none()
    | st.builds(Egress, default=st.just("deny"), allow=st.lists(st.sampled_from(NETWORKS), max_size=3)),
    exec=st.none() | st.builds(Exec, deny=SOME, allow=SOME),
)


def use(brakes: Brakes, agent: AgentFile) -> None:
    brakes.use({agent.agent: compile_limits(agent)}, [(7, "/x")], lambda _id, _path: agent.agent, "enforce")


def denying(*programs: str) -> AgentFile:
    owner = Owner(name="Ada", notify=["mailto://ada@example.org"])
    return AgentFile(agent="rome", purpose="x", owner=owner, match=[Match(cgroup="/x")], exec=Exec(deny=list(programs)))


@settings(deadline=None)
@given(st.lists(AGENTS, min_size=2, max_size=5))
@example([denying("/usr/bin/ssh"), denying("/opt/a/b", "/usr/bin/ssh")])  # directories keep their states
def test_no_moment_without_limits(agents: list[AgentFile]) -> None:
    maps = Maps()
    brakes = Brakes(Policies(maps), CgroupRoot("/sys"))
    use(brakes, agents[0])
    for agent in agents[1:]:
        fresh = Maps()
        use(Brakes(Policies(fresh), CgroupRoot("/sys")), agent)
        before, after = maps.denied(7), fresh.denied(7)
        between: set[frozenset[object]] = set()
        maps.written = lambda: between.add(maps.denied(7))  # noqa: B023 (taken back below)
        use(brakes, agent)
        maps.written = lambda: None
        assert maps.denied(7) == after, "as if there had been no others before"
        for denied in between:
            assert before & after <= denied <= before | after
    assert not brakes.failures


@settings(deadline=None)
@given(AGENTS)
def test_an_agent_that_goes_leaves_nothing(agent: AgentFile) -> None:
    maps = Maps()
    brakes = Brakes(Policies(maps), CgroupRoot("/sys"))
    use(brakes, agent)
    brakes.belongs(os.getpid(), agent.agent, "/y")
    brakes.use({}, [(7, "/x")], lambda _id, _path: None, "enforce")
    left = {name for name, table in maps.tables.items() if table}
    assert left == {"brakes"} and not maps.denied(7)
    use(brakes, agent)
    fresh = Maps()
    use(Brakes(Policies(fresh), CgroupRoot("/sys")), agent)
    assert maps.denied(7) == fresh.denied(7)


def test_an_agent_keeps_its_number() -> None:
    maps = Maps()
    brakes = Brakes(Policies(maps), CgroupRoot("/sys"))
    rome = denying("*/ssh")
    milan = structs.replace(rome, agent="milan")
    for files in ([rome], [milan, rome], [milan], [milan, rome]):
        limits = {file.agent: compile_limits(file) for file in files}
        brakes.use(limits, [], lambda _id, _path: None, "enforce")
        brakes.belongs(os.getpid(), files[-1].agent, "/y")
        assert brakes.bound() == [(os.getpid(), files[-1].agent)]
    assert [brakes.name(number) for number in (1, 2)] == ["rome", "milan"]


def test_a_host_that_is_taken_away_is_not_reached_where_it_was() -> None:
    maps = Maps()
    brakes = Brakes(Policies(maps), CgroupRoot("/sys"))
    hosts = ["a.example:443", "b.example"]
    rome = structs.replace(denying(), exec=None, egress=Egress(default="deny", allow=hosts))
    use(brakes, rome)
    own, other = (
        wire.RESOLVED_KEY.pack(agent, 443, ipaddress.ip_address("::ffff:192.0.2.7").packed) for agent in (1, 2)
    )
    for key in (own, other):
        maps.update("resolved", key, b"\xff" * 8)
    use(brakes, structs.replace(rome, purpose="another"))
    assert own in maps.tables["resolved"]
    use(brakes, structs.replace(rome, egress=Egress(default="deny", allow=hosts[:1])))
    assert maps.tables["resolved"].keys() == {other}
    fresh = Maps()
    use(
        Brakes(Policies(fresh), CgroupRoot("/sys")),
        structs.replace(rome, egress=Egress(default="deny", allow=hosts[:1])),
    )
    assert len(maps.tables["hosts"]) == len(fresh.tables["hosts"])


def test_a_process_that_has_ended_is_not_bound() -> None:
    """Its number is soon another's."""
    maps = Maps()
    brakes = Brakes(Policies(maps), CgroupRoot("/sys"))
    use(brakes, denying("*/ssh"))
    ended = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    brakes.belongs(ended.pid, "rome", "/y")
    assert brakes.bound() == [], "it is a zombie"
    ended.wait()
    brakes.belongs(ended.pid, "rome", "/y")
    brakes.belongs(os.getpid(), "rome", "/y")
    assert brakes.bound() == [(os.getpid(), "rome")]
