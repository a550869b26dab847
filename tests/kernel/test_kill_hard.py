"""`hostbrake kill` on what is hard to kill: a fork bomb at its limit, a wait that no signal ends, a vfork."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from respond_helpers import is_dead, is_empty, python_in, spawn_in, state_of, wait_for
from sensor_helpers import hostbrake

pytestmark = pytest.mark.kernel

LIMIT = 60
BOMB = f"""
import os, resource, signal
resource.setrlimit(resource.RLIMIT_NPROC, ({LIMIT}, {LIMIT}))
os.setgid(54321); os.setuid(54321)  # root has no such limit
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("go", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
VFORK = """
import ctypes
print("go", flush=True)
ctypes.CDLL(None).vfork()  # the child, which waits, goes on here; its parent never does
ctypes.CDLL(None).pause()
"""
STUCK = """
import ctypes, os, struct, subprocess, sys
directory, cgroup = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
try:
    fuse = os.open("/dev/fuse", os.O_RDWR)
except OSError as error:
    sys.exit(f"no FUSE: {error}")
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"stuck", directory.encode(), b"fuse", 0, options):
    sys.exit(f"no FUSE: {os.strerror(ctypes.get_errno())}")
INIT, LOOKUP = 26, 1  # include/uapi/linux/fuse.h
child = subprocess.Popen(["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec /usr/bin/stat "$1/x"', cgroup, directory])
while True:
    _, opcode, unique = struct.unpack("=IIQ", os.read(fuse, 1 << 18)[:16])
    if opcode == INIT:
        limits = struct.pack("=IIIIHHII36x", 7, 31, 0, 0, 1, 1, 4096, 1)
        os.write(fuse, struct.pack("=IiQ", 16 + 64, 0, unique) + limits)
    elif opcode == LOOKUP:
        break  # it has taken the request and never answers: the kernel waits uninterruptibly
print(child.pid, flush=True)
sys.stdin.read()
os.close(fuse)  # ends the wait
child.wait()
"""


@pytest.fixture
def stuck(cgroup: Path, tmp_path: Path) -> Iterator[int]:
    """A process in `cgroup` that waits for a file system which never answers: SIGKILL does not end it."""
    (tmp_path / "mount").mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", STUCK, str(tmp_path / "mount"), str(cgroup)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as server:
        assert server.stdout is not None and server.stderr is not None
        told = server.stdout.readline()
        if not told:
            why = server.stderr.read().decode()
            assert why.startswith("no FUSE: "), why
            pytest.skip(why.strip())
        yield int(told)


def test_what_waits_uninterruptibly_is_named_and_the_others_die(cgroup: Path, stuck: int) -> None:
    others = spawn_in(cgroup, count=2)
    wait_for(lambda: state_of(stuck) in "DS", "waits")
    done = hostbrake("kill", "--cgroup", cgroup, "--timeout", "1")
    assert done.returncode == 1
    assert done.stderr == f"alive: {stuck} (stat, state D)\n"
    assert all(is_dead(process.pid) for process in others)


def test_a_fork_bomb_at_its_limit(cgroup: Path) -> None:
    python_in(cgroup, BOMB)
    wait_for(lambda: len((cgroup / "cgroup.procs").read_text().split()) >= LIMIT // 2, "at its limit")
    done = hostbrake("kill", "--cgroup", cgroup)
    assert done.returncode == 0 and is_empty(cgroup), done.stderr
    assert int(done.stdout.split()[1]) >= LIMIT // 2


def test_a_vfork_that_never_ends(cgroup: Path) -> None:
    process = python_in(cgroup, VFORK)
    wait_for(lambda: len((cgroup / "cgroup.procs").read_text().split()) == 2, "its child")
    wait_for(lambda: state_of(process.pid) in "DS", "it waits")
    done = hostbrake("kill", "--cgroup", cgroup)
    assert done.returncode == 0 and is_empty(cgroup) and is_dead(process.pid), done.stderr
