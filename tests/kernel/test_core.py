"""The kernel programs, live: what really happens comes out of the ring, filled in, and losses are counted."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from sensor.decode import (
    CgroupMade,
    CgroupMoved,
    CgroupRemoved,
    Connect,
    DeviceAccess,
    Exec,
    Exit,
    Kernel,
    decode,
)
from sensor.kernel.core import CoreBackend, Programs, ring_bytes
from sensor.kernel.libbpf import BpfError, Libbpf
from sensor.kernel.ring import LibbpfRing
from sensor.node import cgroup2_mount
from sensor.wire import ANCESTORS

pytestmark = pytest.mark.kernel

PROGRAMS = Path(__file__).parents[1] / "programs"
GPU_MAJOR = 195
E = TypeVar("E", bound=Kernel)


@pytest.fixture
def backend() -> Iterator[CoreBackend]:
    core = CoreBackend(cgroup2_mount(), [GPU_MAJOR])
    yield core
    core.close()


def events(backend: CoreBackend, kind: type[E], mine: Callable[[E], bool] = lambda _: True) -> list[E]:
    """What is in the ring now, of one kind; the machine has other things going on, so `mine` picks."""
    found = []
    while records := backend.read():
        found += [decode(record) for record in records]
    return [event for event in found if isinstance(event, kind) and mine(event)]


def run(*command: str | bytes, **options: object) -> int:
    """The pid of a program that has ended."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    process.wait()
    return int(process.pid)


def test_exec_is_filled_in_by_the_kernel(backend: CoreBackend, tmp_path: Path) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    pid = run("/bin/sh", "-c", "exit 0", "two words", "new\nline", b"\xff", cwd=tmp_path, user=65534)
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert event.image == os.path.realpath("/bin/sh")
    assert event.args == ["/bin/sh", "-c", "exit 0", "two words", "new\nline", "\\xff"]
    assert event.cwd == str(tmp_path)
    assert event.uid == 65534
    assert event.parent_image == os.path.realpath(sys.executable)
    lineage = [os.getpid(), *(parent.pid for parent in psutil.Process().parents())]
    assert [pid for pid, _ in event.ancestors] == lineage[:ANCESTORS]
    assert before < event.start < event.time < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert not (event.fileless or event.stdio_socket or event.truncated)


def test_exit_of_the_last_thread_only(backend: CoreBackend) -> None:
    pid = run(sys.executable, "-c", "import threading as t; [t.Thread(target=print).start() for _ in 'abc']")
    assert len(events(backend, Exit, lambda e: e.tgid == pid)) == 1


def test_a_long_argv_is_cut_and_says_so(backend: CoreBackend) -> None:
    pid = run("/bin/true", *["x" * 100_000] * 20)
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert event.truncated
    assert event.args == ["/bin/true", "x" * (4096 - len("/bin/true\0"))]


def test_a_deep_path_is_whole(backend: CoreBackend, tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 3500:
        deep = deep / ("d" * 120)
    deep.mkdir(parents=True)
    program = deep / "truth"
    shutil.copy("/bin/true", program)
    pid = run(str(program), cwd=deep)
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert (event.image, event.cwd, event.truncated) == (str(program), str(deep), False)


def test_a_path_of_too_many_parts_is_cut_and_says_so(backend: CoreBackend, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 100)
    deep.mkdir(parents=True)
    pid = run("/bin/true", cwd=deep)
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert event.truncated and event.cwd == "/d" * 48


@pytest.mark.parametrize("name", [b"line\nbreak", b"\xff\xfe", b"quote\"'\\", "caf\u00e9".encode()])
def test_hostile_names(backend: CoreBackend, tmp_path: Path, name: bytes) -> None:
    program = os.fsencode(tmp_path) + b"/" + name
    shutil.copy(b"/bin/true", program)
    pid = run(program)
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert event.image == f"{tmp_path}/{name.decode('utf-8', 'backslashreplace')}"


def test_the_image_is_what_runs_not_what_was_called(backend: CoreBackend, tmp_path: Path) -> None:
    link = tmp_path / "innocent"
    link.symlink_to("/bin/true")
    script = tmp_path / "script"
    script.write_text(f"#!{link} argument\n")
    script.chmod(0o755)
    pid = run(str(script), executable=str(script))
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert event.image == os.path.realpath("/bin/true")
    assert event.args == [str(link), "argument", str(script)]


def test_chroot_gives_no_other_name(backend: CoreBackend, tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    static = tmp_path / "usr/sshd"  # a chroot has no loader and no libc
    source = "int main(void) { return 0; }"
    subprocess.run(["gcc", "-static", "-x", "c", "-", "-o", static], input=source, text=True, check=True)
    pid = os.fork()
    if pid == 0:
        os.chroot(tmp_path)
        try:
            os.execv("/usr/sshd", ["sshd"])
        finally:
            os._exit(127)
    os.waitpid(pid, 0)
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert event.image == f"{tmp_path}/usr/sshd"


def test_fileless_by_memfd_and_by_deletion(backend: CoreBackend, tmp_path: Path) -> None:
    program = Path("/bin/true").read_bytes()
    memory = os.memfd_create("payload")
    os.write(memory, program)
    first = run(f"/proc/self/fd/{memory}", pass_fds=[memory])
    path = tmp_path / "gone"
    path.write_bytes(program)
    path.chmod(0o755)
    deleted = os.open(path, os.O_RDONLY)
    path.unlink()
    second = run(f"/proc/self/fd/{deleted}", pass_fds=[deleted])
    third = run("/bin/true")
    found = {e.tgid: e for e in events(backend, Exec)}
    assert found[first].fileless and found[first].image == "/memfd:payload"
    assert found[second].fileless and found[second].image == str(path)
    assert not found[third].fileless


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_standard_stream_is_a_socket(backend: CoreBackend, stream: str, family: int) -> None:
    with socket.socket(family) as sock:
        process = subprocess.Popen(["/bin/true"], **{stream: sock})  # type: ignore[call-overload]
        process.wait()
    (event,) = events(backend, Exec, lambda e: e.tgid == process.pid)
    assert event.stdio_socket and event.stdio_family == family


def connects(backend: CoreBackend) -> list[tuple[int, str, int]]:
    mine = events(backend, Connect, lambda e: e.tgid == os.getpid())
    return [(e.protocol, e.address, e.port) for e in mine]


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_tcp_and_udp(backend: CoreBackend, family: int, address: str) -> None:
    with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
        tcp.connect_ex((address, 7))
        udp.connect((address, 8))
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"first", (address, 9))
        udp.sendto(b"second", (address, 9))
    assert connects(backend) == [(6, address, 7), (17, address, 8), (17, address, 9)]


def test_an_ipv4_destination_in_ipv6_clothes(backend: CoreBackend) -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.connect_ex(("::ffff:127.0.0.1", 7))
    assert connects(backend) == [(6, "127.0.0.1", 7)]


def test_a_bound_source_is_told(backend: CoreBackend) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.connect_ex(("127.0.0.1", 7))
    (event,) = events(backend, Connect, lambda e: e.tgid == os.getpid())
    assert (event.source_address, event.source_port) == ("127.0.0.1", port)


def test_io_uring_does_not_blind_it(backend: CoreBackend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [sys.executable, PROGRAMS / "io_uring_connect.py", str(port)], capture_output=True, text=True
        )
        assert done.stdout == "0\n", done.stderr
        server.settimeout(10)
        server.accept()[0].close()
    (event,) = events(backend, Connect, lambda e: e.port == port)
    assert event.image == os.path.realpath(sys.executable) and event.address == "127.0.0.1"


def test_repeats_are_collapsed_and_counted(backend: CoreBackend) -> None:
    before = backend.counters()["connect"]["collapsed"]
    for _ in range(50):
        with socket.socket() as sock:
            sock.connect_ex(("127.0.0.1", 7))
    assert connects(backend) == [(6, "127.0.0.1", 7)]
    assert backend.counters()["connect"]["collapsed"] - before >= 49
    time.sleep(1.1)
    with socket.socket() as sock:
        sock.connect_ex(("127.0.0.1", 7))
    (event,) = events(backend, Connect, lambda e: e.tgid == os.getpid())
    assert event.repeats == 49


def test_a_new_program_in_the_same_process_is_not_a_repeat(backend: CoreBackend) -> None:
    connect = "import socket; socket.socket().connect_ex(('127.0.0.1', 7))"
    pid = run(
        sys.executable, "-c", f"{connect}; import os; os.execv({sys.executable!r}, ['second', '-c', {connect!r}])"
    )
    assert len(events(backend, Connect, lambda e: e.tgid == pid)) == 2


@pytest.mark.parametrize(
    ("flags", "access"), [(os.O_RDONLY, 1), (os.O_WRONLY, 2), (os.O_RDWR, 3), (os.O_RDONLY | os.O_NONBLOCK, 1)]
)
def test_device_opens_whatever_the_path(backend: CoreBackend, tmp_path: Path, flags: int, access: int) -> None:
    node, link = tmp_path / "harmless.txt", tmp_path / "link"
    os.mknod(node, 0o20600, os.makedev(GPU_MAJOR, 5))
    link.symlink_to(node)
    with pytest.raises(OSError):
        os.open(link, flags)
    (event,) = events(backend, DeviceAccess, lambda e: e.tgid == os.getpid())
    assert (event.major, event.minor, event.access) == (GPU_MAJOR, 5, access)
    assert event.image == os.path.realpath(sys.executable)


def test_other_devices_and_making_a_node_are_silent(backend: CoreBackend, tmp_path: Path) -> None:
    os.mknod(tmp_path / "node", 0o20600, os.makedev(GPU_MAJOR, 5))
    Path("/dev/null").write_bytes(b"")
    assert events(backend, DeviceAccess, lambda e: e.tgid == os.getpid()) == []
    backend.watch_majors([1])  # Documentation/admin-guide/devices.txt: /dev/null is 1:3
    Path("/dev/null").write_bytes(b"")
    (event,) = events(backend, DeviceAccess, lambda e: e.tgid == os.getpid())
    assert (event.major, event.minor, event.access) == (1, 3, 2)


def test_cgroups_that_come_go_and_are_moved_into(backend: CoreBackend, cgroup: Path) -> None:
    child = cgroup / "child"
    child.mkdir()
    identity = child.stat().st_ino
    process = subprocess.Popen(["sleep", "60"])
    (child / "cgroup.procs").write_text(str(process.pid))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while child.exists():
        try:
            child.rmdir()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    path = f"/{cgroup.name}/child"
    found = []
    while records := backend.read():
        found += [decode(record) for record in records]
    (made,) = [e for e in found if isinstance(e, CgroupMade) and e.made == identity]
    (moved,) = [e for e in found if isinstance(e, CgroupMoved) and e.into == identity]
    (removed,) = [e for e in found if isinstance(e, CgroupRemoved) and e.removed == identity]
    assert made.path == moved.path == removed.path == path
    assert moved.moved == process.pid and moved.moved_start > 0
    (ended,) = [e for e in found if isinstance(e, Exit) and e.tgid == process.pid]
    assert ended.cgroup_id == identity and ended.start == moved.moved_start


def test_the_other_hierarchy_is_silent(backend: CoreBackend) -> None:
    version_1 = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup " in line
    ]
    if not version_1:
        pytest.skip("no cgroup v1 hierarchy is mounted here")
    directory = Path(version_1[0]) / "hostbrake-test-v1"
    directory.mkdir()
    directory.rmdir()
    assert events(backend, CgroupMade, lambda e: "hostbrake-test-v1" in e.path) == []


def test_a_full_ring_loses_nothing_silently(backend: CoreBackend) -> None:
    script = "import os\nfor _ in range({}): os.waitpid(os.posix_spawn('/bin/true', ['true', 'x' * 4000], {{}}), 0)"
    spawned = ring_bytes(os.cpu_count() or 1) // 4096 + 300
    subprocess.run([sys.executable, "-c", script.format(spawned)], check=True)
    before = backend.counters()["exec"]
    read = len(events(backend, Exec))
    after = backend.counters()["exec"]
    assert before["lost_ring"] > 0
    assert before["sent"] <= read <= after["sent"]  # other programs begin meanwhile
    assert before["sent"] + before["lost_ring"] > spawned


def test_every_exec_of_a_storm_arrives(backend: CoreBackend) -> None:
    script = "import os\nfor _ in range(2000): os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)"
    storm = subprocess.Popen([sys.executable, "-c", script])
    found: list[Exec] = []
    while storm.poll() is None:
        found += events(backend, Exec)
    found += events(backend, Exec)
    assert sum(e.args == ["true"] and e.ancestors[0][0] == storm.pid for e in found) == 2000
    assert backend.missed_runs() == {}
    assert not any(counts["lost_ring"] or counts["lost_scratch"] for counts in backend.counters().values())


def test_the_portable_reader_reads_the_same(backend: CoreBackend) -> None:
    backend._ring.close()
    backend._ring = LibbpfRing(Libbpf(), backend._ring_fd)
    pid = run("/bin/true", "portable")
    (event,) = events(backend, Exec, lambda e: e.tgid == pid)
    assert event.args == ["/bin/true", "portable"]


def test_nothing_is_left_attached_after_a_failure(tmp_path: Path) -> None:
    def held() -> int:
        links = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return sum("bpf" in link for link in links)

    before = held()
    with pytest.raises((BpfError, OSError)):
        CoreBackend(tmp_path, [GPU_MAJOR])  # no cgroup: the cgroup programs cannot be attached
    with pytest.raises(BpfError, match="make build"):
        Programs(tmp_path / "missing.o")
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"no ELF")
    with pytest.raises(BpfError):
        Programs(broken)
    assert held() == before
