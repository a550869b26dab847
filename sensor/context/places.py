"""All that an event says of the cgroup it happened in, worked out once for each."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from sensor.context.cgroups import Cgroups
from sensor.context.membership import Membership, agent_fields
from sensor.context.workload import parse

_LIMIT = 16_384
_USERS_LIMIT = 1_024


class Place(msgspec.Struct, frozen=True, gc=False):
    """All that an event says of its cgroup."""

    path: str | None = None
    container_id: str | None = None
    systemd_unit: str | None = None
    slurm_job_id: str | None = None
    kubernetes_pod: str | None = None
    agent: str | None = None
    agent_owner: str | None = None
    agent_purpose: str | None = None
    agent_gpu: bool | None = None
    agent_egress: str | None = None
    by_user: bool = False
    """The agent is the user's, not the cgroup's."""
    asks_user: str | None = None
    """The Slurm job whose user is not known yet."""


class Places:
    """Places by cgroup, and by user where that tells the agent; at most some thousands of each."""

    def __init__(self, cgroups: Cgroups, members: Membership) -> None:
        self._cgroups = cgroups
        self._members = members
        self._known: dict[int, dict[int, Place]] = {}

    def of(self, cgroup_id: int, uid: int, user: str | None) -> Place:
        """Where a task of this cgroup and user runs."""
        key = uid if self._members.agents.by_user else 0
        here = self._known.get(cgroup_id)
        place = here.get(key) if here else None
        if place is None:
            path = self._cgroups.path(cgroup_id)
            place = self._describe(cgroup_id, path, uid, user)
            if path is not None:
                self._keep(cgroup_id, key, place)
        return place

    def _keep(self, cgroup_id: int, key: int, place: Place) -> None:
        if len(self._known) >= _LIMIT:
            self._known.clear()
        here = self._known.setdefault(cgroup_id, {})
        if len(here) >= _USERS_LIMIT:
            here.clear()
        here[key] = place

    def clear(self) -> None:
        """Agents are others now."""
        self._known.clear()

    def forget(self, cgroup_ids: Collection[int]) -> None:
        """What is known of these cgroups holds no longer."""
        for cgroup_id in cgroup_ids:
            self._known.pop(cgroup_id, None)

    def _describe(self, cgroup_id: int, path: str | None, uid: int, user: str | None) -> Place:
        workload = parse(path or "/")
        own = self._members.recogniser.of(cgroup_id, path) if path is not None else None
        agent = own or self._members.agents.of_user(user, uid)
        return Place(
            path=path,
            container_id=workload.container_id,
            systemd_unit=workload.systemd_unit,
            slurm_job_id=workload.slurm_job_id,
            kubernetes_pod=workload.kubernetes_pod,
            by_user=own is None and agent is not None,
            asks_user=self._members.recogniser.wants_user(path) if path is not None else None,
            **agent_fields(agent),
        )
