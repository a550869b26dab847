"""agents.d/*.yml: one owner, one agent a file, nothing ambiguous; every fault of every file at once."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import agents_file
from sensor.agents_file import MATCH_FORMS, Destination, load_agents, parse_destination
from sensor.faults import FaultsError

# The example of the design, word for word.
EXAMPLE = """\
agent: rome-rl
purpose: reinforcement learning on terminal tasks
owner: {name: Ada Example, notify: ["pagerduty://key"]}     # exactly one owner; a file without one is refused
match: [{cgroup: "/rome.slice/**"}, {systemd: "rome-*.service"}, {slurm_user: rome}, {container_label: "agent=rome"}]
gpu: {allow: true}
egress: {default: deny, allow: ["10.0.0.0/8", "pypi.org:443"]}
exec: {deny: ["*/ssh"]}
approve: [billing, metadata]        # freeze and ask before these
response: {action: freeze}
"""

MINIMAL = """\
agent: {name}
purpose: tests
owner: {{name: Ada, notify: ["mailto://ada@example.org"]}}
match: [{{cgroup: /{name}.slice}}]
"""


def faults_of(directory: Path) -> list[str]:
    with pytest.raises(FaultsError) as caught:
        load_agents(directory)
    return [str(fault).removeprefix(f"{directory}/") for fault in caught.value.faults]


def test_the_example_loads(tmp_path: Path) -> None:
    (tmp_path / "rome.yml").write_text(EXAMPLE)
    (agent,) = load_agents(tmp_path)
    assert (agent.agent, agent.owner.name, agent.owner.notify) == ("rome-rl", "Ada Example", ["pagerduty://key"])
    assert [(match.form, match.pattern) for match in agent.match] == [
        ("cgroup", "/rome.slice/**"),
        ("systemd", "rome-*.service"),
        ("slurm_user", "rome"),
        ("container_label", "agent=rome"),
    ]
    assert agent.gpu is not None
    assert agent.gpu.allow is True
    assert agent.egress is not None
    assert (agent.egress.default, agent.egress.allow) == ("deny", ["10.0.0.0/8", "pypi.org:443"])
    assert agent.exec is not None
    assert agent.exec.deny == ["*/ssh"]
    assert agent.approve == ["billing", "metadata"]
    assert agent.response is not None
    assert agent.response.action == "freeze"


def test_a_limit_that_is_not_stated_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(MINIMAL.format(name="a"))
    (agent,) = load_agents(tmp_path)
    assert (agent.gpu, agent.egress, agent.exec, agent.response, agent.approve) == (None, None, None, None, [])


@pytest.mark.parametrize("form", MATCH_FORMS)
def test_every_match_form_is_read(tmp_path: Path, form: str) -> None:
    pattern = "0123456789ab" if form == "container_id" else "/a.slice"
    (tmp_path / "a.yml").write_text(MINIMAL.format(name="a").replace("cgroup: /a.slice", f"{form}: '{pattern}'"))
    (agent,) = load_agents(tmp_path)
    assert [(match.form, match.pattern) for match in agent.match] == [(form, pattern)]


def test_files_are_read_in_order_and_others_left_alone(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", ".hidden.yml", "c.yml~", "README"):
        (tmp_path / name).write_text(MINIMAL.format(name=name.strip(".~").lower()))
    assert [agent.agent for agent in load_agents(tmp_path)] == ["a.yaml", "b.yml"]


def test_only_the_default_directory_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing"
    assert faults_of(missing) == [f"{missing}: is no directory"]
    monkeypatch.setattr(agents_file, "DEFAULT_AGENTS_DIR", str(missing))
    assert load_agents(missing) == []


def test_every_fault_of_every_file_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(MINIMAL.format(name="rome"))
    (tmp_path / "b.yml").write_text(
        "agent: rome\n"
        "agent: rome\n"
        "purpose: ' '\n"
        "owner:\n"
        "  - {name: Ada, notify: ['mailto://ada@example.org']}\n"
        "match:\n"
        "  - cgroup: rome.slice\n"
        "  - cgroup: /rome.slice/../x\n"
        "  - {systemd: a.service, user: rome}\n"
        "  - {}\n"
        "  - slurmuser: rome\n"
        "  - rome\n"
        "  - user: 1000\n"
        "gpu: true\n"
        "egress: {default: maybe, allow: [10.0.0.1/8, 'pypi.org:70000']}\n"
        "exec: {deny: '*/ssh'}\n"
        "response: {action: freeze, now: true}\n"
    )
    (tmp_path / "c.yml").write_text("")
    (tmp_path / "d.yml").write_text(
        "agent: Rome RL\nowner: {name: '', notify: []}\nmatch: []\negress: {allow: ['*']}\n"
    )
    (tmp_path / "e.yml").write_text(MINIMAL.format(name="e") + "---\n" + MINIMAL.format(name="f"))
    (tmp_path / "g.yml").write_text("agent: g\nowner: {name: g, notify: [ring me]}\n")
    assert faults_of(tmp_path) == [
        f"a.yml:1: agent 'rome' is also defined in {tmp_path}/b.yml:2",
        f"b.yml:2: agent 'rome' is also defined in {tmp_path}/a.yml:1",
        "b.yml:2: duplicate key 'agent'",
        "b.yml:3: purpose: must not be empty",
        "b.yml:4: owner: must be a mapping, not a list",
        "b.yml:7: match[0].cgroup: 'rome.slice' must start with /: it is matched from the root of cgroup v2",
        "b.yml:8: match[1].cgroup: '/rome.slice/../x' has an empty, '.' or '..' part; a cgroup path has none",
        "b.yml:9: match[2]: each entry says one thing, this one says 2: systemd, user",
        "b.yml:10: match[3]: each entry says one thing, this one says 0: nothing",
        "b.yml:11: match[4].slurmuser: unknown key; did you mean slurm_user?",
        "b.yml:12: match[5]: must be a mapping, not text",
        "b.yml:13: match[6].user: must be text, not a whole number; put it in quotes",
        "b.yml:14: gpu: must be a mapping, not true or false",
        "b.yml:15: egress.allow[0]: '10.0.0.1/8': 10.0.0.1/8 has host bits set",
        "b.yml:15: egress.allow[1]: 'pypi.org:70000': a port is a number from 1 to 65535, not '70000'",
        "b.yml:15: egress.default: 'maybe' is not one of allow, deny",
        "b.yml:16: exec.deny: must be a list, not text",
        "b.yml:17: response.now: unknown key; known: action",
        "c.yml: is empty",
        "d.yml:1: agent: 'Rome RL': a name is lower-case letters, digits, '.', '_' and '-', first a letter or digit",
        "d.yml:1: purpose is missing",
        "d.yml:2: owner.name: must not be empty",
        "d.yml:2: owner.notify: needs at least one entry",
        "d.yml:3: match: needs at least one entry",
        "d.yml:4: egress.allow[0]: '*' is no CIDR prefix, address or host name",
        "d.yml:4: egress: default is missing",
        "e.yml: holds 2 documents; one agent a file",
        "g.yml:1: match is missing",
        "g.yml:1: purpose is missing",
        "g.yml:2: owner.notify[0]: is no URL, such as mailto://user@example.org, nor file:/PATH, nor credential:NAME",
    ]


@pytest.mark.parametrize(
    ("text", "network", "host", "port"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", None, None),
        ("10.0.0.0/8:22", "10.0.0.0/8", None, 22),
        ("192.0.2.1", "192.0.2.1/32", None, None),
        ("192.0.2.1:443", "192.0.2.1/32", None, 443),
        ("2001:db8::/32", "2001:db8::/32", None, None),
        ("[2001:db8::/32]:443", "2001:db8::/32", None, 443),
        ("[::1]", "::1/128", None, None),
        ("PyPI.org", None, "pypi.org", None),
        ("pypi.org.:443", None, "pypi.org", 443),
        ("*.pythonhosted.org:443", None, "*.pythonhosted.org", 443),
        ("localhost:65535", None, "localhost", 65535),
    ],
)
def test_destinations(text: str, network: str | None, host: str | None, port: int | None) -> None:
    expected = Destination(ipaddress.ip_network(network) if network else None, host, port)
    assert parse_destination(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":443", "a:", "a:0", "a:65536", "a:http", "a:+1", "a:1_0", "a:٣", "a b", "-a.org", "a..org"),
        *("*", "a.*.org", "10.0.0.1/8", "300.1.1.1", "10.0.0.0/33", "1.2.3", "[::1", "[::1]x", "[::1]:", "::1::"),
        *("a/8", "x" * 64, ".".join(["abcdefgh"] * 40), "a\nb", "fe80::1%eth0/64:1"),
    ],
)
def test_what_is_no_destination_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_destination(text)


@given(st.text(max_size=40) | st.from_regex(r"\[?[0-9a-f:.*/\]-]{0,30}:?[0-9]{0,7}"))
def test_any_text_is_a_destination_or_a_value_error(text: str) -> None:
    try:
        destination = parse_destination(text)
    except ValueError:
        return
    assert (destination.network is None) != (destination.host is None)
    assert destination.port is None or 1 <= destination.port <= 65535
