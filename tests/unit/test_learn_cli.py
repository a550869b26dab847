"""`hostbrake learn`: a profile as an agents file that loads, and that nothing in a profile can break out of."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from profiling import at, connected, fed, flowed, learned, opened_gpu, ran, the_profile

from sensor.agents_file import AgentFile, load_agents, parse_destination
from sensor.cli.learned_file import quoted, render
from sensor.cli.main import cli
from sensor.match.profile import Profile, Seen
from sensor.match.profile_store import PROFILES_DIR, write
from sensor.match.profiles import Profiles

OWNED = """\
agent: rome-rl
purpose: "reinforcement: learning"
owner: {name: Ada Example, notify: ["mailto:ada@example.org", "pagerduty://x"]}
match: [{cgroup: "/rome.slice/**"}, {systemd: "rome-*.service"}]
"""
LIMITED = (
    OWNED
    + """\
gpu: {allow: false}
egress: {default: deny, allow: ["10.0.0.0/8", "pypi.org:443"]}
exec: {deny: ["*/ssh"], allow: ["/usr/bin/python3"]}
approve: [billing]
response: {action: freeze}
"""
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "agents.d/rome.yml").write_text(OWNED)
    (tmp_path / "sensor.yml").touch()
    return tmp_path


def kept(site: Path, profile: Profile) -> Path:
    path = site / "state" / PROFILES_DIR / f"{profile.agent}.json"
    write(path, profile)
    return path


def learn(site: Path, *arguments: str, agent: str = "rome-rl") -> Result:
    places = [f"--config={site}/sensor.yml", f"--agents={site}/agents.d", f"--state-dir={site}/state"]
    return CliRunner().invoke(cli, ["learn", agent, *places, *arguments])


def loaded(text: str, directory: Path) -> AgentFile:
    directory.mkdir(exist_ok=True)
    (directory / "learned.yml").write_text(text)
    (agent,) = load_agents(directory)
    return agent


def a_profile() -> Profile:
    profiles = learned([opened_gpu(3)])
    fed(profiles, [connected(200, "198.51.100.7", 22), flowed(200.1, "198.51.100.7", 22), ran(200, "/tmp/late")])
    return the_profile(profiles)


def test_what_was_seen_becomes_a_file_that_loads(site: Path) -> None:
    kept(site, a_profile())
    done = learn(site)
    assert done.exit_code == 0, done.output
    agent = loaded(done.output, site / "out")
    assert agent.owner == load_agents(site / "agents.d")[0].owner and agent.purpose == "reinforcement: learning"
    assert [match.pattern for match in agent.match] == ["/rome.slice/**", "rome-*.service"]
    assert agent.gpu is not None and agent.gpu.allow and agent.exec is None and agent.response is None
    assert agent.egress is not None and agent.egress.default == "allow"
    assert sorted(agent.egress.allow) == ["10.0.0.5:2049", "pypi.org:443"]
    assert (
        '    - "pypi.org:443"  # 170 times, last 2026-' in done.output and "170.0 MiB out, 340.0 MiB in" in done.output
    )
    assert '    # - "198.51.100.7:22"  # once, last ' in done.output and "first seen late: 20" in done.output
    assert '#     - "/usr/bin/python3"  # 170 times, last ' in done.output
    assert "/tmp/late" in done.output and "NOT LEARNED" not in done.output


def test_what_was_stated_stays(site: Path) -> None:
    (site / "agents.d/rome.yml").write_text(LIMITED)
    kept(site, a_profile())
    done = learn(site)
    agent, before = loaded(done.output, site / "out"), load_agents(site / "agents.d")[0]
    assert (agent.gpu, agent.exec, agent.approve, agent.response) == (
        before.gpu,
        before.exec,
        before.approve,
        before.response,
    )
    assert agent.egress is not None and agent.egress.default == "deny"
    assert agent.egress.allow == ["10.0.0.0/8", "pypi.org:443", "10.0.0.5:2049"]
    assert '- "10.0.0.0/8"  # stated before, not seen' in done.output


@pytest.mark.parametrize(
    "text", [OWNED, OWNED + "exec: {}\n", LIMITED, LIMITED.replace(', allow: ["/usr/bin/python3"]', "")]
)
def test_with_every_comment_taken_away_it_loads_too(site: Path, text: str) -> None:
    (site / "agents.d/rome.yml").write_text(text)
    body = render(a_profile(), load_agents(site / "agents.d")[0]).split("\nagent:", 1)[1]
    body = body.replace("# To allow these programs and no others, take the # from here on away.\n", "")
    bare = "\n".join(line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in body.split("\n"))
    agent = loaded("agent:" + bare, site / "out")
    assert agent.exec is not None and {"/tmp/late", "/usr/bin/python3"} == set(agent.exec.allow)
    assert agent.egress is not None and "198.51.100.7:22" in agent.egress.allow


def test_who_is_told_stays_as_it_was(site: Path) -> None:
    text = OWNED.replace("}", ", escalate: {after: 15m, notify: ['credential:oncall.url']}}", 1)
    (site / "agents.d/rome.yml").write_text(text)
    (declared,) = load_agents(site / "agents.d")
    assert declared.owner.escalate is not None
    assert loaded(render(a_profile(), declared), site / "out").owner == declared.owner


def test_an_empty_and_an_early_profile(site: Path) -> None:
    kept(site, Profile(agent="rome-rl", began=at(0)))
    done = learn(site)
    agent = loaded(done.output, site / "out")
    assert agent.egress is not None and agent.egress.allow == [] and "# NOT LEARNED YET" in done.output


def test_output_is_a_new_file(site: Path) -> None:
    kept(site, a_profile())
    file = site / "learned.yml"
    assert learn(site, f"--output={file}").output == "" and file.read_text() == learn(site).output
    assert file.stat().st_mode & 0o777 == 0o600, "an owner's address may be a key"
    again = learn(site, f"--output={file}")
    assert again.exit_code == 1 and "is there already" in again.output
    nowhere = learn(site, f"--output={site}/no/such")
    assert nowhere.exit_code == 1 and "No such file or directory" in nowhere.output


def test_no_profile_yet(site: Path) -> None:
    done = learn(site)
    assert done.exit_code == 1
    assert done.output == (
        f"hostbrake: there is no profile of rome-rl in {site}/state/profiles yet; "
        "the sensor begins one when it sees the agent run\n"
    )


def test_no_such_agent_and_a_faulty_file(site: Path) -> None:
    for name in ("other", "../rome-rl", ""):
        done = learn(site, agent=name)
        assert done.exit_code == 2 and "no agent" in done.output
    (site / "agents.d/rome.yml").write_text("agent: rome-rl\n")
    assert learn(site).exception is not None


def test_a_damaged_profile_is_said_to_be_one(site: Path) -> None:
    kept(site, a_profile()).write_text("{")
    done = learn(site)
    assert done.exit_code == 1 and "cannot be used" in done.output and "Traceback" not in done.output


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(HOSTILE)
def test_no_text_leaves_its_quotes(text: str) -> None:
    line = quoted(text)
    assert "\n" not in line and line.isascii() and line.isprintable()
    assert yaml.safe_load(line) == text
    assert yaml.safe_load(f"# {line}\nx: 1") == {"x": 1}


@given(st.lists(HOSTILE, max_size=5))
def test_no_name_becomes_a_statement(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    directory = tmp_path_factory.mktemp("agents")
    (directory / "rome.yml").write_text(OWNED)
    (declared,) = load_agents(directory)
    profile = Profile(agent="rome-rl", began=at(0))
    for text in texts:
        profile.destinations.seen[text] = Seen(times=1, first=at(0), last=at(0), host=text)
        profile.programs.seen[text] = Seen(times=1, first=at(0), last=at(0))
    agent = loaded(render(profile, declared), directory / "out")
    assert agent.egress is not None and set(agent.egress.allow) <= set(texts)
    for entry in agent.egress.allow:
        parse_destination(entry)
    assert agent.exec is None and agent.match == declared.match


def test_a_name_from_dns_cannot_widen_the_list(site: Path) -> None:
    profiles = Profiles()
    names = ["0.0.0.0/0", "::/0", "*.com", "10.0.0.0", "a:443", "a\nb", "x" * 300]
    fed(profiles, (connected(n / 10, f"192.0.2.{n}", destination_hostname=name) for n, name in enumerate(names)))
    fed(profiles, (flowed(n / 10 + 0.05, f"192.0.2.{n}") for n in range(len(names))))
    kept(site, the_profile(profiles))
    agent = loaded(learn(site).output, site / "out")
    assert agent.egress is not None
    assert sorted(agent.egress.allow) == [f"192.0.2.{n}:443" for n in range(len(names))]


def test_the_file_is_ours_alone(site: Path) -> None:
    path = kept(site, a_profile())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["rome-rl.json"]
