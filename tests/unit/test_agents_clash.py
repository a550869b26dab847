"""Two agents that one workload could belong to with equal right are refused, with an example of such a workload."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.agents_clash import Claim, find_clashes
from sensor.globs import compile_glob, witness

ID = "0123456789abcdef" * 4


def clashes(form: str, *patterns: str) -> list[str]:
    claims = [Claim(f"a{place}", form, pattern, f"a{place}.yml", place + 4) for place, pattern in enumerate(patterns)]
    return [str(fault) for fault in find_clashes(claims)]


@pytest.mark.parametrize(
    ("form", "one", "other", "met"),
    [
        ("cgroup", "/rome.slice", "/rome.slice", ""),
        ("cgroup", "/rome/**", "/rome/*", "'/rome/x'"),
        ("cgroup", "/rome/*/eval", "/rome/?*/**", "'/rome/x/eval'"),
        ("cgroup", "/*/a", "/*/?", "'/x/a'"),
        ("systemd", "rome-*.service", "rome-*-eval.*", "'rome--eval.service'"),
        ("user", "rome", "rome", ""),
        ("slurm_user", "rome", "rome", ""),
        ("slurm_job_name", "eval-*", "eval-*-long", "'eval--long'"),
        ("container_id", ID[:12], ID[:12], ""),
        ("container_label", "agent=rome", "agent=rome", ""),
        ("container_image", "alpine", "docker.io/library/alpine:latest", ""),
        ("container_image", "registry/*", "registry/*:1", "'registry/:1'"),
    ],
)
def test_equal_right(form: str, one: str, other: str, met: str) -> None:
    said = clashes(form, one, other)
    assert len(said) == 2 and said[0].startswith("a0.yml:4: agent a0: ") and "a1.yml:5" in said[0]
    assert said[1].startswith("a1.yml:5: agent a1: ") and "a0.yml:4" in said[1]
    assert met in said[0] and "neither is more specific" in said[0]


@pytest.mark.parametrize(
    ("form", "patterns"),
    [
        ("cgroup", ("/**", "/rome/**", "/rome/a*", "/rome/a", "/milan/**", "/rome/b/**")),
        ("cgroup", ("/*/a", "/*/b", "/*/a/*")),
        ("cgroup", ("/job_?", "/job_??")),
        ("cgroup", ("/rome/*/eval", "/rome/a*/**")),
        ("systemd", ("rome-*.service", "rome-*.scope", "rome-1.service")),
        ("container_id", (ID[:12], ID[:13], ID)),
        ("container_label", ("agent", "agent=rome", "agent=milan", "team=rome")),
        ("container_image", ("alpine", "alpine:3", "alpine/git")),
    ],
)
def test_no_clash(form: str, patterns: tuple[str, ...]) -> None:
    assert clashes(form, *patterns) == []


def test_an_agent_does_not_clash_with_itself_nor_forms_with_each_other() -> None:
    same = [Claim("a", "cgroup", pattern, "a.yml", 4) for pattern in ("/a/**", "/a/*", "/a/*")]
    assert find_clashes(same) == []
    assert find_clashes([Claim("a", "user", "x", "a.yml", 4), Claim("b", "slurm_user", "x", "b.yml", 4)]) == []


GLOBS = st.text(alphabet="/*?ab", min_size=1, max_size=8)


@given(GLOBS, GLOBS, st.booleans())
def test_a_witness_is_one(one: str, other: str, paths: bool) -> None:
    found = witness(one, other, paths)
    if found is not None:
        assert compile_glob(one, paths).fullmatch(found) and compile_glob(other, paths).fullmatch(found)


@given(GLOBS, GLOBS, st.lists(st.sampled_from(["a", "b", "ab", "ba"]), max_size=4))
def test_what_both_match_has_a_witness(one: str, other: str, parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    if compile_glob(one).fullmatch(path) and compile_glob(other).fullmatch(path):
        assert witness(one, other) is not None


def test_hundreds_of_globs_are_compared_at_once() -> None:
    patterns = [f"/*/agent-{number}/**" for number in range(300)]
    assert all(one != other for one, other in pairwise(patterns)) and clashes("cgroup", *patterns) == []
