"""Whose a cgroup is, by what its path, the container's runtime and Slurm tell; at once, or as soon as they do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from sensor.agents_file import AgentFile, Match, Owner
from sensor.context.agents import Agents
from sensor.context.containers import Containers
from sensor.context.recognise import Recogniser, missing
from sensor.context.slurm import Job, Jobs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes directories that are root's")

ID = "5f3b9c0e" * 8
OTHER = "ab12cd34" * 8
DOCKER = f"/system.slice/docker-{ID}.scope"
JOB = "/system.slice/slurmstepd.scope/job_77"
TASK = f"{JOB}/step_0/user/task_0"


class Slurm(Jobs):
    """Answers when the test says so."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.answers: dict[str, Job] = {}
        self.fresh: list[str] = []

    def look_up(self, job_id: str) -> Job | None:
        return self.answers.get(job_id)

    def answer(self, job_id: str, job: Job) -> None:
        self.answers[job_id] = job
        self.fresh.append(job_id)

    def news(self) -> list[str]:
        told, self.fresh = self.fresh, []
        return told


class Node:
    """A node's files, of which nothing is there at first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mount = root / "cgroup"
        self.mount.mkdir()
        self.slurm = Slurm()
        self.users = {61234: "rome"}
        self.ids: dict[str, int] = {}

    def recogniser(self, *agents: AgentFile) -> Recogniser:
        containers = Containers(self.root)
        return Recogniser(self.mount, Agents(agents), containers=containers, jobs=self.slurm, user_name=self.users.get)

    def make(self, path: str) -> tuple[int, str]:
        place = self.mount / path.strip("/")
        place.mkdir(parents=True, exist_ok=True)
        return self.ids.setdefault(path, len(self.ids) + 1), path

    def docker(self, container_id: str = ID, name: str = "rome-1", image: str = "rome:1", **labels: str) -> None:
        path = self.root / "var/lib/docker/containers" / container_id / "config.v2.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(orjson.dumps({"Name": f"/{name}", "Config": {"Image": image, "Labels": labels}}))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def agent(name: str, *matches: Match, **match: str) -> AgentFile:
    owner = Owner(name="Ada Example", notify=["mailto://ada@example.org"])
    return AgentFile(agent=name, purpose="tests", owner=owner, match=[*matches, *([Match(**match)] if match else [])])


def of(recogniser: Recogniser, made: tuple[int, str]) -> str | None:
    found = recogniser.of(*made)
    return found.agent if found else None


@pytest.mark.parametrize(
    "match",
    [
        {"container_id": ID},
        {"container_id": ID[:12]},
        {"container_name": "rome-1"},
        {"container_name": "rome-*"},
        {"container_label": "agent=rome"},
        {"container_label": "agent"},
        {"container_image": "docker.io/library/rome:1"},
        {"container_image": "rome*"},
    ],
)
def test_containers(node: Node, match: dict[str, str]) -> None:
    node.docker(agent="rome")
    node.docker(OTHER, "milan", "milan")
    recogniser = node.recogniser(agent("rome", **match))
    assert of(recogniser, node.make(DOCKER)) == "rome"
    assert of(recogniser, node.make(f"{DOCKER}/below")) == "rome", "and what it makes below"
    assert of(recogniser, node.make(f"/system.slice/docker-{OTHER}.scope")) is None
    assert of(recogniser, node.make("/system.slice/rome-1.service")) is None


@pytest.mark.parametrize("match", [{"slurm_user": "rome"}, {"slurm_user": "61234"}, {"slurm_user": "ro*"}])
def test_slurm_user_without_slurm(node: Node, match: dict[str, str]) -> None:
    recogniser = node.recogniser(agent("rome", **match))
    job, task = node.make(JOB), node.make(TASK)
    assert of(recogniser, job) is None and of(recogniser, task) is None
    assert recogniser.wants_user(TASK) == "77"
    recogniser.job_runs_as("77", 61234)
    assert sorted(recogniser.news()) == sorted([job, task]) and not recogniser.wants_user(TASK)
    assert of(recogniser, job) == of(recogniser, task) == "rome"
    recogniser.job_runs_as("77", 1)
    assert not recogniser.news() and of(recogniser, node.make(f"{JOB}/step_1/user")) == "rome", "the first one counts"


def test_slurm_answers_later(node: Node) -> None:
    recogniser = node.recogniser(
        agent("models", slurm_account="models"), agent("eval", slurm_job_name="eval*"), agent("rome", slurm_user="rome")
    )
    places = [node.make(JOB), node.make("/system.slice/slurmstepd.scope/job_78"), node.make("/job_77")]
    assert [of(recogniser, place) for place in places] == [None] * 3
    node.slurm.answer("78", Job("milan", 7, "other", "eval-1"))
    assert recogniser.news() == [places[1]] and of(recogniser, places[1]) == "eval"
    node.slurm.answer("77", Job("rome", 61234, "models", "eval-1"))
    assert recogniser.news() == [places[0]]
    assert [of(recogniser, place) for place in places] == ["rome", "eval", None], "a job cannot choose its user"


def test_a_record_that_comes_later(node: Node) -> None:
    recogniser = node.recogniser(agent("rome", container_label="agent=rome"), agent("all", cgroup="/system.slice/**"))
    made = node.make(DOCKER)
    assert of(recogniser, made) == "all" and not recogniser.news()
    node.docker(agent="rome")
    assert of(recogniser, made) == "all", "nothing is looked for on the hot path"
    assert recogniser.news() == [made] and of(recogniser, made) == "rome"
    assert not recogniser.news()


def test_the_order_of_forms(node: Node) -> None:
    """Each but the last is taken away in turn; what is left gives the next."""
    node.docker(name="rome-1", image="rome:1", agent="rome", team="x")
    files = [
        agent("a-id", container_id=ID),
        agent("b-part", container_id=ID[:12]),
        agent("c-name", container_name="rome-1"),
        agent("d-names", container_name="rome-*"),
        agent("e-label", container_label="agent=rome"),
        agent("f-labels", container_label="agent"),
        agent("g-image", container_image="rome:1"),
        agent("h-images", container_image="rome:*"),
        agent("i-unit", systemd="docker-*.scope"),
        agent("j-cgroup", cgroup="/system.slice/**"),
        agent("k-cgroups", cgroup="/**"),
    ]
    while files:
        for order in (files, files[::-1]):
            assert of(node.recogniser(*order), node.make(DOCKER)) == files[0].agent
        files = files[1:]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{JOB}/step_0/user/docker-{OTHER}.scope", "job"),  # root made it: a container in a job
        (f"/x/{ID}/trusted.service", "container"),
        (f"/x/{ID}/slurmstepd.scope/job_77/step_0", "container"),
    ],
)
def test_inside_a_container_nothing_else_counts(node: Node, path: str, expected: str) -> None:
    node.slurm.answers["77"] = Job("rome", 61234)
    recogniser = node.recogniser(
        agent("container", container_id=ID), agent("job", slurm_user="rome"), agent("unit", systemd="trusted.service")
    )
    assert of(recogniser, node.make(path)) == expected


def test_only_what_root_made_is_believed(node: Node) -> None:
    """A user who was given a part of the hierarchy may make directories with the names of others' containers."""
    node.docker(agent="rome")
    node.slurm.answers["78"] = Job("milan", 7)
    node.slurm.answers["77"] = Job("rome", 61234)
    recogniser = node.recogniser(
        agent("trusted", container_label="agent"), agent("milan", slurm_user="milan"), agent("rome", slurm_user="rome")
    )
    own = f"{TASK}/own"
    node.make(own)
    os.chown(node.mount / own.strip("/"), 61234, 61234)
    for forged in (f"{own}/docker-{ID}.scope", f"{own}/slurmstepd.scope/job_78"):
        assert of(recogniser, node.make(forged)) == "rome"
    assert of(recogniser, node.make(DOCKER)) == "trusted"


def test_agents_that_claim_the_same_are_told_once(node: Node) -> None:
    node.docker(a="1", b="2")
    recogniser = node.recogniser(agent("zeta", container_label="a=1"), agent("beta", container_label="b=2"))
    for path in (DOCKER, f"{DOCKER}/x", f"{DOCKER}/y"):
        assert of(recogniser, node.make(path)) == "beta"
    assert recogniser.told == [(("beta", "zeta"), DOCKER)]
    assert recogniser.clashes == {("beta", "zeta"): 3}


def test_new_agents_and_new_names(node: Node) -> None:
    node.docker(name="old", agent="rome")
    recogniser = node.recogniser(agent("rome", container_name="new"))
    made = node.make(DOCKER)
    assert of(recogniser, made) is None
    shutil.rmtree(node.root / "var/lib/docker/containers" / ID)
    node.docker(name="new")
    recogniser.use(Agents([agent("milan", container_name="new")]))
    assert of(recogniser, made) == "milan"


def test_what_is_kept_is_bounded(node: Node) -> None:
    recogniser = node.recogniser(agent("rome", container_name="x"))
    for number in range(5000):
        recogniser.of(number, f"/{number:064x}")
    assert recogniser.losses()["cgroups_unrecognised"] == 5000 - 4096
    for number in range(5000):
        recogniser.forget(number)
    assert recogniser.news() == []


@pytest.fixture
def nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[[AgentFile], dict[str, str]]:
    monkeypatch.setenv("PATH", "/nonexistent")
    return lambda file: missing(Agents([file]), Containers(node.root), Jobs())


def test_what_this_node_cannot_tell(nothing: Callable[[AgentFile], dict[str, str]]) -> None:
    assert (
        nothing(agent("rome", Match(cgroup="/x"), Match(slurm_user="rome"), Match(user="rome"), container_id=ID)) == {}
    )
    found = nothing(agent("rome", Match(slurm_account="x"), Match(container_label="x"), slurm_job_name="x"))
    assert sorted(found) == ["container_label", "slurm_account", "slurm_job_name"]
    assert "scontrol" in found["slurm_account"] and "docker" in found["container_label"]
