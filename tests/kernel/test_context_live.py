"""What the sensor finds out by itself, on the live system: processes, cgroups, addresses."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.context.agents import Agents
from sensor.context.cgroups import Cgroups
from sensor.context.enrich import Context
from sensor.context.identity import TICK, parse_guid, start_ticks
from sensor.decode import decode
from sensor.events import AnyEvent, NetworkConnection, ProcessCreation
from sensor.kernel.core import CoreBackend
from sensor.node import cgroup2_mount

pytestmark = pytest.mark.kernel


@pytest.fixture
def cgroups() -> Cgroups:
    return Cgroups(cgroup2_mount())


def relative(cgroup: Path) -> str:
    return "/" + str(cgroup.relative_to(cgroup2_mount()))


def test_seed_sees_a_process_and_its_cgroup(cgroup: Path) -> None:
    script = "import sys; print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", script, "seed me"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        (cgroup / "cgroup.procs").write_text(str(child.pid))
        context = Context(cgroup_root=cgroup2_mount(), agents=Agents())
        context.seed()
        ticks = start_ticks(child.pid)
        assert ticks is not None
        found = context.processes.get(child.pid, ticks * TICK)
        assert found is not None
        assert found.args == argv
        assert found.image == str(Path(sys.executable).resolve())
        kthreadd = start_ticks(2)
        if kthreadd is not None and Path("/proc/2/comm").read_text() == "kthreadd\n":
            assert context.processes.get(2, kthreadd * TICK) is None
        assert context.cgroups.path(cgroup.stat().st_ino) == relative(cgroup)
        assert context.losses()["cgroups_unknown"] == 0
        context.close()
        child.communicate()


def test_seed_sees_the_whole_tree(cgroup: Path, cgroups: Cgroups) -> None:
    deep = cgroup / "a" / os.fsdecode(b"b\xff c") / "c"
    deep.mkdir(parents=True)
    cgroups.seed()
    paths = dict(cgroups._paths)
    assert paths[cgroup2_mount().stat().st_ino] == "/"
    assert paths[deep.stat().st_ino] == relative(cgroup) + "/a/b\\xff c/c"
    assert cgroups.unknown == 0


def test_cgroup_that_no_event_told_of_is_looked_for(cgroup: Path, cgroups: Cgroups) -> None:
    cgroups.seed()
    late = cgroup / os.fsdecode(b"late\xfe")
    late.mkdir()
    assert cgroups.path(late.stat().st_ino) == relative(cgroup) + "/late\\xfe"
    assert (cgroups.rescans, cgroups.unknown) == (1, 0)


def test_cgroup_that_is_gone_is_looked_for_once_until_retry(cgroup: Path, cgroups: Cgroups) -> None:
    gone = cgroup / "gone"
    gone.mkdir()
    cgroup_id = gone.stat().st_ino
    gone.rmdir()
    for _ in range(3):
        assert cgroups.path(cgroup_id) is None
        assert cgroups.path(cgroup_id + 1) is None
    assert (cgroups.rescans, cgroups.unknown) == (1, 2)
    cgroups.retry()
    assert cgroups.path(cgroup_id) is None
    assert (cgroups.rescans, cgroups.unknown) == (2, 3)


NAMESPACE_SCRIPT = """
import select, subprocess
from sensor.context.routes import Routes

def ip(*words):
    subprocess.run(["ip", *words], check=True)

def expect(*scopes):
    assert select.select([routes], [], [], 20)[0], "no notification"
    routes.read_changes()
    found = tuple(routes.scope(address) for address in ("192.0.2.7", "2001:db8::7", "198.51.100.77"))
    assert found == scopes, (found, scopes)

routes = Routes()
assert routes.scope("127.0.0.1") == "loopback"
for address in ("192.0.2.7", "2001:db8::7", "198.51.100.77"):
    assert routes.scope(address) == "external"
ip("link", "set", "lo", "up")
expect("external", "external", "external")
ip("address", "add", "192.0.2.7/24", "dev", "lo")
expect("local", "external", "external")
ip("address", "add", "2001:db8::7/64", "dev", "lo", "nodad")
expect("local", "local", "external")
ip("route", "add", "local", "198.51.100.0/25", "dev", "lo")
expect("local", "local", "local")
assert routes.scope("198.51.100.128") == "external"
ip("address", "del", "192.0.2.7/24", "dev", "lo")
expect("external", "local", "local")
ip("route", "add", "203.0.113.0/24", "dev", "lo")
reloads = routes.reloads
assert select.select([routes], [], [], 20)[0]
routes.read_changes()
assert routes.reloads == reloads, "a route that is not local concerns nobody here"
assert routes.failures == 0
print("followed")
"""


@pytest.mark.skipif(not (shutil.which("ip") and shutil.which("unshare")), reason="needs iproute2 and util-linux")
def test_addresses_are_followed_by_netlink() -> None:
    argv = ["unshare", "--net", sys.executable, "-c", NAMESPACE_SCRIPT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.stdout == "followed\n", done.stderr


@pytest.fixture
def live() -> Iterator[tuple[CoreBackend, Context]]:
    backend = CoreBackend(cgroup2_mount(), [195])
    context = Context(cgroup_root=cgroup2_mount(), agents=Agents())
    context.seed()
    yield backend, context
    context.close()
    backend.close()


def enriched(live: tuple[CoreBackend, Context]) -> list[AnyEvent]:
    backend, context = live
    found: list[AnyEvent] = []
    while records := backend.read():
        for record in records:
            event = context.enrich(decode(record))
            found += event if isinstance(event, list) else [event] if event else []
    return found


SHELL_SCRIPT = """
echo $$ > "$1/cgroup.procs"
(while :; do /bin/true seen; exec {hold}<>/dev/tcp/127.0.0.1/9; read line && exit; done) 2>/dev/null
"""


def test_events_of_the_live_kernel_name_process_parent_and_cgroup(
    live: tuple[CoreBackend, Context], cgroup: Path
) -> None:
    argv = ["/bin/bash", "-c", SHELL_SCRIPT, "job", str(cgroup)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as shell, contextlib.ExitStack() as ended:
        ended.callback(shell.kill)  # whatever fails below: it would be waited for
        connects: list[NetworkConnection] = []
        execs: list[ProcessCreation] = []
        deadline = time.monotonic() + 30
        while not (connects and execs) and time.monotonic() < deadline:
            for event in enriched(live):
                if event.cgroup_path != relative(cgroup):
                    continue
                if isinstance(event, NetworkConnection):
                    connects.append(event)
                elif isinstance(event, ProcessCreation) and event.args == ["/bin/true", "seen"]:
                    execs.append(event)
            time.sleep(0.01)
        subshell = connects[0]
        assert subshell.process_id != shell.pid
        assert subshell.process_guid is not None
        assert parse_guid(subshell.process_guid) == (subshell.process_id, start_ticks(subshell.process_id or 0))
        assert (subshell.args, subshell.parent_process_id) == (argv, shell.pid), "it forked, and ran no program"
        assert (subshell.destination_scope, subshell.user) == ("loopback", "root")
        assert abs(subshell.time - time.time_ns()) < 60e9
        child = execs[0]
        assert child.parent_command_line == " ".join(argv)
        bash, python = str(Path("/bin/bash").resolve()), str(Path(sys.executable).resolve())
        assert (child.ancestors or [])[:3] == [bash, bash, python]
        shell.communicate(b"done\n")
        assert child.cgroup_id == cgroup.stat().st_ino
