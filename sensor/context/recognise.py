"""Whose each cgroup is: its path, and what container runtimes and Slurm tell of it, as soon as they do."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import structlog

from sensor.agents_file import AgentFile
from sensor.context.agents import RECORDED, SLURM, Agents, Facts
from sensor.context.containers import Container, Containers
from sensor.context.identity import uid_and_cgroup
from sensor.context.slurm import Job, Jobs
from sensor.context.workload import Workload, parse

log = structlog.get_logger()

_KNOWN = 65_536
_WAITING = 4096
_CONTAINERS = 4096
_A_TURN = 256
"""How many of those that wait are looked at in one call of `news`."""
_OFTEN = 8
"""So many turns in sequence, then every so many-th."""
_PATIENCE = 600
"""How many turns a container's record is waited for."""
_CLASHES = 256


class _Wait:
    """A cgroup of which not all is known yet."""

    def __init__(self, path: str, facts: Facts) -> None:
        self.path = path
        self.facts = facts
        self.turns = 0


class Recogniser:
    """Agents by cgroup. What was once found is a look-up in a dict, until `news` says that it changed.

    A container or a job is believed only where root alone could have made its directory: whoever was given a part
    of the hierarchy may make one there with any name.
    """

    def __init__(
        self,
        mount: Path,
        agents: Agents,
        *,
        containers: Containers | None = None,
        jobs: Jobs | None = None,
        user_name: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        """`mount` is where the whole v2 hierarchy is; `user_name` gives a user's name if it is known."""
        self.evicted = 0
        """Cgroups whose records could not be waited for, for want of room."""
        self.clashes: Counter[tuple[str, ...]] = Counter()
        """Agents that claim a cgroup with equal right, and how many cgroups."""
        self.told: list[tuple[tuple[str, ...], str]] = []
        """New ones of these, and the path of a cgroup; whoever tells of them takes them out."""
        self._mount = os.fsencode(mount)
        self._containers = containers or Containers()
        self._jobs = jobs or Jobs()
        self._user_name = user_name
        self._job_users: OrderedDict[str, int] = OrderedDict()
        self._records: OrderedDict[str, Container] = OrderedDict()
        self.use(agents)

    def use(self, agents: Agents) -> None:
        """From now on these are the agents; what was found is forgotten, and what runtimes said is asked for anew."""
        self._agents = agents
        self._known: dict[int, AgentFile | None] = {}
        self._waiting: dict[int, _Wait] = {}
        self._absent: set[str] = set()
        self._news: set[int] = set()
        self._records.clear()
        self.clashes.clear()
        self.told.clear()

    def of(self, cgroup_id: int, path: str) -> AgentFile | None:
        """The agent of a cgroup."""
        try:
            return self._known[cgroup_id]
        except KeyError:
            return self._find(cgroup_id, path)

    def forget(self, cgroup_id: int) -> None:
        """The cgroup was removed, or is new."""
        self._known.pop(cgroup_id, None)
        self._waiting.pop(cgroup_id, None)

    def wants_user(self, path: str) -> str | None:
        """The job whose user the processes in this cgroup would tell."""
        if not self._agents.uses(("slurm_user",)):
            return None
        job_id = self._believed(path, parse(path)).job_id
        return job_id if job_id and job_id not in self._job_users else None

    def job_runs_as(self, job_id: str, uid: int) -> None:
        """A process of the job, other than root's, has this user: nobody else's can be in it first."""
        if job_id in self._job_users:
            return
        self._job_users[job_id] = uid
        if len(self._job_users) > _CONTAINERS:
            self._job_users.popitem(last=False)
        self._told_of_job(job_id)

    def news(self) -> list[tuple[int, str]]:
        """Cgroups, (id, path) each, of which more is known since the last call; `of` has the new answer.

        To be called about once a second.
        """
        self._absent.clear()
        for job_id in self._jobs.news():
            self._told_of_job(job_id)
        found = []
        news, self._news = self._news, set()
        for cgroup_id, wait in islice(list(self._waiting.items()), _A_TURN):
            del self._waiting[cgroup_id]
            wait.turns += 1
            if cgroup_id not in news and wait.turns > _OFTEN and wait.turns % _OFTEN:
                self._waiting[cgroup_id] = wait
                continue
            facts, complete = self._facts(wait.path, parse(wait.path))
            if not complete and (facts.job_id or wait.turns < _PATIENCE):
                self._waiting[cgroup_id] = wait
            if facts != wait.facts:
                wait.facts = facts
                self._decide(cgroup_id, wait.path, facts)
                found.append((cgroup_id, wait.path))
        return found

    def is_asking(self) -> bool:
        """Whether Slurm has yet to answer."""
        return self._jobs.is_asking()

    def missing(self) -> dict[str, str]:
        """Matches for which this node offers no way -> why."""
        return missing(self._agents, self._containers, self._jobs)

    def losses(self) -> dict[str, int]:
        return {"jobs_unanswered": self._jobs.unanswered, "cgroups_unrecognised": self.evicted}

    def _find(self, cgroup_id: int, path: str) -> AgentFile | None:
        facts, complete = self._facts(path, parse(path))
        if not complete and cgroup_id not in self._waiting:
            if len(self._waiting) < _WAITING:
                self._waiting[cgroup_id] = _Wait(path, facts)
            else:
                self.evicted += 1
        return self._decide(cgroup_id, path, facts)

    def _decide(self, cgroup_id: int, path: str, facts: Facts) -> AgentFile | None:
        found = self._agents.find(path, parse(path), facts)
        if found.rivals:
            self._clash(found.rivals, path)
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[cgroup_id] = found.agent
        return found.agent

    def _clash(self, rivals: tuple[str, ...], path: str) -> None:
        if rivals not in self.clashes:
            if len(self.clashes) >= _CLASHES:
                return
            self.told.append((rivals, path))
            log.error("agents claim the same workload with equal right", agents=rivals, cgroup=path, taken=rivals[0])
        self.clashes[rivals] += 1

    def _facts(self, path: str, workload: Workload) -> tuple[Facts, bool]:
        """What is known now, and whether that is all there will be."""
        believed = self._believed(path, workload)
        container, job = None, None
        complete = True
        if believed.container_id and self._agents.uses(RECORDED):
            container = self._record(believed.container_id)
            complete = container is not None
        if believed.job_id and self._agents.uses(SLURM):
            job, told = self._job(believed.job_id, path)
            complete = complete and told
        return Facts(believed.container_id, container, believed.job_id, job), complete

    def _believed(self, path: str, workload: Workload) -> Facts:
        container, job = workload.container_id, workload.slurm_job_id
        if container and not self._only_root_makes(path[: path.find(container)]):
            container = None
        if job and not self._only_root_makes(path[: f"{path}/".find(f"/job_{job}/") + 1]):
            job = None
        return Facts(container_id=container, job_id=job)

    def _only_root_makes(self, above: str) -> bool:
        """`above`: the path up to where the name of a directory begins, or into that name."""
        parts = above.split("/")[:-1]
        places = (Path(os.fsdecode(self._mount), *parts[1:end]) for end in range(1, len(parts) + 1))
        try:
            return all(place.stat().st_uid == 0 for place in places)
        except OSError:  # gone already, or its name is no text
            return False

    def _record(self, container_id: str) -> Container | None:
        record = self._records.get(container_id)
        if record is None and container_id not in self._absent:
            record = self._containers.look_up(container_id)
            if record is None:
                self._absent.add(container_id)
            else:
                self._records[container_id] = record
                if len(self._records) > _CONTAINERS:
                    self._records.popitem(last=False)
        return record

    def _job(self, job_id: str, path: str) -> tuple[Job | None, bool]:
        told = self._jobs.look_up(job_id)
        if told is not None:
            return told, True
        uid = self._job_users.get(job_id)
        if uid is None and (uid := self._user_of_members(path)) is not None:
            self.job_runs_as(job_id, uid)
        if uid is None:
            return None, False
        name = self._user_name(uid)
        return Job(user=name, uid=uid), name is not None and not self._jobs.may_learn(job_id)

    def _user_of_members(self, path: str) -> int | None:
        """The user, other than root, of a process in this cgroup."""
        try:
            with open(self._mount + os.fsencode(path) + b"/cgroup.procs", "rb") as file:
                members = file.read(65_536).split()
        except OSError:  # gone, or threaded
            return None
        found = (uid_and_cgroup(int(member)) for member in members)
        return next((told[0] for told in found if told and told[0]), None)

    def _told_of_job(self, job_id: str) -> None:
        of_job = f"/job_{job_id}/"
        found = [cgroup_id for cgroup_id, wait in self._waiting.items() if of_job in f"{wait.path}/"]
        first = {cgroup_id: self._waiting.pop(cgroup_id) for cgroup_id in found}
        self._waiting = first | self._waiting  # a turn comes no further than so many
        self._news.update(found)


def missing(agents: Agents, containers: Containers, jobs: Jobs) -> dict[str, str]:
    """Forms of matches that agents use and that this node offers no way to tell -> why."""
    found = {form: containers.missing() for form in sorted(RECORDED)}
    found |= {form: jobs.missing() for form in SLURM if form != "slurm_user"}
    return {form: why for form, why in found.items() if why and agents.uses((form,))}
