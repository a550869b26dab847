"""What agents' files limit, on the live kernel: nothing leaves, opens or runs that may not."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sensor_helpers import Launch, alerts_of, json_lines, path_of, wait_for

from sensor.cli.staging import Sensor

pytestmark = pytest.mark.kernel

AGENT = """
agent: rome
purpose: tests
owner: {{name: Ada Example, notify: ["json://127.0.0.1:9/"]}}
match: [{{cgroup: "{path}/agent/**"}}]
{limits}
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
    print("connected")
except OSError as error:
    print(error.strerror)
"""
OPEN = "import sys; open(sys.argv[1], 'rb')"

Start = Callable[..., Sensor]


@pytest.fixture
def place(cgroup: Path) -> Path:
    """The agent's cgroup."""
    place = cgroup / "agent"
    place.mkdir()
    return place


@pytest.fixture
def start(launch: Launch, cgroup: Path, place: Path, tmp_path: Path) -> Start:
    """A sensor for an agent with these limits."""

    def start(limits: str, mode: str = "enforce", *options: str) -> Sensor:
        agents = tmp_path / "agents.d"
        agents.mkdir(exist_ok=True)
        (agents / "rome.yml").write_text(AGENT.format(path=path_of(cgroup), limits=limits))
        return launch(f"--agents={agents}", f"--mode={mode}", f"--events={tmp_path / 'events.jsonl'}", *options)

    return start


def start_in(cgroup: Path, command: Sequence[str | Path], **streams: int) -> subprocess.Popen[bytes]:
    """Start `command` inside `cgroup`, where it is before it becomes the program."""
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    return subprocess.Popen(["/bin/sh", "-c", enter, cgroup, *command], **streams)


class Listener:
    """Takes note of whoever connects, though nobody accepts: of each SYN, then."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def was_reached(self) -> bool:
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


def python_in(cgroup: Path, script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-S", "-c", script, *map(str, arguments)]
    return start_in(cgroup, command, stdout=subprocess.PIPE)


def said(cgroup: Path, script: str, *arguments: object) -> str:
    output, _ = python_in(cgroup, script, *arguments).communicate(timeout=30)
    return output.decode().strip()


def alert_named(sensor: Sensor, title: str) -> dict[str, object]:
    found: dict[str, object] = wait_for(
        lambda: [alert for alert in alerts_of(sensor.alerts) if alert["rule"]["name"] == title], title
    )[0]
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_denied_connect_sends_nothing(start: Start, place: Path, address: str) -> None:
    listener = Listener(address)
    sensor = start("egress: {default: deny, allow: []}")
    assert said(place, CONNECT, address, listener.port) == os.strerror(1)
    assert not listener.was_reached()
    alert = alert_named(sensor, "Destination outside the agent's limits")
    assert alert["response"]["action"] == "deny" and alert["response"]["outcome"] == "done"
    assert alert["destination"]["port"] == listener.port and alert["workload"]["agent"] == "rome"
    assert "was kept from connecting" in alert["event"]["reason"]


def test_what_is_named_may_be_reached_and_no_other_port(start: Start, place: Path) -> None:
    allowed, other = Listener(), Listener()
    start(f"egress: {{default: deny, allow: ['127.0.0.0/8:{allowed.port}', '[::1/128]:1']}}")
    assert said(place, CONNECT, "127.0.0.1", allowed.port) == "connected" and allowed.was_reached()
    assert said(place, CONNECT, "127.0.0.1", other.port) == os.strerror(1) and not other.was_reached()


def test_monitor_mode_tells_what_it_would_deny(start: Start, place: Path, tmp_path: Path) -> None:
    listener = Listener()
    sensor = start("egress: {default: deny, allow: []}", "monitor")
    assert said(place, CONNECT, "127.0.0.1", listener.port) == "connected" and listener.was_reached()
    alert = alert_named(sensor, "Destination outside the agent's limits")
    assert (alert["response"]["action"], alert["response"]["outcome"]) == ("deny", "would")
    events = [e for e in json_lines(tmp_path / "events.jsonl") if e.get("DestinationPort") == listener.port]
    assert events and events[0]["WouldDeny"] is True and events[0]["Denied"] is False


def test_nobody_else_is_limited(start: Start, cgroup: Path) -> None:
    listener = Listener()
    start("egress: {default: deny, allow: []}\ngpu: {allow: false}\nexec: {deny: ['*/sleep', '/usr/bin/true']}")
    assert said(cgroup, CONNECT, "127.0.0.1", listener.port) == "connected"
    assert start_in(cgroup, ["/bin/true"]).wait(10) == 0


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A node of the same device as /dev/null, under another name."""
    node = tmp_path / "gpu"
    os.mknod(node, 0o020666, Path("/dev/null").stat().st_rdev)
    return node


def test_a_denied_gpu_never_opens(start: Start, cgroup: Path, place: Path, device: Path) -> None:
    sensor = start("gpu: {allow: false}", "enforce", "--gpu-majors=1")
    # Python itself opens /dev/urandom and its like, of the same major, where that is no harm
    opening = start_in(place, ["/bin/dd", f"if={device}", "count=0"], stderr=subprocess.PIPE)
    assert b"Operation not permitted" in opening.communicate(timeout=30)[1]
    assert start_in(cgroup, ["/bin/dd", f"if={device}", "count=0"], stderr=subprocess.DEVNULL).wait(10) == 0
    alert = alert_named(sensor, "GPU outside the agent's limits")
    assert alert["device"]["major"] == 1 and alert["response"]["outcome"] == "done"


@pytest.mark.parametrize(
    "limit",
    [
        "deny: ['*/touch']",
        "deny: ['{path}']",
        "deny: ['{directory}/*']",
        "allow: ['/bin/sh', '*/bash', '*/dash']",
    ],
    ids=["name", "path", "below", "allow"],
)
def test_a_denied_program_does_nothing(start: Start, place: Path, tmp_path: Path, limit: str) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "touch"
    shutil.copy(shutil.which("touch") or "/usr/bin/touch", program)
    sensor = start("exec: {" + limit.format(path=program, directory=program.parent) + "}")
    mark = tmp_path / "mark"
    process = start_in(place, [program, mark])
    assert process.wait(30) == -9
    alert = alert_named(sensor, "Program outside the agent's limits")
    assert alert["response"]["action"] == "deny" and alert["response"]["outcome"] == "done"
    assert alert["process"]["executable"] == str(program)
    assert not mark.exists() and "was kept from running" in alert["event"]["reason"]


@pytest.mark.parametrize("limit", ["deny: ['*/sl?ep']", "allow: ['*/sh', '*/d?sh', '*/bash']"])
def test_what_the_kernel_cannot_decide_the_sensor_ends(start: Start, place: Path, limit: str) -> None:
    sensor = start(f"exec: {{{limit}}}")
    assert start_in(place, ["/bin/sleep", "300"]).wait(30) == -9
    alert = alert_named(sensor, "Program outside the agent's limits")
    assert (alert["response"]["action"], alert["response"]["outcome"]) == ("deny", "done")


def test_children_inherit_in_the_kernel(start: Start, place: Path) -> None:
    """The sensor is stopped: nobody but the kernel is there."""
    listener = Listener()
    sensor = start("egress: {default: deny, allow: []}")
    sensor.process.send_signal(signal.SIGSTOP)
    below = place / "a" / "b"
    below.mkdir(parents=True)
    assert said(below, CONNECT, "127.0.0.1", listener.port) == os.strerror(1)
    assert not listener.was_reached()


LEAVE = """
import os, socket, sys
open(sys.argv[3] + "/cgroup.procs", "w").write(str(os.getpid()))
child = os.fork()
if child == 0:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
        print("connected", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
    os._exit(0)
os.waitpid(child, 0)
input()
"""


def test_who_leaves_its_cgroup_keeps_its_limits_and_is_seen(start: Start, cgroup: Path, place: Path) -> None:
    listener = Listener()
    sensor = start("egress: {default: deny, allow: []}")
    process = start_in(
        place,
        [sys.executable, "-S", "-c", LEAVE, "127.0.0.1", str(listener.port), str(cgroup)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    alert = alert_named(sensor, "Process moved out of its agent's cgroups")
    assert alert["process"]["pid"] == process.pid and alert["workload"]["agent"] == "rome"
    output, _ = process.communicate(timeout=30)
    assert b"connected" not in output and not listener.was_reached()


def test_who_was_there_before_the_sensor_is_limited_too(start: Start, cgroup: Path, place: Path) -> None:
    listener = Listener()
    process = start_in(
        place,
        [sys.executable, "-S", "-c", "input()\n" + LEAVE, "127.0.0.1", str(listener.port), str(cgroup)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    start("egress: {default: deny, allow: []}\nresponse: {action: alert}")
    output, _ = process.communicate(b"\n", timeout=30)
    assert b"connected" not in output and not listener.was_reached()


def test_an_agents_own_response_goes_further(start: Start, place: Path) -> None:
    listener = Listener()
    sensor = start("egress: {default: deny, allow: []}\nresponse: {action: kill}")
    bystander = start_in(place, ["/bin/sleep", "300"])
    python_in(place, CONNECT, "127.0.0.1", listener.port)
    assert bystander.wait(30) == -9
    alert = alert_named(sensor, "Destination outside the agent's limits")
    assert (alert["response"]["action"], alert["response"]["outcome"]) == ("kill", "done")
    assert not listener.was_reached()


RESOLVE = """
import socket, struct, sys
server, name, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(10)
question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\\0\\0\\1\\0\\1"
asked.sendto(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + question, (server, 53))
answer = asked.recv(512)
try:
    socket.create_connection((socket.inet_ntoa(answer[-4:]), port), 5).close()
    print("connected")
except OSError as error:
    print(error.strerror)
"""
HOST = "127.9.9.9"


@pytest.fixture
def name_server() -> Iterator[str]:
    """Answers every question with a chain of aliases that ends at HOST."""
    address = "127.7.7.7"
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    server.settimeout(0.2)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                query, client = server.recvfrom(512)
                question = query[12:]
                alias = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\7\4real\xc0\x0c"
                record = b"\4real\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(HOST)
                server.sendto(query[:2] + b"\x81\x80\0\1\0\2\0\0\0\0" + question + alias + record, client)

    thread = threading.Thread(target=serve)
    thread.start()
    yield address
    over.set()
    thread.join()
    server.close()


@pytest.mark.parametrize(
    "case",
    [
        ("pypi.test:{port}", "pypi.test", True),
        ("pypi.test", "PyPI.Test", True),
        ("'*.test:{port}'", "files.pypi.test", True),
        ("'*.test:{port}'", "test", False),
        ("pypi.test:1", "pypi.test", False),
        ("pypi.test:{port}", "evil.test", False),
        ("pypi.test:{port}", "x.pypi.test", False),
    ],
)
def test_a_named_host_is_where_the_trusted_resolver_says(
    start: Start, place: Path, tmp_path: Path, name_server: str, case: tuple[str, str, bool]
) -> None:
    """The connection follows the answer at once, so that only the kernel can have learned from it."""
    allow, asked, reached = case
    listener = Listener(HOST)
    (tmp_path / "sensor.yml").write_text(f"alert_window_s: 0\nresolvers: ['{name_server}']\n")
    start(f"egress: {{default: deny, allow: [{allow.format(port=listener.port)}]}}")
    answer = said(place, RESOLVE, name_server, asked, listener.port)
    assert (answer, listener.was_reached()) == (("connected", True) if reached else (os.strerror(1), False))


def test_another_resolver_says_nothing(start: Start, place: Path, tmp_path: Path, name_server: str) -> None:
    listener = Listener(HOST)
    (tmp_path / "sensor.yml").write_text("alert_window_s: 0\nresolvers: ['127.0.0.53']\n")
    start(f"egress: {{default: deny, allow: [pypi.test, {name_server}]}}")
    assert said(place, RESOLVE, name_server, "pypi.test", listener.port) == os.strerror(1)
    assert not listener.was_reached()


RULE = """
title: Forbidden program
id: 6f1d3c1e-29b1-4a1e-9d55-0d3f3b9d6a11
logsource: {{product: linux, category: process_creation}}
detection:
  selection:
    {field}: {value}
  condition: selection
level: high
response: {{action: {action}, scope: process}}
"""


@pytest.mark.parametrize(
    "where", [("Image|endswith", "/FORBIDDEN"), ("Image", "{program}"), ("Image|startswith", "{directory}/")]
)
@pytest.mark.parametrize("action", ["deny", "kill"])
def test_a_rule_on_a_name_alone_is_decided_before_the_first_instruction(
    launch: Launch, cgroup: Path, tmp_path: Path, where: tuple[str, str], action: str
) -> None:
    """The sensor is stopped at the time, so only the kernel can have ended it; its own verdict is the same."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "rules").mkdir()
    program, mark = tmp_path / "bin" / "forbidden", tmp_path / "mark"
    shutil.copy(shutil.which("touch") or "/usr/bin/touch", program)
    field, value = where[0], where[1].format(program=program, directory=program.parent)
    (tmp_path / "rules" / "rule.yml").write_text(RULE.format(field=field, value=value, action=action))
    sensor = launch(f"--rules={tmp_path / 'rules'}", "--mode=enforce")
    sensor.process.send_signal(signal.SIGSTOP)
    assert start_in(cgroup, [program, mark]).wait(30) == -9
    assert not mark.exists()
    sensor.process.send_signal(signal.SIGCONT)
    alert = alert_named(sensor, "Forbidden program")
    assert (alert["response"]["action"], alert["response"]["outcome"]) == (action, "done")
    assert "was kept from running" in alert["event"]["reason"]
    assert subprocess.run([program, mark], check=False).returncode == 0, "outside the sensor's scope"


def test_in_monitor_mode_a_forbidden_program_runs(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    rule = RULE.format(field="Image|endswith", value="/true", action="deny")
    (tmp_path / "rules" / "rule.yml").write_text(rule)
    sensor = launch(f"--rules={tmp_path / 'rules'}", "--mode=monitor")
    assert start_in(cgroup, ["/bin/true"]).wait(30) == 0
    alert = alert_named(sensor, "Forbidden program")
    assert (alert["response"]["action"], alert["response"]["outcome"]) == ("deny", "would")


FAST_OPEN = """
import socket, sys
client = socket.socket()
try:
    client.settimeout(2)
    client.sendto(b"x", socket.MSG_FASTOPEN, (sys.argv[1], int(sys.argv[2])))
    print("sent")
except OSError as error:
    print(type(error).__name__)
"""
PING = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
try:
    sender.sendto(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0", (sys.argv[1], 0))
    print("sent")
except OSError as error:
    print(error.strerror)
"""


def test_what_connects_without_connect_is_denied_too(start: Start, place: Path) -> None:
    listener = Listener()
    sensor = start("egress: {default: deny, allow: []}")
    assert said(place, FAST_OPEN, "127.0.0.1", listener.port) != "sent"
    assert not listener.was_reached()
    alert = alert_named(sensor, "Destination outside the agent's limits")
    assert alert["destination"]["port"] == listener.port and alert["response"]["outcome"] == "done"


def test_a_raw_socket_is_denied_too(start: Start, place: Path) -> None:
    sensor = start("egress: {default: deny, allow: []}")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as heard:
        heard.bind(("127.3.3.3", 0))
        heard.settimeout(1)
        assert said(place, PING, "127.3.3.3") == os.strerror(1)
        with pytest.raises(TimeoutError):
            heard.recv(100)
    alert = alert_named(sensor, "Destination outside the agent's limits")
    assert alert["network"]["transport"] == "icmp"
