"""Which agent a workload belongs to: the agents' files, compiled. docs/AGENTS.md says the same for their authors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from sensor.agents_file import AgentFile
from sensor.context.containers import Container, label_of
from sensor.context.slurm import Job
from sensor.context.workload import Workload
from sensor.globs import compile_glob, literal_length, plain_image

FORMS = (
    "container_id",
    "container_name",
    "container_label",
    "container_image",
    "cgroup",
    "systemd",
    "slurm_user",
    "slurm_account",
    "slurm_job_name",
)
"""In the order in which they win where they pin equally much of a cgroup's path. A job's name comes last: whoever
submits it chooses it, and must not leave its user's or account's agent by that."""
RECORDED = frozenset({"container_name", "container_label", "container_image"})
SLURM = ("slurm_user", "slurm_account", "slurm_job_name")

_Rank: TypeAlias = tuple[int, int, int, int]


class Facts(msgspec.Struct, frozen=True):
    """What is known of a cgroup besides its path. None: nothing, or nothing that is believed."""

    container_id: str | None = None
    container: Container | None = None
    job_id: str | None = None
    job: Job | None = None


class Found(NamedTuple):
    """Whose a cgroup is."""

    agent: AgentFile | None = None
    rivals: tuple[str, ...] = ()
    """Agents, by name, that claim it with equal right; the first has it."""


class _Glob(NamedTuple):
    pattern: re.Pattern[str]
    literal: int
    exact: int
    agent: AgentFile


class Agents:
    """All agents. An event belongs to at most one: the most specific match.

    Specific is what pins more characters of the cgroup's path: for a cgroup glob those before its first wildcard;
    for a unit glob the path down to the unit and those of the glob before its first wildcard; for containers and
    jobs the path down to them. Where that is equal the order of `FORMS` decides, then what pins more of the name.
    A user counts only where nothing else matches.

    Units are those of the system's manager: what runs below user@N.service is named by that user. Inside a container
    neither unit nor job counts: it may have made the directory itself.
    """

    def __init__(self, files: Iterable[AgentFile] = ()) -> None:
        self._globs: dict[str, list[_Glob]] = {form: [] for form in FORMS}
        self._users: dict[str, AgentFile] = {}
        agents = sorted(files, key=lambda file: file.agent)
        self._named = {agent.agent: agent for agent in agents}
        for agent in agents:
            for match in agent.match:
                self._add(agent, match.form, match.pattern)

    def _add(self, agent: AgentFile, form: str, pattern: str) -> None:
        if form == "user":
            self._users.setdefault(pattern, agent)
            return
        literal = literal_length(pattern)
        exact = int(literal == len(pattern))
        if form == "container_id":
            compiled = re.compile(re.escape(pattern) + "[0-9a-f]*")
        elif form == "container_label":
            compiled = re.compile(re.escape(pattern))
            literal, exact = 0, int("=" in pattern)
        elif form == "container_image":
            compiled, literal = compile_glob(plain_image(pattern), paths=False), literal_length(plain_image(pattern))
        else:
            compiled = compile_glob(pattern, paths=form == "cgroup")
        self._globs[form].append(_Glob(compiled, literal, exact, agent))

    def named(self, name: str | None) -> AgentFile | None:
        """The agent with this name."""
        return self._named.get(name or "")

    def files(self) -> list[AgentFile]:
        """All agents, by name."""
        return list(self._named.values())

    def __len__(self) -> int:
        return len(self._named)

    @property
    def by_user(self) -> bool:
        """Whether any agent is recognised by its user."""
        return bool(self._users)

    def uses(self, forms: Iterable[str]) -> bool:
        """Whether any agent is recognised by one of these forms."""
        return any(self._globs[form] for form in forms)

    def of_cgroup(self, path: str, workload: Workload, facts: Facts = Facts()) -> AgentFile | None:  # noqa: B008 (frozen)
        """The agent that the cgroup at `path` belongs to."""
        return self.find(path, workload, facts).agent

    def find(self, path: str, workload: Workload, facts: Facts) -> Found:
        """As `of_cgroup`, and who else claims it with equal right."""
        best: _Rank | None = None
        agents: dict[str, AgentFile] = {}
        for rank, agent in self._claims(path, workload, facts):
            if best is None or rank > best:
                best, agents = rank, {}
            if rank == best:
                agents[agent.agent] = agent
        names = tuple(sorted(agents))
        return Found(agents[names[0]], names if len(names) > 1 else ()) if names else Found()

    def _claims(self, path: str, workload: Workload, facts: Facts) -> Iterator[tuple[_Rank, AgentFile]]:
        container = path.find(facts.container_id) if facts.container_id else len(path)
        yield from self._matching("cgroup", path)
        if workload.system_unit is not None and workload.system_unit[0] <= container:
            yield from self._matching("systemd", workload.system_unit[1], workload.system_unit[0])
        if facts.container_id:
            yield from self._of_container(container + len(facts.container_id), facts.container_id, facts.container)
        job_at = f"{path}/".find(f"/job_{facts.job_id}/") if facts.job_id else -1
        if facts.job is not None and 0 <= job_at < container:
            pinned = job_at + len(f"/job_{facts.job_id}")
            for form, text in zip(SLURM, _told(facts.job), strict=True):
                for one in text:
                    yield from self._matching(form, one, pinned, whole=True)

    def _of_container(
        self, pinned: int, container_id: str, told: Container | None
    ) -> Iterator[tuple[_Rank, AgentFile]]:
        yield from self._matching("container_id", container_id, pinned, whole=True)
        if told is None:
            return
        if told.name:
            yield from self._matching("container_name", told.name, pinned, whole=True)
        if told.image:
            yield from self._matching("container_image", plain_image(told.image), pinned, whole=True)
        if self._globs["container_label"]:
            for key, value in told.labels.items():
                for text in (key, label_of(key, value)):
                    yield from self._matching("container_label", text, pinned, whole=True)

    def _matching(self, form: str, text: str, start: int = 0, whole: bool = False) -> Iterator[tuple[_Rank, AgentFile]]:
        """`whole`: the path is pinned up to `start`, however little of the text is."""
        order = -FORMS.index(form)
        for glob in self._globs[form]:
            if glob.pattern.fullmatch(text):
                pinned = start if whole else start + glob.literal
                yield (pinned, order, glob.exact, glob.literal), glob.agent

    def of_user(self, name: str | None, uid: int) -> AgentFile | None:
        """The agent of this user, named in its file by name or else by number."""
        return self._users.get(name or "") or self._users.get(str(uid))


def _told(job: Job) -> tuple[tuple[str, ...], ...]:
    user = tuple(text for text in (job.user, None if job.uid is None else str(job.uid)) if text)
    return user, (job.account,) if job.account else (), (job.name,) if job.name else ()
