"""What every shipped rule owes its users, and that ordinary work raises nothing."""

from __future__ import annotations

import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sensor import yamlfile
from sensor.cli.samples import Sample, read_samples
from sensor.config import shipped_rules_dir
from sensor.events import AnyEvent, from_record
from sensor.match.anchors import anchors
from sensor.match.ir import Rule
from sensor.match.load import load_rules
from sensor.match.matcher import Matcher
from sensor.verdict import SEVERITY, Verdict

RULES = list(load_rules([shipped_rules_dir()]))

by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: Path(rule.info.path).stem)


@lru_cache
def matcher() -> Matcher:
    return Matcher(RULES)


def text_of(rule: Rule) -> dict[str, Any]:
    documents, faults = yamlfile.read(rule.info.path)
    assert not faults and len(documents) == 1
    data = documents[0].data
    assert isinstance(data, dict)
    return data


@by_rule
def test_a_rule_says_who_why_and_what_else_it_might_be(rule: Rule) -> None:
    data = text_of(rule)
    assert UUID(rule.info.id).version == 4
    assert data["author"] == "Hostbrake" and data["status"] == "stable" and data["date"]
    assert len(data["description"]) > 80 and data["falsepositives"] and data["references"]
    assert data["response"]["action"] in {"alert", "kill"}
    assert data["level"] in SEVERITY and rule.info.techniques


@by_rule
def test_a_rule_is_decided_in_full_and_found_by_the_index(rule: Rule) -> None:
    assert rule.coverage.status == "full", rule.coverage.reasons
    assert anchors(rule.condition), "without an anchor its condition is tried on every event"


@by_rule
def test_only_high_rules_kill_and_no_port_does(rule: Rule) -> None:
    if rule.info.action == "kill":
        assert SEVERITY[rule.info.level] >= SEVERITY["high"]
        assert rule.category != "network_connection"


@by_rule
def test_samples_agree_with_their_rule(rule: Rule) -> None:
    samples, faults = read_samples(Path(shipped_rules_dir(), "samples", f"{rule.info.id}.yml"))
    assert not faults
    assert {sample.expected for sample in samples} == {"match", "no_match"}
    wrong = [sample for sample in samples if matches(rule, sample) != (sample.expected == "match")]
    assert not wrong


def matches(rule: Rule, sample: Sample) -> bool:
    return any(verdict.rule.id == rule.info.id for verdict in matcher().match(sample.event))


def test_names_and_ids_are_each_one_rules_own() -> None:
    assert len({rule.info.title for rule in RULES}) == len(RULES)
    samples = {path.stem for path in Path(shipped_rules_dir(), "samples").iterdir()}
    assert samples == {rule.info.id for rule in RULES}


def program(image: str, line: str, **fields: Any) -> AnyEvent:
    args = shlex.split(line)
    return from_record(
        {"category": "process_creation", "Image": image, "Args": args, "CommandLine": " ".join(args), **fields}
    )


def connection(scope: str, address: str, port: int, image: str) -> AnyEvent:
    return from_record(
        {
            "category": "network_connection",
            **{"Image": image, "Protocol": "tcp", "Initiated": True},
            **{"DestinationScope": scope, "DestinationIp": address, "DestinationPort": port},
        }
    )


JOURNAL = {"StdioSocket": True, "StdioSocketFamily": "unix"}
ORDINARY = [
    program("/usr/bin/git", "git clone git@github.com:org/tunnel.git"),
    program("/usr/bin/ssh", "ssh -o SendEnv=GIT_PROTOCOL git@github.com \"git-upload-pack 'org/tunnel.git'\""),
    program("/usr/lib/git-core/git", "git fetch-pack --stateless-rpc --thin https://github.com/xmrig/xmrig"),
    program("/usr/bin/python3.11", "python3 -m pip install --user torch"),
    program("/usr/bin/python3.11", "python3 -u train.py --algo ppo --server 10.0.0.5:4444 -a resnet50"),
    program("/usr/bin/apt-get", "apt-get install -y openssh-client autossh socat"),
    program("/usr/bin/dpkg", "dpkg --unpack autossh.deb", ParentImage="/usr/bin/apt-get"),
    program("/usr/bin/dash", "sh -c 'set -e; test -x /usr/bin/true'", ParentImage="/usr/bin/dpkg", **JOURNAL),
    program("/usr/bin/curl", "curl -fsSL -o out https://example.com:443/R"),
    program("/usr/bin/ssh", "ssh -p 2222 user@host uptime -R"),
    program("/usr/bin/ssh", "ssh -o BatchMode=yes -o ConnectTimeout=5 host -- tar -C / -R -czf - etc"),
    program("/usr/bin/scp", "scp -R file host:/tmp"),
    program("/usr/bin/ssh", "ssh -x -oPermitLocalCommand=no -oClearAllForwardings=yes -s -- host sftp"),
    program("/usr/bin/rsync", "rsync -aR -e 'ssh -p 22' src host:dst"),
    program("/usr/bin/ssh", "ssh -p 22 host rsync --server -logDtpRre.iLsfxCIvu . dst"),
    program("/usr/bin/bash", "bash -c 'tar xf -'", ParentImage="/usr/sbin/sshd", **JOURNAL),
    program("/usr/bin/dash", "sh -c 'npm run build'", ParentImage="/usr/bin/node", **JOURNAL),
    program("/usr/sbin/nginx", "nginx -g 'daemon off;'"),
    program("/usr/lib/postgresql/15/bin/postgres", "postgres -D /var/lib/postgresql -p 5432"),
    program("/usr/bin/make", "make -j 32 -R all"),
    program("/usr/bin/dash", "/bin/sh -c 'gcc -c miner.c'", ParentImage="/usr/bin/make"),
    program("/usr/sbin/cron", "/usr/sbin/CRON -f"),
    program("/usr/bin/dash", "/bin/sh -c 'run-parts --report /etc/cron.hourly'", ParentImage="/usr/sbin/cron"),
    program("/usr/lib/systemd/systemd-executor", "systemd-executor --deserialize 42", **JOURNAL),
    program("/usr/bin/bash", "bash /usr/local/bin/backup", ParentImage="/usr/lib/systemd/systemd", **JOURNAL),
    program("/usr/sbin/runc", "runc --root /run/docker/runtime-runc/moby create abc"),
    program(
        "/memfd:runc_cloned:/proc/self/exe", "runc init", Fileless=True, ParentImage="/usr/bin/containerd-shim-runc-v2"
    ),
    program("/pause", "/pause", ParentImage="/usr/bin/containerd-shim-runc-v2"),
    program("/usr/bin/kubelet", "kubelet --node-ip=10.0.0.5 --pod-infra-container-image=pause"),
    program("/usr/bin/bash", "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'", ParentImage="/usr/sbin/runc"),
    program("/usr/bin/socat", "socat - TCP4:localhost:8080"),
    program("/usr/bin/nvidia-smi", "nvidia-smi -L"),
    connection("loopback", "127.0.0.1", 5432, "/usr/lib/postgresql/15/bin/psql"),
    connection("private", "10.0.0.5", 29500, "/usr/bin/python3.11"),
    connection("private", "10.0.0.5", 3333, "/usr/bin/python3.11"),
    connection("external", "192.0.2.1", 443, "/usr/bin/curl"),
    connection("external", "192.0.2.1", 22, "/usr/bin/ssh"),
    connection("external", "192.0.2.1", 80, "/usr/lib/apt/methods/http"),
]


def above_low(event: AnyEvent) -> list[Verdict]:
    return [verdict for verdict in matcher().match(event) if SEVERITY[verdict.rule.level] > SEVERITY["low"]]


@pytest.mark.parametrize("event", ORDINARY, ids=lambda event: getattr(event, "command_line", None) or event.image)
def test_ordinary_work_raises_nothing_above_low(event: AnyEvent) -> None:
    assert not above_low(event)
