from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.agents_file import AgentFile, Match, Owner
from sensor.context.agents import Agents
from sensor.context.workload import parse
from sensor.globs import compile_glob


def agent(name: str, **match: str) -> AgentFile:
    owner = Owner(name="Ada Example", notify=["mailto://ada@example.org"])
    return AgentFile(agent=name, purpose="tests", owner=owner, match=[Match(**match)])


def of(agents: Agents, path: str) -> str | None:
    found = agents.of_cgroup(path, parse(path))
    return found.agent if found else None


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/rome.slice/**", "/rome.slice", True),
        ("/rome.slice/**", "/rome.slice/a", True),
        ("/rome.slice/**", "/rome.slice/a/b\nc", True),
        ("/rome.slice/**", "/rome.slice2/a", False),
        ("/rome.slice/**", "/x/rome.slice/a", False),
        ("/rome.slice/*", "/rome.slice/a", True),
        ("/rome.slice/*", "/rome.slice", False),
        ("/rome.slice/*", "/rome.slice/a/b", False),
        ("/rome.slice", "/rome.slice", True),
        ("/rome.slice", "/rome.slice\n", False),
        ("/rome.slice", "/romeXslice", False),
        ("/a/**/z", "/a/z", True),
        ("/a/**/z", "/a/b/c/z", True),
        ("/a/**/z", "/a/bz", False),
        ("/a**z", "/ab/cz", True),
        ("/job-?", "/job-7", True),
        ("/job-?", "/job-/", False),
        ("/**", "/", True),
        ("/**", "/any/thing", True),
        ("/[ab]", "/a", False),
        ("/[ab]", "/[ab]", True),
    ],
)
def test_glob(glob: str, path: str, matches: bool) -> None:
    assert bool(compile_glob(glob).fullmatch(path)) is matches


@given(st.text(alphabet="*?/[]\\ab."), st.text())
def test_any_glob_compiles(glob: str, path: str) -> None:
    compile_glob(glob).fullmatch(path)


def test_the_more_specific_cgroup_wins_in_any_order() -> None:
    files = [agent("all", cgroup="/**"), agent("rome", cgroup="/rome.slice/**"), agent("a", cgroup="/rome.slice/a")]
    for order in (files, files[::-1]):
        agents = Agents(order)
        assert of(agents, "/rome.slice/b") == "rome"
        assert of(agents, "/rome.slice/a") == "a"
        assert of(agents, "/elsewhere") == "all"


def test_of_two_equal_matches_the_first_name_wins() -> None:
    for order in (("b", "a"), ("a", "b")):
        assert of(Agents(agent(name, cgroup="/x/*") for name in order), "/x/1") == "a"


def test_unit_wins_over_the_slice_that_it_is_in_and_loses_to_its_own_path() -> None:
    unit, path = agent("unit", systemd="rome-*.service"), "/system.slice/rome-1.service"
    assert of(Agents([unit, agent("slice", cgroup="/system.slice/**")]), path) == "unit"
    assert of(Agents([unit, agent("path", cgroup=path)]), path) == "path"
    assert of(Agents([unit]), "/system.slice/other.service") is None


def test_a_workload_cannot_name_itself_into_another_agent() -> None:
    agents = Agents([agent("trusted", systemd="trusted-*.service"), agent("rome", systemd="rome-*.service")])
    assert of(agents, "/system.slice/rome-1.service/trusted-1.service") == "rome"
    assert of(agents, "/user.slice/user-7.slice/user@7.service/app.slice/trusted-1.service") is None
    assert of(agents, "/system.slice/trusted-1.service") == "trusted"


def test_user_by_name_or_number() -> None:
    agents = Agents([agent("named", user="rome"), agent("numbered", user="1234")])
    for name, uid, expected in (("rome", 7, "named"), (None, 1234, "numbered"), ("x", 1234, "numbered")):
        found = agents.of_user(name, uid)
        assert found is not None
        assert found.agent == expected
    assert agents.of_user(None, 0) is None
