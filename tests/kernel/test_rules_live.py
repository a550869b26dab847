"""The shipped rules on what really happens: each behaviour, done, raises its rule; ordinary work raises none."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.config import shipped_rules_dir
from sensor.context.agents import Agents
from sensor.context.enrich import Context
from sensor.decode import decode
from sensor.kernel.core import CoreBackend
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.node import cgroup2_mount
from sensor.verdict import SEVERITY

pytestmark = pytest.mark.kernel

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


class Watch:
    """Kernel programs, context and rules, and the one cgroup whose events count."""

    def __init__(self, cgroup: Path) -> None:
        self.cgroup = cgroup
        self.rules = list(load_rules([shipped_rules_dir()]))
        self.matcher = Matcher(self.rules)
        self.context = Context(cgroup_root=cgroup2_mount(), agents=Agents())
        self.core = CoreBackend(cgroup2_mount(), self.context.devices.majors())
        self.context.seed()

    def run(self, *command: str | Path, **options: object) -> None:
        """Run to the end inside the cgroup; that the program fails is nothing to us."""
        enter = ["sh", "-c", 'echo 0 > "$0" && exec "$@"', self.cgroup / "cgroup.procs"]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*enter, *command], timeout=60, **streams | options)  # type: ignore[call-overload]

    def raised(self) -> set[tuple[str, str]]:
        """(rule file, level) of every verdict on this cgroup's events so far."""
        inside = "/" + str(self.cgroup.relative_to(cgroup2_mount()))
        found = set()
        while records := self.core.read():
            for record in records:
                events = self.context.enrich(decode(record)) or []
                for event in events if isinstance(events, list) else [events]:
                    if event.cgroup_path == inside:
                        found |= {(Path(v.rule.path).stem, v.rule.level) for v in self.matcher.match(event)}
        return found

    def names(self) -> set[str]:
        return {name for name, _ in self.raised()}


@pytest.fixture
def watch(cgroup: Path) -> Iterator[Watch]:
    found = Watch(cgroup)
    yield found
    found.core.close()
    found.context.close()


def copy_of(program: str, to: Path) -> Path:
    shutil.copy(shutil.which(program) or program, to)
    return to


@pytest.mark.parametrize("spelling", [["-fNR", "9000"], ["-oRemoteForward=9000"], ["-o", "LogLevel QUIET", "-R9000"]])
def test_real_ssh_with_a_remote_forward(watch: Watch, spelling: list[str]) -> None:
    watch.run("ssh", "-F", "none", "-p", "1", *spelling, "127.0.0.1")
    assert watch.names() == {"ssh_remote_forward"}


def test_real_ssh_with_a_tunnel_device(watch: Watch) -> None:
    watch.run("ssh", "-F", "none", "-p", "1", "-w", "0:0", "127.0.0.1")
    assert watch.names() == {"ssh_tunnel_device"}


def test_real_ssh_with_padding_before_the_forward(watch: Watch) -> None:
    padding = [arg for number in range(60) for arg in ("-o", f"SetEnv=PAD{number}={'a' * 80}")]
    watch.run("ssh", "-F", "none", "-p", "1", *padding, "-R", "9000", "127.0.0.1")
    assert watch.names() == {"ssh_options_cut_off"}


def test_real_ssh_with_a_long_remote_command_is_let_be(watch: Watch) -> None:
    watch.run("ssh", "-F", "none", "-p", "1", "127.0.0.1", "-n", "ls -R " + "a" * 8000)
    assert not watch.names()


def test_miner_by_name_and_under_another(watch: Watch, tmp_path: Path) -> None:
    watch.run(copy_of("sleep", tmp_path / "xmrig"), "0")
    assert watch.names() == {"miner_program"}
    watch.run(copy_of("sleep", tmp_path / "train"), "-o", "stratum+tcp://pool.invalid:3333")
    assert watch.names() == {"stratum_argument"}


def test_shell_on_a_tcp_socket_but_not_on_a_unix_one(watch: Watch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.shutdown(socket.SHUT_WR)
        accepted, _ = server.accept()
        with accepted:
            watch.run("sh", "-c", "sh", stdin=accepted, stdout=accepted)
    assert watch.names() == {"shell_on_socket"}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_WR)
        watch.run("sh", "-c", "sh", stdin=theirs, stdout=theirs)
    assert not watch.names()


def test_program_in_memory_and_program_deleted(watch: Watch, tmp_path: Path) -> None:
    code = Path("/bin/true").read_bytes()
    memory = os.memfd_create("payload")
    os.write(memory, code)
    watch.run(f"/proc/self/fd/{memory}", pass_fds=[memory])
    assert watch.names() == {"fileless_memory"}
    path = tmp_path / "gone"
    path.write_bytes(code)
    path.chmod(0o755)
    deleted = os.open(path, os.O_RDONLY)
    path.unlink()
    watch.run(f"/proc/self/fd/{deleted}", pass_fds=[deleted])
    os.close(memory)
    os.close(deleted)
    assert watch.names() == {"fileless_deleted"}


def test_gpu_node_under_another_name(watch: Watch, tmp_path: Path) -> None:
    node = tmp_path / "not-a-gpu"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(195, 0))
    watch.run("cat", node)
    assert watch.names() == {"gpu_open_outside_workloads"}


@pytest.mark.parametrize(
    ("address", "port", "names"),
    [
        ("169.254.169.254", 80, {"metadata_service"}),
        ("fd00:ec2::254", 80, {"metadata_service"}),
        ("169.254.169.254", 53, set()),
        ("192.0.2.1", 3333, {"pool_port"}),
        ("192.0.2.1", 443, set()),
        ("10.0.0.5", 3333, set()),
    ],
)
def test_destinations(watch: Watch, address: str, port: int, names: set[str]) -> None:
    """In a network namespace with no route: the kernel asks the sensor's hook first, and then sends nothing."""
    watch.run("unshare", "--net", sys.executable, "-c", CONNECT, address, str(port))
    assert watch.names() == names


def test_ordinary_work_raises_nothing_above_low(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("all: a b c\na b c:\n\tsh -c 'true; ls -a >/dev/null'\n")
    work = """
        git init -q repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m stratum+tcp://x
        cd .. && git clone -q repo copy
        make -s -j 4
        tar -cf - repo | tar -tf - | grep -c 'stratum+tcp://pool:1'
        ssh -F none -p 1 -o BatchMode=yes 127.0.0.1 ls -R
        scp -F none -P 1 -o BatchMode=yes Makefile 127.0.0.1:/nowhere
        ssh-keygen -q -t ed25519 -N '' -f key && ssh-keygen -R 127.0.0.1
        python3 -u -c 'import subprocess; subprocess.run("sh -c true", shell=True)'
        python3 -m pip --version; apt-get --version; dpkg -l; curl --version; find . -name nc -exec true ';'
    """
    watch.run("sh", "-c", work, cwd=tmp_path)
    assert not {name for name, level in watch.raised() if SEVERITY[level] > SEVERITY["low"]}
