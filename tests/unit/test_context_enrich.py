from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import decode
from sensor.agents_file import AgentFile, Egress, Gpu, Match, Owner
from sensor.context.agents import Agents
from sensor.context.enrich import Context
from sensor.context.identity import TICK, parse_guid
from sensor.events import DeviceOpen, NetworkConnection, ProcessCreation, to_record

GONE = 2**22 + 1  # past PID_MAX_LIMIT: no process has this pid
INIT = (GONE + 1, TICK)
SHELL = (GONE + 2, 7 * TICK)
ROME = 1 << 40
UNJUDGED = {"truncated": False, "agent": 0, "denied": False, "unwanted": False}


def common(**fields: Any) -> dict[str, Any]:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return {"time": now, "tgid": GONE, "start": 9 * TICK + 5, "cgroup_id": ROME, "uid": 0} | fields


def executed(**fields: Any) -> decode.Exec:
    origin = {"image": "/usr/bin/ssh", "ancestors": (SHELL, INIT)} | UNJUDGED
    program = {"args": ["ssh", "-R", "1:a b:2"], "cwd": "/srv", "parent_image": "/bin/sh"}
    stdio = {"fileless": False, "stdio_socket": False, "stdio_family": 0}
    return decode.Exec(**common() | origin | program | stdio | fields)


def connected(**fields: Any) -> decode.Connect:
    origin = {"image": "/usr/bin/ssh", "ancestors": (SHELL, INIT)} | UNJUDGED
    flow = {"address": "192.0.2.7", "port": 22, "protocol": 6, "source_address": "10.0.0.1", "source_port": 999}
    return decode.Connect(**common() | origin | flow | {"repeats": 0} | fields)


def opened(**fields: Any) -> decode.DeviceAccess:
    origin = {"image": "/usr/bin/python3", "ancestors": (SHELL, INIT)} | UNJUDGED
    device = {"major": 195, "minor": 3, "access": 3, "repeats": 4, "denied": True}
    return decode.DeviceAccess(**common() | origin | device | fields)


def rome(**match: str) -> Agents:
    owner = Owner(name="Ada Example", notify=["mailto://ada@example.org"])
    file = AgentFile(
        agent="rome-rl",
        purpose="terminal tasks",
        owner=owner,
        match=[Match(**match)],
        gpu=Gpu(allow=False),
        egress=Egress(default="deny"),
    )
    return Agents([file])


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    context = Context(cgroup_root=tmp_path, agents=rome(cgroup="/rome.slice/**"), gpu_majors=[77])
    made = decode.CgroupMade(**common(cgroup_id=1), made=ROME, path="/rome.slice/rome-1.service")
    assert context.enrich(made) is None
    context.enrich(executed(tgid=INIT[0], start=INIT[1], image="/sbin/init", args=["/sbin/init"], ancestors=()))
    shell = {"image": "/bin/sh", "args": ["sh", "job.sh"], "ancestors": (INIT,)}
    context.enrich(executed(tgid=SHELL[0], start=SHELL[1], **shell))
    yield context
    context.close()


def test_exec(context: Context) -> None:
    raw = executed(fileless=True, stdio_socket=True)
    event = context.enrich(raw)
    assert isinstance(event, ProcessCreation)
    assert abs(event.time - time.time_ns()) < 60_000_000_000
    assert event.boottime == raw.time
    assert event.process_guid is not None
    assert parse_guid(event.process_guid) == (GONE, 9)
    record = to_record(event)
    for name in ("time", "ProcessGuid"):
        del record[name]
    assert record == {
        "category": "process_creation",
        "ProcessId": GONE,
        "Image": "/usr/bin/ssh",
        "CommandLine": "ssh -R 1:a b:2",
        "Args": ["ssh", "-R", "1:a b:2"],
        "CurrentDirectory": "/srv",
        "ParentProcessId": SHELL[0],
        "ParentImage": "/bin/sh",
        "ParentCommandLine": "sh job.sh",
        "Ancestors": ["/bin/sh", "/sbin/init"],
        "Fileless": True,
        "StdioSocket": True,
        "Truncated": False,
        "User": "root",
        "UserId": 0,
        "CgroupId": ROME,
        "CgroupPath": "/rome.slice/rome-1.service",
        "SystemdUnit": "rome-1.service",
        "Agent": "rome-rl",
        "AgentOwner": "Ada Example",
        "AgentPurpose": "terminal tasks",
        "AgentGpu": False,
        "AgentEgress": "deny",
    }


def test_connect_of_a_process_that_is_known(context: Context) -> None:
    context.enrich(executed())
    event = context.enrich(connected())
    assert isinstance(event, NetworkConnection)
    assert (event.command_line, event.args) == ("ssh -R 1:a b:2", ["ssh", "-R", "1:a b:2"])
    assert (event.parent_process_id, event.parent_image) == (SHELL[0], "/bin/sh")
    assert event.parent_command_line == "sh job.sh"
    assert (event.destination_ip, event.destination_port) == ("192.0.2.7", 22)
    assert (event.destination_scope, event.protocol, event.initiated) == ("external", "tcp", True)
    assert (event.source_ip, event.source_port, event.denied) == ("10.0.0.1", 999, False)
    assert event.repeats is None
    assert event.agent == "rome-rl"


def test_device_open_by_a_fork(context: Context) -> None:
    event = context.enrich(opened(image="/bin/sh"))
    assert isinstance(event, DeviceOpen)
    assert event.command_line == "sh job.sh", "a fork runs what its parent runs"
    assert (event.device_class, event.gpu_index, event.access) == ("nvidia", 3, "readwrite")
    assert (event.device_major, event.device_minor, event.repeats, event.denied) == (195, 3, 4, True)
    configured = context.enrich(opened(major=77))
    assert isinstance(configured, DeviceOpen)
    assert configured.device_class == "gpu"


def test_orphan_whose_parent_is_gone(context: Context) -> None:
    context.enrich(decode.Exit(**common(tgid=SHELL[0], start=SHELL[1])))
    event = context.enrich(connected(image="/bin/sh", ancestors=(INIT,)))
    assert isinstance(event, NetworkConnection)
    assert event.image == "/bin/sh"
    assert event.command_line is None, "not that of init"
    assert event.parent_image == "/sbin/init"


def test_pid_used_again(context: Context) -> None:
    context.enrich(executed())
    context.enrich(decode.Exit(**common()))
    event = context.enrich(connected(start=99 * TICK, image="/usr/bin/curl"))
    assert isinstance(event, NetworkConnection)
    assert event.image == "/usr/bin/curl"
    assert event.command_line is None
    assert event.process_guid is not None
    assert parse_guid(event.process_guid) == (GONE, 99)


def test_cgroup_removed_and_another_made(context: Context) -> None:
    context.enrich(decode.CgroupRemoved(**common(cgroup_id=1), removed=ROME, path="/rome.slice/rome-1.service"))
    event = context.enrich(executed())
    assert event is not None
    assert (event.cgroup_path, event.agent) == (None, None)
    assert context.losses()["cgroups_unknown"] == 1
    moved = decode.CgroupMoved(**common(), moved=GONE, moved_start=0, into=ROME, path="/elsewhere/ssh.service", left=0)
    context.enrich(moved)
    event = context.enrich(executed())
    assert event is not None
    assert (event.cgroup_path, event.systemd_unit, event.agent) == ("/elsewhere/ssh.service", "ssh.service", None)


def test_agents_are_exchanged_at_once(context: Context) -> None:
    context.use_agents(rome(user="root"))
    event = context.enrich(executed(cgroup_id=ROME))
    assert event is not None
    assert event.agent == "rome-rl"
    other = context.enrich(executed(uid=4_000_000_000))
    assert other is not None
    assert other.agent is None, "the same cgroup, another user"
    context.use_agents(Agents())
    event = context.enrich(executed())
    assert event is not None
    assert event.agent is None


def test_wall_clock_that_steps_is_followed(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensor.context.enrich.boottime_offset", lambda: 10**18)
    raw = executed(time=context._offset_due)
    event = context.enrich(raw)
    assert event is not None
    assert event.time == raw.time + 10**18


text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
chains = st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 2**63)), max_size=8).map(tuple)
words = {"image": text, "ancestors": chains, "truncated": st.booleans(), "uid": st.integers(0, 2**32 - 1)}
numbers = {
    "tgid": st.integers(0, 2**32 - 1),
    "start": st.integers(0, 2**64 - 1),
    "cgroup_id": st.integers(0, 2**64 - 1),
}
hostile: dict[Callable[..., Any], dict[str, st.SearchStrategy[Any]]] = {
    executed: {"args": st.lists(text), "cwd": text, "parent_image": text},
    connected: {"address": text, "protocol": st.integers(0, 2**16), "port": st.integers(0, 65535)},
    opened: {"major": st.integers(0, 4095), "minor": st.integers(0, 2**20), "access": st.integers(0, 7)},
}


@given(st.data())
def test_no_event_makes_it_raise_and_every_one_is_a_line_of_json(data: st.DataObject) -> None:
    context = _shared_context()
    make = data.draw(st.sampled_from(list(hostile)))
    raw = make(**{name: data.draw(of) for name, of in (words | numbers | hostile[make]).items()})
    event = context.enrich(raw)
    assert event is not None
    assert b"\n" not in orjson.dumps(to_record(event))


_contexts: list[Context] = []


def _shared_context() -> Context:
    if not _contexts:
        _contexts.append(Context(cgroup_root=Path("/proc"), agents=rome(user="nobody")))
    return _contexts[0]


def open_descriptors() -> int:
    gc.collect()  # other tests may have left some to the collector
    return len(list(Path("/proc/self/fd").iterdir()))


def test_tables_stay_bounded_under_a_storm(context: Context) -> None:
    context.cgroups._limit = 64
    descriptors = open_descriptors()
    for number in range(1000):
        context.enrich(decode.CgroupMade(**common(), made=ROME + number, path=f"/storm/{number}"))
        context.enrich(executed(cgroup_id=ROME + number, tgid=GONE + 10 + number))
        context.enrich(executed(cgroup_id=number + 2))
    assert len(context.cgroups) <= 64
    assert context.losses()["cgroups_evicted"] > 900
    assert len(context.cgroups._missing) <= 64
    assert open_descriptors() <= descriptors, "none is left behind"
