"""ssh, scp, sftp, rsync and git over ssh, to a real sshd, raise nothing above `low`; a reverse tunnel there does.

A local forward (ssh -L) counts as ordinary: it lets nobody in.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from benign_helpers import BETWEEN, INSIDE, OUTSIDE, Place, Site, Work, free_port, git_round
from sensor_helpers import alerts_of, wait_for

pytestmark = pytest.mark.kernel


@dataclass(frozen=True)
class Remote:
    """A host with a real sshd; `options` name the client's configuration, in which it is called `there`."""

    place: Place
    options: tuple[str, str]
    server: Work


@pytest.fixture(scope="module")
def remote(site: Site, place: Place) -> Remote:
    server = site.work("sshd")
    keys = server.directory
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / key], check=True)
    port = free_port() if place.scope == "loopback" else 22  # elsewhere that would be told, external
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (keys / "sshd_config").write_text(
        f"Port {port}\nListenAddress {place.peer.address}\nHostKey {keys}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {keys}/user_key.pub\nStrictModes no\nPermitRootLogin yes\n"
        "Subsystem sftp /usr/lib/openssh/sftp-server\n"
    )
    server.start(place.peer, "/usr/sbin/sshd", "-D", "-e", "-f", keys / "sshd_config")
    server.listening(place.peer, port, place.peer.address)
    (keys / "config").write_text(
        f"Host there\n HostName {place.peer.address}\nHost *\n Port {port}\n User root\n IdentityFile {keys}/user_key\n"
        " StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n"
        " KexAlgorithms curve25519-sha256\n"  # a third of the time of the default
    )
    return Remote(place, ("-F", str(keys / "config")), server)


def talked(work: Work, remote: Remote) -> None:
    """The client was seen to speak SSH, and nothing was made of it."""
    work.quiet("ssh", connects=[("/ssh", remote.place.scope)])
    assert work.seen("network_payload", ApplicationProtocol="ssh", Image="/ssh")


@INSIDE
def test_one_command(site: Site, remote: Remote) -> None:
    work, node = site.work("command"), remote.place.node
    assert work.run(node, "ssh", *remote.options, "there", "cat", text="a line\n") == "a line\n"
    assert "pts" in work.run(node, "ssh", *remote.options, "-tt", "there", "tty; stty size")
    follow = "for n in 1 2 3 4; do echo $n; sleep 0.2; done; ls -R /etc | sort | tail -200"
    assert work.run(node, "ssh", *remote.options, "there", follow).startswith("1\n2\n3\n")
    talked(work, remote)
    assert remote.server.seen("process_creation", Image="/sort")


@BETWEEN
def test_a_session_that_stays(site: Site, remote: Remote) -> None:
    """It goes on beside the other tests; the site's end judges it, too."""
    work = site.work("session")
    work.start(remote.place.node, "ssh", *remote.options, "there", "while sleep 0.5; do uptime; done")
    wait_for(lambda: len(remote.server.seen("process_creation", Image="/uptime")) > 1, "the session")
    talked(work, remote)


@OUTSIDE
def test_one_connection_for_several_commands(site: Site, remote: Remote) -> None:
    work, node = site.work("shared"), remote.place.node
    shared = ("-o", "ControlMaster=auto", "-o", f"ControlPath={work.directory}/s", "-o", "ControlPersist=2")
    for number in range(3):
        assert work.run(node, "ssh", *remote.options, *shared, "there", f"echo {number}") == f"{number}\n"
    work.run(node, "ssh", *remote.options, *shared, "-O", "exit", "there")
    talked(work, remote)


@OUTSIDE
def test_by_way_of_another_host(site: Site, remote: Remote) -> None:
    work, node = site.work("jump"), remote.place.node
    there = remote.place.peer.address
    assert work.run(node, "ssh", *remote.options, "-J", "there", there, "echo inside") == "inside\n"
    talked(work, remote)


@OUTSIDE
def test_local_forward(site: Site, remote: Remote) -> None:
    work, place = site.work("forward"), remote.place
    inner, outer = free_port(), free_port()
    remote.server.serve_files(place.peer, inner, "127.0.0.1", remote.server.directory)
    tunnel = work.start(place.node, "ssh", *remote.options, "-N", "-L", f"{outer}:127.0.0.1:{inner}", "there")
    work.listening(place.node, outer)
    for _ in range(3):
        assert "Directory listing" in work.run(place.node, "curl", "-sS", f"http://127.0.0.1:{outer}/")
    tunnel.terminate()
    tunnel.wait(30)
    talked(work, remote)


@OUTSIDE
def test_copies(site: Site, remote: Remote) -> None:
    work, node = site.work("copies"), remote.place.node
    far = remote.server.directory
    (work.directory / "data").write_bytes(bytes(range(256)) * 4096)
    work.run(node, "scp", *remote.options, "data", f"there:{far}/by-scp")
    work.run(node, "scp", *remote.options, f"there:{far}/by-scp", "back")
    batch = f"put data {far}/by-sftp\nget {far}/by-sftp again\n"
    work.run(node, "sftp", *remote.options, "-b", "-", "there", text=batch)
    original = (work.directory / "data").read_bytes()
    assert original == (work.directory / "back").read_bytes() == (work.directory / "again").read_bytes()
    talked(work, remote)
    work.quiet("scp", "sftp")


@OUTSIDE
def test_rsync_over_ssh_and_to_a_daemon(site: Site, remote: Remote) -> None:
    work, place = site.work("rsync"), remote.place
    far, tree = remote.server.directory / "mirror", work.directory / "tree"
    tree.mkdir()
    for number in range(50):
        (tree / f"file{number}").write_text(f"{number}\n" * 1000)
    shell = shlex.join(["ssh", *remote.options])
    work.run(place.node, "rsync", "-a", "-e", shell, "tree/", f"there:{far}")
    work.run(place.node, "rsync", "-az", "-e", shell, f"there:{far}/", "back")
    port = free_port()
    (far.parent / "rsyncd.conf").write_text(f"use chroot = no\nuid = 0\ngid = 0\n[mirror]\npath = {far}\n")
    daemon = ("rsync", "--daemon", "--no-detach", f"--config={far.parent}/rsyncd.conf", f"--port={port}")
    remote.server.start(place.peer, *daemon)
    remote.server.listening(place.peer, port)
    work.run(place.node, "rsync", "-a", f"rsync://{place.peer.address}:{port}/mirror/", "from-daemon")
    for name in ("back", "from-daemon"):
        assert len(list((work.directory / name).iterdir())) == 50
    talked(work, remote)
    work.quiet("rsync", connects=[("/rsync", place.scope)])


def test_git(site: Site, remote: Remote) -> None:
    work = site.work("git")
    bare = remote.server.directory / "project.git"
    git_round(work, remote.place.node, bare, f"there:{bare}", GIT_SSH_COMMAND=shlex.join(["ssh", *remote.options]))
    talked(work, remote)
    work.quiet("git")
    assert remote.server.seen("process_creation", CommandLine=f"git-receive-pack '{bare}'")


@INSIDE
def test_a_reverse_tunnel_in_the_same_place_is_told_and_ended(site: Site, remote: Remote) -> None:
    """So the tests above could fail."""
    work = site.work("tunnel")
    site.condone(work)
    tunnel = work.start(remote.place.node, "ssh", *remote.options, "-N", "-R", "0:127.0.0.1:1", "there")
    assert tunnel.wait(60) == -9
    found = wait_for(lambda: alerts_of(site.sensor.alerts, work.cgroup), "an alert")
    assert "critical" in {alert["rule"]["level"] for alert in found}
