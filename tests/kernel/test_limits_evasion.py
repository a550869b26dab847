"""Ways around the limits that a workload may try, with root in its own cgroup or without, on the live kernel."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sensor_helpers import Launch, hostbrake, path_of, status_of
from test_limits import AGENT, CONNECT, RULE, Listener, alert_named, said, start_in

from sensor.cli.staging import Sensor
from sensor.control import ask

pytestmark = pytest.mark.kernel

Start = Callable[..., Sensor]
REFUSED = os.strerror(1)


@pytest.fixture
def place(cgroup: Path) -> Path:
    """The agent's cgroup."""
    place = cgroup / "agent"
    place.mkdir()
    return place


@pytest.fixture
def start(launch: Launch, cgroup: Path, place: Path, tmp_path: Path) -> Start:
    """A sensor for an agent with these limits."""

    def start(limits: str, *options: str) -> Sensor:
        agents = tmp_path / "agents.d"
        agents.mkdir(exist_ok=True)
        (agents / "rome.yml").write_text(AGENT.format(path=path_of(cgroup), limits=limits))
        return launch(f"--agents={agents}", "--mode=enforce", *options)

    return start


def test_a_name_that_is_no_text_does_not_keep_a_cgroup_connected(launch: Launch, cgroup: Path) -> None:
    listener = Listener()
    odd = Path(os.fsdecode(os.fsencode(cgroup) + b"/odd\xff"))
    (odd / "below").mkdir(parents=True)
    sensor = launch()
    assert said(odd / "below", CONNECT, "127.0.0.1", listener.port) == "connected" and listener.was_reached()
    done = hostbrake("isolate", f"--control-socket={sensor.socket}", f"--cgroup={odd}")
    answer = said(odd / "below", CONNECT, "127.0.0.1", listener.port)
    assert answer == REFUSED and not listener.was_reached(), (done.stdout, done.stderr)


MOVED = """
import os, socket, sys
for line in sys.stdin:
    if line.startswith("/"):
        open(line.strip() + "/cgroup.procs", "w").write(str(os.getpid()))
    try:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5).close()
        print("connected", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
    os._exit(0)
"""


class Mover:
    """A process that goes to other cgroups, and from there, and in a child of its own, connects."""

    def __init__(self, cgroup: Path, port: int) -> None:
        self.process = start_in(
            cgroup,
            [sys.executable, "-S", "-u", "-c", MOVED, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def from_(self, cgroup: Path | str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{cgroup}\n".encode())
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def mover(place: Path, listener: Listener) -> Iterator[Mover]:
    mover = Mover(place, listener.port)
    yield mover
    mover.close()


def test_who_leaves_an_isolated_cgroup_stays_cut_off_until_it_is_released(
    launch: Launch, cgroup: Path, place: Path, mover: Mover
) -> None:
    sensor = launch()
    assert mover.from_(".") == "connected"
    ask(sensor.socket, "isolate", cgroup=path_of(place))
    assert mover.from_(".") == REFUSED
    (cgroup / "other").mkdir()
    assert mover.from_(cgroup / "other") == REFUSED
    assert ask(sensor.socket, "release", cgroup=path_of(place))["released"] is True
    assert mover.from_(".") == "connected"


FORGE = """
import ctypes, os, socket, subprocess, sys
place, resolver, address = sys.argv[1:4]
if len(sys.argv) > 4:
    assert not ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
    open("/proc/self/uid_map", "w").write("0 0 1")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((resolver, 53))
server.settimeout(10)
if not os.fork():
    open(place + "/cgroup.procs", "w").write(str(os.getpid()))
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked.settimeout(3)
    question = b"\\4pypi\\4test\\0\\0\\1\\0\\1"
    try:
        asked.sendto(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + question, (resolver, 53))
        asked.recv(512)
        print("answered", flush=True)
    except OSError as error:
        print(error, flush=True)
    os._exit(0)
query, client = server.recvfrom(512)
record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton(address)
try:
    server.sendto(b"\\x12\\x34\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + query[12:] + record, client)
except OSError as error:
    print(error, flush=True)
os.wait()
"""


def test_an_answer_in_a_network_of_ones_own_opens_nothing(
    start: Start, cgroup: Path, place: Path, tmp_path: Path
) -> None:
    """Whoever may make user namespaces rules the networks in them, with what is said there and by whom."""
    listener = Listener("127.9.9.9")
    (tmp_path / "sensor.yml").write_text("alert_window_s: 0\nresolvers: [127.7.7.7]\n")
    start("egress: {default: deny, allow: [pypi.test]}")
    assert said(cgroup, FORGE, place, "127.7.7.7", "127.9.9.9", "apart") == "answered"
    assert said(place, CONNECT, "127.9.9.9", listener.port) == REFUSED
    assert not listener.was_reached()


def test_an_agent_is_no_resolver(start: Start, place: Path, tmp_path: Path) -> None:
    """Though it may bind the port, and reach itself."""
    listener = Listener("127.9.9.9")
    (tmp_path / "sensor.yml").write_text("alert_window_s: 0\nresolvers: [127.7.7.7]\n")
    start("egress: {default: deny, allow: [pypi.test, 127.0.0.0/16]}")
    assert "answered" not in said(place, FORGE, place, "127.7.7.7", "127.9.9.9")
    assert said(place, CONNECT, "127.9.9.9", listener.port) == REFUSED
    assert not listener.was_reached()


def test_a_deep_path_does_not_pass_for_an_allowed_one(start: Start, place: Path, tmp_path: Path) -> None:
    """The kernel side keeps the last 48 parts of a path: here these are those of an allowed one."""
    deep = tmp_path.joinpath("opt", *(["x"] * 46))
    deep.mkdir(parents=True)
    program, mark = deep / "touch", tmp_path / "mark"
    shutil.copy(os.path.realpath(shutil.which("touch") or "/usr/bin/touch"), program)
    sensor = start("exec: {allow: ['/opt/*', '*/sh', '*/dash', '*/bash']}")
    assert start_in(place, [program, mark]).wait(30) == -9
    assert not mark.exists()
    alert = alert_named(sensor, "Program outside the agent's limits")
    assert alert["response"]["outcome"] == "done"


def test_a_long_name_does_not_pass_for_a_shorter_one(start: Start, place: Path, tmp_path: Path) -> None:
    allowed = "a" * 55
    program = tmp_path / (allowed + "b")
    shutil.copy(os.path.realpath(shutil.which("sleep") or "/usr/bin/sleep"), program)
    start(f"exec: {{allow: ['*/{allowed}', '*/sh', '*/dash', '*/bash']}}")
    assert start_in(place, [program, "300"]).wait(30) == -9


RAW = """
import socket, struct, sys
address, port, protocol = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
segment = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 512, 0, 0)
if protocol == 255:
    parts = (0x45, 0, 40, 1, 0, 64, 6, 0, socket.inet_aton(address), socket.inet_aton(address))
    segment = struct.pack("!BBHHHBBH4s4s", *parts) + segment
try:
    sender.sendto(segment, (address, 0))
    print("sent")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("protocol", [6, 17, 255], ids=["tcp", "udp", "raw"])
def test_a_raw_socket_of_any_protocol_is_denied(start: Start, place: Path, protocol: int) -> None:
    start("egress: {default: deny, allow: []}")
    assert said(place, RAW, "127.3.3.3", 9, protocol) == REFUSED


ASK = """
import json, os, socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[2])
    client.sendall(json.dumps({"command": sys.argv[3], "cgroup": sys.argv[4], "id": None}).encode() + b"\\n")
    print(client.makefile().read())
"""


def test_a_workload_releases_none_though_it_is_root_and_left_its_cgroup(
    start: Start, cgroup: Path, place: Path, tmp_path: Path
) -> None:
    rules, victim = tmp_path / "rules", cgroup / "victim"
    victim.mkdir()
    rules.mkdir()  # not the shipped ones, one of which would end it
    (rules / "rule.yml").write_text(RULE.format(field="Image", value="/none", action="alert"))
    sensor = start("egress: {default: deny, allow: []}", f"--rules={rules}")
    ask(sensor.socket, "isolate", cgroup=path_of(victim))
    for where in (place, cgroup):
        answer = said(place, ASK, where, sensor.socket, "release", path_of(victim))
        assert "answers for none" in answer
    assert status_of(sensor)["isolated"] == [path_of(victim)]


def test_a_request_nested_beyond_reason_harms_nobody(launch: Launch) -> None:
    sensor = launch()
    for depth in (200, 300, 900, 20_000):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(sensor.socket))
            nested = b"[" * depth + b"]" * depth
            client.sendall(b'{"command":"approve","id":"none","for_s":1,"x":' + nested + b"}\n")
            assert b"error" in client.makefile("rb").read()
    assert status_of(sensor)["ready"]
