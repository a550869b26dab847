"""Work that is fed from another host and uses a service on its own raises nothing above `low`.

These look most like a reverse tunnel: they hold a connection to another host and, upon what comes in on it, connect
to loopback. What they send back is their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from benign_helpers import BETWEEN, OUTSIDE, PROGRAMS, PYTHON, Host, Place, Site, Work, free_port
from sensor_helpers import wait_for

pytestmark = pytest.mark.kernel

REDIS = "/usr/bin/redis-check-rdb"
"""Debian's redis-tools has the server too: what the program does goes by the name that it is called by."""


def redis(work: Work, host: Host, address: str, *options: str) -> int:
    """The port of a new Redis."""
    port, program = free_port(), work.directory / "redis-server"
    if not program.exists():
        program.symlink_to(REDIS)
    memory = ("--save", "", "--dir", str(work.directory), "--protected-mode", "no", "--repl-diskless-sync-delay", "0")
    work.start(host, program, "--port", str(port), "--bind", address, *memory, *options)
    work.listening(host, port, address)
    return port


@dataclass(frozen=True)
class Services:
    """A queue on the peer and a database on the node's loopback."""

    place: Place
    work: Work
    queue: int
    database: int


@pytest.fixture(scope="module")
def services(site: Site, place: Place) -> Services:
    work = site.work("redis")
    queue = redis(work, place.peer, place.peer.address)
    return Services(place, work, queue, redis(work, place.node, "127.0.0.1"))


@BETWEEN
def test_jobs_from_a_queue(site: Site, services: Services) -> None:
    work, node, peer = site.work("queue"), services.place.node, services.place.peer
    queue = ("redis-cli", "-h", peer.address, "-p", str(services.queue))
    database = ("redis-cli", "-p", str(services.database))
    work.run(node, *database, "SET", "a-text", "some words " * 500)
    worker = [sys.executable, PROGRAMS / "queue_worker.py", peer.address, str(services.queue), str(services.database)]
    running = work.start(node, *worker, "12")
    for number in range(12):
        work.run(peer, *queue, "RPUSH", "jobs", json.dumps({"id": number, "document": "a-text"}))
    assert running.wait(60) == 0
    results = work.run(peer, *queue, "LRANGE", "results", "0", "-1").splitlines()
    assert [json.loads(result)["words"] for result in results] == [1000] * 12
    both = [(PYTHON, services.place.scope), (PYTHON, "loopback")]
    work.quiet("redis-cli", connects=both)


@BETWEEN
def test_a_replica_and_its_readers(site: Site, services: Services) -> None:
    work, place = site.work("replica"), services.place
    master = ("redis-cli", "-h", place.peer.address, "-p", str(services.queue))
    port = redis(work, place.node, "127.0.0.1", "--replicaof", f"{place.peer.address} {services.queue}")
    for number in range(5):
        work.run(place.peer, *master, "SET", f"key{number}", "value " * 1000)
    reader = ("redis-cli", "-p", str(port), "GET", "key4")
    wait_for(lambda: work.run(place.node, *reader).startswith("value"), "it is replicated")
    work.quiet("redis-cli", connects=[("/redis-check-rdb", place.scope), ("/redis-cli", "loopback")])


@BETWEEN
def test_forked_workers_behind_one_port(site: Site, services: Services) -> None:
    work, port, place = site.work("prefork"), free_port(), services.place
    work.serve(place.node, "prefork_server.py", port, services.database)
    pages = f"http://{place.node.address}:{port}/?[1-60]"
    answers = work.run(place.peer, "curl", "-sS", "-Z", "--parallel-immediate", "--parallel-max", "10", pages)
    assert answers.count("visit") == 60 and len({line.split(",")[0] for line in answers.splitlines()}) > 1
    work.quiet("curl", connects=[(PYTHON, "loopback"), ("/curl", place.scope)])


@OUTSIDE
def test_a_pool_of_processes(site: Site, services: Services) -> None:
    work = site.work("pool")
    code = "import multiprocessing, os; print(len(multiprocessing.Pool(4).map(os.stat, ['/'] * 200)))"
    assert work.run(services.place.node, sys.executable, "-c", code) == "200\n"
    work.quiet(PYTHON[1:])


@OUTSIDE
@pytest.mark.parametrize("shell", ["each", "terminal"])
def test_an_agent_that_uses_tools(site: Site, services: Services, tmp_path: Path, shell: str) -> None:
    work, place, port = site.work("agent"), services.place, free_port()
    certificate = tmp_path / "cert.pem"
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=model.test")
    named = ("-addext", "subjectAltName=DNS:model.test", "-keyout", certificate, "-out", certificate)
    subprocess.run(["openssl", "req", "-x509", *new, *named], check=True, capture_output=True)
    site.work("model").serve(place.peer, "slow_api.py", port, certificate)
    arguments = (place.peer.address, port, certificate, services.database, shell)
    assert "  -" in work.python(place.node, "tool_agent.py", *arguments)
    work.quiet("bash", "md5sum", connects=[(PYTHON, place.scope), (PYTHON, "loopback")])
    assert work.seen("network_payload", ApplicationProtocol="tls", Image=PYTHON)


@OUTSIDE
def test_measurements_that_are_collected_and_handed_on(site: Site, services: Services, tmp_path: Path) -> None:
    work, place, port, outer = site.work("metrics"), services.place, free_port(), free_port()
    site.work("collector").serve(place.peer, "collector.py", outer, tmp_path / "got")
    work.serve(place.node, "metrics_agent.py", port, place.peer.address, outer)
    step = f"exec 3<>/dev/tcp/127.0.0.1/{port}; for n in 1 2 3 4 5; do echo loss $n >&3; read -u3; sleep 0.1; done"
    work.run(place.node, "bash", "-c", step)
    wait_for(lambda: b"loss 5" in (tmp_path / "got").read_bytes(), "all was handed on")
    work.quiet("bash", connects=[("/bash", "loopback"), (PYTHON, place.scope)])


@BETWEEN
def test_an_all_reduce_over_two_hosts(site: Site, services: Services) -> None:
    """Two ranks on the node, one on the peer."""
    work, place = site.work("ring"), services.place
    hosts = [(place.peer, place.peer.address), (place.node, place.node.address), (place.node, "127.0.0.1")]
    ports = [free_port() for _ in hosts]
    ranks = []
    for rank, (host, _) in enumerate(hosts):
        following = (rank + 1) % len(hosts)
        onward = (hosts[following][1], str(ports[following]))
        program = (sys.executable, PROGRAMS / "ring.py", str(rank), str(len(hosts)), str(ports[rank]))
        ranks.append(work.start(host, *program, *onward, "10"))
    assert [rank.wait(60) for rank in ranks] == [0] * len(hosts)
    work.quiet(connects=[(PYTHON, place.scope), (PYTHON, "loopback")])
