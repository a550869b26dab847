"""Who belongs to which agent, by cgroup or by user, and who has to know of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import psutil

from sensor.agents_file import AgentFile
from sensor.context.agents import Agents
from sensor.context.containers import Containers
from sensor.context.identity import uid_and_cgroup
from sensor.context.recognise import Recogniser
from sensor.context.slurm import Jobs


class Follower(Protocol):
    """Who has to know at once what belongs to which agent: `sensor.respond.brakes.Brakes`."""

    def made(self, cgroup_id: int, path: str, agent: str | None) -> None:
        """This cgroup is new, or is now known to be this agent's, or nobody's."""

    def removed(self, cgroup_id: int) -> None: ...

    def belongs(self, tgid: int, agent: str, path: str) -> None:
        """This process, in a cgroup that is nobody's, is an agent's by its user."""

    def bound(self) -> list[tuple[int, str]]:
        """(process, agent) of all that live under limits."""

    def leaves(self, tgid: int) -> None:
        """This process is no agent's any more."""

    def name(self, number: int) -> str | None:
        """The agent that the kernel side knows by this number."""


def agent_fields(agent: AgentFile | None) -> dict[str, Any]:
    """What an event says of its agent."""
    if agent is None:
        return {}
    return {
        "agent": agent.agent,
        "agent_owner": agent.owner.name,
        "agent_purpose": agent.purpose,
        "agent_gpu": agent.gpu.allow if agent.gpu else None,
        "agent_egress": agent.egress.default if agent.egress else None,
    }


class Membership:
    """The agents, and whose each cgroup and process is."""

    def __init__(
        self,
        mount: Path,
        agents: Agents,
        user_name: Callable[[int], str | None],
        containers: Containers | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        """`mount` is where the whole v2 hierarchy is."""
        self.agents = agents
        self.recogniser = Recogniser(mount, agents, containers=containers, jobs=jobs, user_name=user_name)
        self.follower: Follower | None = None
        self._user_name = user_name

    def use(self, agents: Agents) -> None:
        """From now on these are the agents. Whoever follows is then to be told of all cgroups, and `bind_users`
        called."""
        self.agents = agents
        self.recogniser.use(agents)

    def of_cgroup(self, cgroup_id: int, path: str) -> str | None:
        """The agent that a cgroup belongs to."""
        agent = self.recogniser.of(cgroup_id, path)
        return agent.agent if agent else None

    def of_number(self, number: int) -> AgentFile | None:
        """The agent whose limit the kernel side applied."""
        return self.agents.named(self.follower.name(number)) if self.follower else None

    def made(self, cgroup_id: int, path: str) -> None:
        """The cgroup is new."""
        self.recogniser.forget(cgroup_id)
        if self.follower:
            self.follower.made(cgroup_id, path, self.of_cgroup(cgroup_id, path))

    def removed(self, cgroup_id: int) -> None:
        """The cgroup is gone."""
        self.recogniser.forget(cgroup_id)
        if self.follower:
            self.follower.removed(cgroup_id)

    def news(self) -> set[int]:
        """Cgroups of which runtimes and Slurm have told more since the last call."""
        found = self.recogniser.news()
        for cgroup_id, path in found:
            if self.follower:
                self.follower.made(cgroup_id, path, self.of_cgroup(cgroup_id, path))
        return {cgroup_id for cgroup_id, _ in found}

    def bind_users(self, cgroups: Iterable[tuple[int, str]], before: Agents | None = None) -> None:
        """Tell the follower of all processes that are older than the agents and belong to one by their user; and of
        those that did with the agents of `before`, and do no longer. `cgroups`: (id, path) of all there are.
        """
        if not self.follower or not (self.agents.by_user or (before and before.by_user)):
            return
        ids = {path: cgroup_id for cgroup_id, path in cgroups}
        held = dict(self.follower.bound())
        seen: set[int] = set()
        while new := set(psutil.pids()) - seen:  # until none was forked meanwhile by one not yet bound
            seen |= new
            for tgid in new:
                self._bind_user(self.follower, tgid, ids, held.get(tgid), before)

    def _bind_user(
        self, follower: Follower, tgid: int, ids: dict[str, int], held: str | None, before: Agents | None
    ) -> None:
        found = uid_and_cgroup(tgid)
        if found is None or (found[1] in ids and self.of_cgroup(ids[found[1]], found[1]) is not None):
            return
        uid, path = found
        name = self._user_name(uid)
        agent = self.agents.of_user(name, uid)
        was = before.of_user(name, uid) if before else None
        if agent is not None:
            follower.belongs(tgid, agent.agent, path)
        elif was is not None and held == was.agent:
            follower.leaves(tgid)
