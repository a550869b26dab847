"""What every shipped rule owes its users, and that ordinary work raises nothing."""

from __future__ import annotations

import re
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
PYTHON = "/usr/bin/python3.11"

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


LISTS = sorted(Path(shipped_rules_dir(), "data").iterdir())


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_a_list_is_of_host_names_and_says_where_they_are_from(path: Path) -> None:
    (document,), faults = yamlfile.read(path)
    assert not faults and len(document.data["description"]) > 80
    for group in document.data["groups"]:
        assert all(source.startswith("https://") for source in group["sources"])
        assert group["values"] == sorted(group["values"])
        for value in group["values"]:
            assert HOST_NAME.fullmatch(value.replace("*", "a")), value


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_a_list_is_used(path: Path) -> None:
    assert any(f"%{path.stem}%" in Path(rule.info.path).read_text() for rule in RULES)


HOST_NAME = re.compile(r"(?!.{254})[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*")


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


def payload(protocol: str, address: str, port: int, image: str, **fields: Any) -> AnyEvent:
    scope = "loopback" if address.startswith("127.") else "private" if address.startswith("10.") else "external"
    return from_record(
        {
            "category": "network_payload",
            **{"Image": image, "Protocol": "tcp", "Initiated": True, "FromPeer": False, "CgroupPath": "/rome.slice"},
            **{"DestinationScope": scope, "DestinationIp": address, "DestinationPort": port},
            **{"ApplicationProtocol": protocol, **fields},
        }
    )


def relay(protocol: str | None, scope: str, to: str = "loopback", **fields: Any) -> AnyEvent:
    return from_record(
        {
            "category": "network_relay",
            **{"Image": PYTHON, "Protocol": "tcp", "Initiated": True, "ApplicationProtocol": protocol},
            **{"DestinationScope": scope, "DestinationIp": "192.0.2.1", "DestinationPort": 443},
            **{"RelayScope": to, "RelayIp": "127.0.0.1", "RelayPort": 5432, "RelayShared": False},
            **{"RelayInitiated": True, "RelayPrompted": True, "RelayExchanges": 100, "RelayTurns": 100},
            **{"RelayLarge": 0, "RelayVerbatim": 0, "RelayMissed": 0, "RelayMatched": 100.0, **fields},
        }
    )


def tls(name: str, image: str, address: str = "192.0.2.1", port: int = 443, **fields: Any) -> AnyEvent:
    alpn = ["h2", "http/1.1"]
    return payload("tls", address, port, image, TlsServerName=name, TlsEch=False, **{"TlsAlpn": alpn, **fields})


def http(host: str, image: str, address: str = "10.0.0.5", port: int = 80, **fields: Any) -> AnyEvent:
    return payload("http", address, port, image, HttpHost=host, **{"HttpMethod": "GET", "HttpPath": "/", **fields})


def ssh(image: str, address: str = "192.0.2.1", banner: str = "SSH-2.0-OpenSSH_9.2p1 Debian-2") -> AnyEvent:
    return payload("ssh", address, 22, image, SshBanner=banner, SshPeerBanner="SSH-2.0-babeld-8c2a1a4d")


def question(name: str, image: str, address: str = "192.0.2.1") -> AnyEvent:
    names = {"QueryName": name, "QueryType": "A", "QueryResults": [address]}
    return from_record({"category": "dns_query", "Image": image, "CgroupPath": "/rome.slice", **names})


DATA_PLANE = [
    *("s3.us-east-1.amazonaws.com", "bucket.s3.us-east-1.amazonaws.com", "s3express-use1-az4.us-east-1.amazonaws.com"),
    *("sts.us-east-1.amazonaws.com", "123456789012.dkr.ecr.us-east-1.amazonaws.com", "api.ecr.us-east-1.amazonaws.com"),
    *("sqs.us-east-1.amazonaws.com", "logs.us-east-1.amazonaws.com", "secretsmanager.us-east-1.amazonaws.com"),
    *("runtime.sagemaker.us-east-1.amazonaws.com", "bedrock-runtime.us-east-1.amazonaws.com"),
    *("fsx.us-east-1.amazonaws.com", "dynamodb.us-east-1.amazonaws.com", "ssm.us-east-1.amazonaws.com"),
    *("ec2-203-0-113-25.compute-1.amazonaws.com", "ip-10-0-0-5.ec2.internal", "monitoring.us-east-1.amazonaws.com"),
    *("storage.googleapis.com", "www.googleapis.com", "oauth2.googleapis.com", "us-central1-aiplatform.googleapis.com"),
    *("logging.googleapis.com", "pubsub.googleapis.com", "us-docker.pkg.dev", "gcr.io"),
    *("account.blob.core.windows.net", "login.microsoftonline.com", "eastus.api.azureml.ms", "mcr.microsoft.com"),
    *("objectstorage.eu-frankfurt-1.oraclecloud.com", "bucket.oss-cn-hangzhou.aliyuncs.com"),
    *("s3.us-south.cloud-object-storage.appdomain.cloud", "iam.cloud.ibm.com", "object.ord1.coreweave.com"),
    *("api.together.ai", "api.runpod.ai", "storage.eu-north1.nebius.cloud", "fsn1.your-objectstorage.com"),
    *("nyc3.digitaloceanspaces.com", "s3.fr-par.scw.cloud", "us-east-1.linodeobjects.com"),
    *("huggingface.co", "cdn-lfs.huggingface.co", "api.wandb.ai", "pypi.org", "files.pythonhosted.org", "github.com"),
    *("registry-1.docker.io", "nvcr.io", "conda.anaconda.org", "deb.debian.org", "download.pytorch.org"),
    *("api.openai.com", "api.anthropic.com"),
]
"""What jobs read, write and fetch from all day."""

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
    *(tls(name, PYTHON) for name in DATA_PLANE),
    *(question(name, PYTHON) for name in DATA_PLANE),
    ssh("/usr/bin/ssh"),
    ssh("/usr/bin/ssh", "10.0.0.7"),
    ssh("/usr/sbin/sshd", "10.0.0.7"),
    ssh(PYTHON, "10.0.0.7", "SSH-2.0-paramiko_3.4.0"),
    ssh(PYTHON, "192.0.2.1", "SSH-2.0-paramiko_3.4.0"),
    tls("github.com", "/usr/lib/git-core/git-remote-https"),
    tls("deb.debian.org", "/usr/lib/apt/methods/https", TlsAlpn=["http/1.1"]),
    http("deb.debian.org", "/usr/lib/apt/methods/http", "192.0.2.1", HttpPath="/debian/dists/bookworm/InRelease"),
    http("proxy.example", PYTHON, port=3128, HttpMethod="CONNECT", SocksDestination="pypi.org:443"),
    tls("pypi.org", PYTHON, "10.0.0.5", 3128, CarriedBy="http-connect", SocksDestination="pypi.org:443"),
    connection("private", "10.0.0.6", 40123, PYTHON),  # NCCL: bytes of its own, so no payload event
    http("localhost", "/usr/bin/firefox", "127.0.0.1", 8888, HttpPath="/api/kernels/1/channels"),
    payload("websocket", "127.0.0.1", 8888, PYTHON, HttpHost="localhost", HttpUpgrade="websocket"),
    payload("websocket", "10.0.0.9", 8888, "/usr/bin/node", HttpHost="hub.example", HttpUpgrade="websocket"),
    tls("update.code.visualstudio.com", "/home/a/.vscode-server/cli/servers/Stable-1/server/node"),
    http("127.0.0.1", "/home/a/.vscode-server/code-1", "127.0.0.1", 43521, HttpUpgrade="websocket"),
    http("prometheus.monitoring.svc", PYTHON, port=9090, HttpPath="/api/v1/query"),
    http("10.0.0.5", "/usr/bin/curl", port=8000, HttpMethod="POST", HttpPath="/v1/completions"),
    tls("db.example", "/usr/lib/postgresql/15/bin/psql", "10.0.0.5", 5432, TlsAlpn=["postgresql"]),
    tls("kubernetes.default.svc", "/usr/bin/kubelet", "10.96.0.1", 6443),
    tls("10.96.0.1", PYTHON, "10.96.0.1", TlsAlpn=["http/1.1"]),
    payload("quic", "192.0.2.1", 443, "/usr/bin/curl", Protocol="udp", TlsServerName="example.com", TlsAlpn=["h3"]),
    payload("socks", "127.0.0.1", 1080, "/usr/bin/curl", SocksDestination="example.com:443"),
    payload("dns", "10.0.0.2", 53, PYTHON, Protocol="udp"),
    payload("wireguard", "192.0.2.1", 41641, "/usr/sbin/tailscaled", CgroupPath="/system.slice/tailscaled.service"),
    relay("unknown", "private"),  # a worker: jobs from a queue go into a database, and it says that they are done
    relay("tls", "external"),
    relay("ssh", "external", SshBanner="SSH-2.0-paramiko_3.4.0"),
    relay("http", "external", RelayTurns=3, RelayMissed=40, RelayMatched=13.0, RelayLarge=3),  # an agent and its model
    relay("unknown", "private", "private", RelayVerbatim=90, RelayLarge=90),  # a broadcast along a tree of hosts
    relay("http", "private", "external", RelayInitiated=False, RelayPrompted=False, RelayLarge=90),  # a web proxy
    relay("tls", "private", RelayInitiated=False, RelayPrompted=False, RelayLarge=90),  # kubectl port-forward
    question("metadata.google.internal", PYTHON, "169.254.169.254"),
    question("db.example", PYTHON, "10.0.0.5"),
]


def above_low(event: AnyEvent) -> list[Verdict]:
    return [verdict for verdict in matcher().match(event) if SEVERITY[verdict.rule.level] > SEVERITY["low"]]


def name_of(event: AnyEvent) -> str:
    fields = ("command_line", "tls_server_name", "http_host", "query_name", "application_protocol", "destination_port")
    return " ".join(str(value) for value in (event.image, *(getattr(event, field, None) for field in fields)) if value)


@pytest.mark.parametrize("event", ORDINARY, ids=name_of)
def test_ordinary_work_raises_nothing_above_low(event: AnyEvent) -> None:
    assert not above_low(event)
