"""Reverse tunnels by behaviour, live: real SSH clients and hand-made tunnels between two network namespaces."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_helpers import FAR, FAR_PRIVATE, NEAR_PRIVATE, PROGRAMS, Lab, SshServer
from sensor_helpers import Launch, alerts_of, members, wait_for

from sensor.cli.staging import Sensor, throwaway_cgroup

pytestmark = pytest.mark.kernel

SSH_PORT, SERVICE, DATABASE = 2222, 8001, 5432
TURNS = 12
PORTS = itertools.count(4000)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("relay")
    (directory / "sensor.yml").write_text("alert_window_s: 0\n")
    with throwaway_cgroup(f"hostbrake-test-{uuid.uuid4().hex[:12]}") as cgroup:
        sensor = Sensor(directory, cgroup, f"--state-dir={directory}/state", f"--events={directory}/events.jsonl")
        try:
            sensor.wait_ready()
            lab = Lab(cgroup, directory, sensor)
            lab.python("near", "service", "tunnel.py", "serve", SERVICE)
            lab.listening("near", SERVICE)
            yield lab
        finally:
            assert sensor.stop() == 0


@pytest.fixture(scope="module")
def ssh_server(lab: Lab) -> SshServer:
    return SshServer(lab, lab.directory / "ssh", SSH_PORT)


def ask(lab: Lab, port: int, host: str = "far", work: str = "far", times: int = TURNS) -> None:
    """Use what is at the end of the tunnel."""
    lab.run(host, work, sys.executable, PROGRAMS / "tunnel.py", "ask", str(port), str(times))


def told(lab: Lab, work: str, times: int = 10) -> dict[str, Any]:
    """The relay that was said to have passed something on so often."""
    found = wait_for(lambda: [e for e in lab.relays(work) if e["RelayExchanges"] >= times], f"a relay in {work}")
    return dict(found[0])


def renamed(program: str, directory: Path) -> Path:
    path = directory / "trainer"
    shutil.copy(shutil.which(program) or program, path)
    return path


def openssh(program: str | Path, server: SshServer, listen: int) -> list[str | Path]:
    return [program, *server.options(), "-N", "-R", f"{listen}:127.0.0.1:{SERVICE}", f"root@{FAR}"]


def dropbear(program: str | Path, server: SshServer, listen: int) -> list[str | Path]:
    key = server.directory / "dropbear_key"
    if not key.exists():
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", key], check=True, capture_output=True)
        shown = subprocess.run(["dropbearkey", "-y", "-f", key], check=True, capture_output=True, text=True).stdout
        public = next(line for line in shown.splitlines() if line.startswith("ssh-ed25519"))
        with (server.directory / "authorized_keys").open("a") as keys:
            keys.write(public + "\n")
    forward = f"{listen}:127.0.0.1:{SERVICE}"
    return [program, "-y", "-y", "-i", key, "-N", "-R", forward, "-p", str(server.port), f"root@{FAR}"]


CLIENT, PROGRAM = "SSH client lets the other side in", "Program with SSH of its own lets the other side in"


COMMANDS = {"ssh": openssh, "dbclient": dropbear}


@pytest.mark.parametrize("other_name", [False, True], ids=["own-name", "other-name"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_remote_forward_of_an_ssh_client(
    lab: Lab, ssh_server: SshServer, tmp_path: Path, name: str, other_name: bool
) -> None:
    work, listen = f"{name}-{other_name}", next(PORTS)
    lab.start("near", work, *COMMANDS[name](renamed(name, tmp_path) if other_name else name, ssh_server, listen))
    lab.bound("far", listen)
    ask(lab, listen)
    relay = told(lab, work)
    assert relay["RelayIp"] == "127.0.0.1" and relay["RelayPort"] == SERVICE and relay["RelayInitiated"]
    assert (relay["DestinationIp"], relay["DestinationPort"]) == (FAR, SSH_PORT)
    assert relay["RelayPrompted"] and not relay["RelayShared"] and relay["ApplicationProtocol"] == "ssh"
    assert Path(relay["Image"]).name == ("trainer" if other_name else Path(shutil.which(name) or "").resolve().name)
    assert lab.loud(work)[CLIENT] == "critical"


def test_a_remote_forward_of_a_client_that_has_gone_into_the_background(lab: Lab, ssh_server: SshServer) -> None:
    listen = next(PORTS)
    program, *rest = openssh("ssh", ssh_server, listen)
    assert lab.start("near", "background", program, "-f", *rest).wait(60) == 0
    ask(lab, listen, times=110)
    assert told(lab, "background")["RelayShared"], "another process went on"
    assert lab.loud("background")[CLIENT] == "critical"


def test_a_remote_forward_by_an_ssh_library(lab: Lab, ssh_server: SshServer) -> None:
    listen = next(PORTS)
    key = ssh_server.directory / "user_key"
    lab.python("near", "library", "ssh_forward.py", FAR, ssh_server.port, key, listen, SERVICE)
    lab.bound("far", listen)
    ask(lab, listen, times=110)
    told(lab, "library")
    assert lab.loud("library")[PROGRAM] == "critical"


@pytest.fixture(scope="module")
def certificate(lab: Lab) -> Path:
    path = lab.directory / "certificate.pem"
    key = lab.directory / "certificate.key"
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=far -days 2"
    subprocess.run(["openssl", *kind.split(), "-keyout", key, "-out", path], check=True, capture_output=True)
    path.write_text(path.read_text() + key.read_text())
    return path


CLEAR, ENCRYPTED = "Reverse tunnel in the clear", "Reverse tunnel in a protocol that says nothing"
LIKELY, BETWEEN = "Connection that lets the other side in", "Two hosts outside joined by this one"
INSIDE = "Connections joined inside the site"


def tunnel(lab: Lab, work: str, how: str, to: str, service: tuple[str, int], *pem: Path, quiet_s: float = 0) -> int:
    """Use a tunnel of a few lines, after a while; gives the port of its outer connection."""
    port, users = next(PORTS), next(PORTS)
    lab.python("far", "far", "tunnel.py", "far", port, users, *pem)
    lab.bound("far", port)
    lab.python("near", work, "tunnel.py", "near", how, to, port, *service)
    lab.connected("near", port)
    lab.bound("far", users)
    time.sleep(quiet_s)
    ask(lab, users, times=110)
    return port


@pytest.mark.parametrize(
    ("how", "protocol", "rules"),
    [
        ("plain", "unknown", {CLEAR: "critical", LIKELY: "high"}),
        ("both", "unknown", {CLEAR: "critical", LIKELY: "high"}),
        ("child", "unknown", {CLEAR: "critical", LIKELY: "high"}),
        ("sibling", "unknown", {CLEAR: "critical", LIKELY: "high"}),
        ("tls", "tls", {ENCRYPTED: "critical", LIKELY: "high"}),
        ("named", "tls", {LIKELY: "high"}),
    ],
)
def test_a_tunnel_of_a_few_lines(lab: Lab, certificate: Path, how: str, protocol: str, rules: dict[str, str]) -> None:
    port = tunnel(lab, how, how, FAR, ("127.0.0.1", SERVICE), *([certificate] if protocol == "tls" else []))
    relay = told(lab, how)
    assert (relay["DestinationIp"], relay["DestinationPort"], relay["RelayPort"]) == (FAR, port, SERVICE)
    assert relay["ApplicationProtocol"] == protocol and relay["RelayScope"] == "loopback"
    assert relay["RelayShared"] == (how in ("child", "sibling")) and relay["RelayPrompted"] == (how != "both")
    assert lab.loud(how) == rules


def test_a_connection_says_who_had_spoken_unasked(lab: Lab) -> None:
    port = tunnel(lab, "prompted", "plain", FAR, ("127.0.0.1", SERVICE), quiet_s=0.6)
    told(lab, "prompted")
    (inner,) = lab.seen("prompted", "network_connection", DestinationPort=SERVICE)
    assert (inner["PromptedByIp"], inner["PromptedByPort"], inner["PromptedByScope"]) == (FAR, port, "external")
    assert inner["PromptedMs"] >= 0 and not inner["PromptedCgroup"]
    (outer,) = lab.seen("prompted", "network_connection", DestinationPort=port)
    assert "PromptedByIp" not in outer


def test_two_hosts_outside_that_are_joined(lab: Lab) -> None:
    service = next(PORTS)
    lab.python("far", "far", "tunnel.py", "serve", service)
    lab.bound("far", service)
    tunnel(lab, "between", "plain", FAR, (FAR, service))
    assert told(lab, "between")["RelayScope"] == "external"
    assert lab.loud("between") == {BETWEEN: "high"}


def test_hosts_of_the_site_that_are_joined(lab: Lab) -> None:
    service = next(PORTS)
    lab.python("far", "far", "tunnel.py", "serve", service)
    lab.bound("far", service)
    tunnel(lab, "inside", "plain", FAR_PRIVATE, (FAR_PRIVATE, service))
    assert lab.raised("inside") == {INSIDE: "low"}
    tunnel(lab, "inward", "plain", FAR_PRIVATE, ("127.0.0.1", SERVICE))
    assert lab.loud("inward") == {LIKELY: "high"}


def test_a_listener_whose_traffic_goes_out_elsewhere(lab: Lab) -> None:
    port, users = next(PORTS), next(PORTS)
    lab.python("far", "far", "tunnel.py", "serve", port)
    lab.bound("far", port)
    lab.python("near", "listener", "tunnel.py", "listener", FAR, port, users)
    lab.bound("near", users)
    ask(lab, users, host="near", work="user")
    relay = told(lab, "listener")
    assert not relay["RelayInitiated"] and relay["RelayPort"] == users and relay["DestinationPort"] == port
    assert lab.loud("listener") == {"Listener whose connections go out through an older one": "medium"}


def test_a_local_forward(lab: Lab, ssh_server: SshServer) -> None:
    port, users = next(PORTS), next(PORTS)
    lab.python("far", "far", "tunnel.py", "serve", port)
    command = ["ssh", *ssh_server.options(), "-N", "-L", f"{users}:127.0.0.1:{port}", f"root@{FAR}"]
    lab.start("near", "forward", *command)
    lab.bound("near", users)
    lab.bound("far", port)
    for work in ("user", "forward"):
        ask(lab, users, host="near", work=work, times=40)
    assert not told(lab, "forward")["RelayInitiated"]
    raised = lab.raised("forward")
    assert raised.pop("SSH client takes this host's connections out") == "low"
    assert set(raised) == {"SSH to a port other than 22 outside the site"}


@pytest.fixture(scope="module")
def database(lab: Lab) -> int:
    lab.python("near", "service", "no_tunnel.py", "database", DATABASE)
    lab.bound("near", DATABASE)
    return DATABASE


@pytest.mark.parametrize("address", [FAR, FAR_PRIVATE], ids=["external", "private"])
@pytest.mark.parametrize("kind", ["small", "store"])
def test_a_worker_with_a_database_is_no_tunnel(lab: Lab, database: int, kind: str, address: str) -> None:
    work, port = f"{kind}-{address}", next(PORTS)
    lab.python("far", "far", "no_tunnel.py", "queue", port, kind, 120)
    lab.bound("far", port)
    lab.python("near", work, "no_tunnel.py", "worker", kind, address, port, database).wait(60)
    assert told(lab, work, times=100)["RelayPort"] == database, "it does look like one, but for the sizes"
    assert lab.loud(work) == {}


def test_an_agent_with_a_slow_model_and_a_database_is_no_tunnel(lab: Lab, database: int) -> None:
    port = next(PORTS)
    lab.python("far", "far", "no_tunnel.py", "model", port, 6)
    lab.bound("far", port)
    assert lab.python("near", "agent", "no_tunnel.py", "agent", FAR, port, database, 6).wait(60) == 0
    assert lab.loud("agent") == {}


def test_a_collective_is_no_tunnel(lab: Lab) -> None:
    """Ring and chain of four ranks, two on each host: what comes from one goes to the next, word for word."""
    places = {NEAR_PRIVATE: "near", FAR_PRIVATE: "far", "10.77.0.2": "near", "10.77.0.8": "far"}
    lab.address("near", "10.77.0.2")
    lab.address("far", "10.77.0.8")
    ranks = [
        lab.python(host, f"rank-{host}", "no_tunnel.py", "rank", place, 60, *places) for place, host in places.items()
    ]
    assert [rank.wait(60) for rank in ranks] == [0] * 4
    assert lab.loud("rank-near") == lab.loud("rank-far") == {}


@pytest.mark.parametrize("backend", ["loopback", "external"])
def test_a_proxy_is_no_tunnel(lab: Lab, backend: str) -> None:
    port, behind = next(PORTS), next(PORTS)
    host, address = ("near", "127.0.0.1") if backend == "loopback" else ("far", FAR)
    lab.python(host, "behind", "tunnel.py", "serve", behind)
    lab.bound(host, behind)
    work = f"proxy-{backend}"
    lab.python("near", work, "no_tunnel.py", "proxy", port, address, behind)
    lab.bound("near", port)
    for _ in range(3):
        ask(lab, port, host="near", work="user", times=10)
    assert lab.loud(work) == {}


def test_ssh_that_runs_a_command_and_copies_is_no_relay(lab: Lab, ssh_server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    for number in range(4):
        command = ["ssh", *ssh_server.options(), f"root@{FAR}", f"head -c {number * 1000} /dev/zero"]
        assert len(lab.run("near", "commands", *command)) == number * 1000
    options = [option if option != "-p" else "-P" for option in ssh_server.options()]
    lab.run("near", "commands", "scp", "-O", *options, tmp_path / "file", f"root@{FAR}:{tmp_path}/copy")
    lab.judged("commands")
    assert lab.relays("commands") == []


def test_a_tunnel_is_killed(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    """Enforced: of the workload that let the other side in nothing is left, and the alert says so."""
    sensor = launch("--mode=enforce", f"--events={tmp_path}/events.jsonl")
    lab = Lab(cgroup, tmp_path, sensor)
    lab.python("near", "service", "tunnel.py", "serve", SERVICE)
    port, users = next(PORTS), next(PORTS)
    lab.python("far", "far", "tunnel.py", "far", port, users)
    lab.bound("near", SERVICE)
    lab.bound("far", port)
    bystander = lab.start("near", "work", "sleep", "300")
    tunnel = lab.python("near", "work", "tunnel.py", "near", "plain", FAR, port, "127.0.0.1", SERVICE)
    lab.bound("far", users)
    asking = lab.python("far", "far", "tunnel.py", "ask", users, 100_000)
    assert tunnel.wait(60) == bystander.wait(60) == -signal.SIGKILL
    assert asking.wait(60) == 1, "it is cut off"
    wait_for(lambda: members(cgroup / "work") == [], "the workload is gone")
    alert, *_ = wait_for(
        lambda: [a for a in alerts_of(sensor.alerts, cgroup / "work") if a["rule"]["name"] == CLEAR], "its alert"
    )
    assert alert["response"]["action"] == "kill" and alert["response"]["outcome"] == "done"
    assert alert["destination"]["ip"] == FAR and alert["event"]["action"] == "relay"
    assert f"relayed between {FAR}:{port} (external tcp) and 127.0.0.1:{SERVICE} (loopback)" in alert["event"]["reason"]
