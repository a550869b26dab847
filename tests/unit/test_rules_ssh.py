"""The rules on ssh tunnels agree with OpenSSH itself: `ssh -G` parses as `ssh` does, prints, and does not connect."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from sensor.cli.samples import Sample, read_samples
from sensor.config import shipped_rules_dir
from sensor.events import ProcessCreation
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher

REMOTE_FORWARD = "8f11a592-d0af-42b5-bea1-6321208d3c07"
TUNNEL_DEVICE = "653145e5-0f75-4046-9592-fecfb50ed372"

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh to compare with")


@lru_cache
def matcher() -> Matcher:
    return Matcher(load_rules([shipped_rules_dir()]))


def rules_say(args: list[str]) -> set[str]:
    event = ProcessCreation(time=0, image="/usr/bin/ssh", args=args, command_line=" ".join(args))
    return {verdict.rule.id for verdict in matcher().match(event)} & {REMOTE_FORWARD, TUNNEL_DEVICE}


def openssh_says(args: list[str], cwd: Path) -> set[str] | None:
    """What these arguments ask for, or None where ssh refuses them."""
    command = ["ssh", "-G", "-F", "none", *args[1:]]
    done = subprocess.run(command, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    if done.returncode:
        return None
    config = done.stdout.decode(errors="replace")
    asked = {REMOTE_FORWARD} if re.search(r"^remoteforward ", config, re.M) else set()
    return asked | ({TUNNEL_DEVICE} if re.search(r"^tunnel (?!false)", config, re.M) else set())


def samples() -> list[Sample]:
    found = []
    for rule_id in (REMOTE_FORWARD, TUNNEL_DEVICE):
        events, faults = read_samples(Path(shipped_rules_dir(), "samples", f"{rule_id}.yml"))
        assert not faults
        found += [sample for sample in events if sample.event.image == "/usr/bin/ssh"]
    return found


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: " ".join(sample.event.args))
def test_openssh_reads_each_sample_as_the_rules_do(sample: Sample, tmp_path: Path) -> None:
    args = sample.event.args
    assert args is not None
    says = openssh_says(args, tmp_path)
    if says is None and sample.expected == "no_match":
        return
    if any(arg.startswith("-P") for arg in args):  # a flag up to OpenSSH 9.3, with an argument since 9.4
        assert rules_say(args)
        return
    assert says == rules_say(args)


FLAGS = st.text("1246AaCfgKkMNnqTtvXxYy", min_size=1, max_size=6)
MAYBE_FLAGS = st.one_of(st.just(""), FLAGS)
WITH_ARGUMENT = st.sampled_from(
    [
        *[
            ("L", "8080:localhost:80"),
            ("L", "1:R:2"),
            ("D", "1080"),
            ("p", "22"),
            ("l", "Root"),
            ("l", "-R"),
            ("l", "w0"),
        ],
        *[("i", "keyR"), ("i", "a b -R 9"), ("i", "-R"), ("i", "wR"), ("E", "logR"), ("S", "none"), ("b", "127.0.0.1")],
        *[("e", "R"), ("B", "lo"), ("c", "aes128-ctr"), ("m", "hmac-sha2-256"), ("J", "jump"), ("I", "lib.so")],
        *[("R", "9000"), ("R", "9000:localhost:22"), ("R", "*:9000:a:22"), ("R", "[::1]:9000:a:22")],
        *[("R", "/tmp/a:/tmp/b"), ("R", "9000:/tmp/b"), ("R", "0:a:1"), ("w", "0:0"), ("w", "any"), ("w", "1")],
    ]
)
KEYWORDS = st.sampled_from(
    [
        *["RemoteForward", "remoteforward", "REMOTEFORWARD", '"RemoteForward"', 'Remote"Forward"'],
        *["Tunnel", '"tunnel"', "TunnelDevice", "LocalForward", "LogLevel", "ExitOnForwardFailure"],
        *["RemoteCommand", "SetEnv", "User"],
    ]
)
VALUES = st.sampled_from(
    [
        "9000",
        "9000 localhost:22",
        '"9000"',
        "yes",
        '"yes"',
        "'yes'",
        "ethernet",
        "point-to-point",
        "ERROR",
        "A=-R",
        "any",
    ]
)
SEPARATORS = st.sampled_from(["=", " ", " = ", "\t", "  ", "= ", " =", "\n", "=\t"])
LEADS = st.sampled_from(["", "", "", " ", "\t ", "=", " = "])
SETTING = st.tuples(LEADS, KEYWORDS, SEPARATORS, VALUES).map(lambda parts: ("o", "".join(parts)))


def spelled(flags: str, option: tuple[str, str], glued: bool) -> list[str]:
    letter, argument = option
    return [f"-{flags}{letter}{argument}"] if glued else [f"-{flags}{letter}", argument]


OPTION = st.one_of(
    FLAGS.map(lambda flags: [f"-{flags}"]),
    st.builds(spelled, MAYBE_FLAGS, WITH_ARGUMENT, st.booleans()),
    st.builds(spelled, MAYBE_FLAGS, SETTING, st.booleans()),
)
OPTIONS = st.lists(OPTION, max_size=4).map(lambda options: [arg for option in options for arg in option])
TAIL = st.lists(st.sampled_from(["ls", "-R", "9000", "-oRemoteForward=1", "-w", "0:0", "--", "-", "ssh"]), max_size=4)

compare = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@given(before=OPTIONS, end=st.sampled_from([[], [], ["--"]]), after=OPTIONS, tail=TAIL)
@example(before=["-o", "ServerAliveInterval 60"], end=[], after=["-R", "9000"], tail=[])
@example(before=[], end=["--"], after=["-R", "9000"], tail=[])
@compare
def test_openssh_and_the_rules_agree_on_any_options(
    before: list[str], end: list[str], after: list[str], tail: list[str], tmp_path: Path
) -> None:
    args = ["ssh", *before, *end, "user@host", *after, *tail]
    says = openssh_says(args, tmp_path)
    assume(says is not None)
    assert says == rules_say(args)


PIECES = st.sampled_from(
    [
        *[*' \t="-oRwNvTi', "", "--", "-R", "-o", "-w", "-N", "-l", "-i", "-4", "host", "9000", "9000:a:1", "yes"],
        *["RemoteForward", "remoteforward", "Tunnel", "-oRemoteForward=1"],
    ]
)
ARGUMENT = st.lists(PIECES, min_size=1, max_size=4).map("".join)


@given(args=st.lists(ARGUMENT, max_size=6))
@compare
def test_no_arguments_get_a_tunnel_past_the_rules(args: list[str], tmp_path: Path) -> None:
    args = ["ssh", *args]
    says = openssh_says(args, tmp_path)
    assume(says is not None)
    assert rules_say(args) >= (says or set())
