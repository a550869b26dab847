"""Verdict -> what to do to whom. Policy only: nothing is acted on here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from sensor.events import AnyEvent, ProcessCreation
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.guards import Guards
from sensor.verdict import Action, Scope, Verdict

_SLURM_JOB = re.compile(r"/.*?slurmstepd\.scope/job_[^/]+(?=/|$)", re.DOTALL)
_SLURM_USER = re.compile(_SLURM_JOB.pattern + r"/step_[^/]+/user(?=/|$)", re.DOTALL)

AgentCgroups = Callable[[str], Sequence[str]]
"""The cgroup paths of all workloads of an agent."""


class Target(msgspec.Struct, frozen=True):
    """One cgroup. Where `id` is known, it is the only cgroup meant, whatever else has that path by now."""

    path: str
    id: int | None = None
    witness: tuple[str, int] | None = None
    """(path, id) of a cgroup below, whose being there shows that this is still the same one."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict asks for, after the guards."""

    action: Action
    scope: Scope
    cgroups: tuple[Target, ...] = ()
    process: str | None = None
    """ProcessGuid of the event's process: the target where `cgroups` is empty, else it has to die too."""
    reason: str | None = None
    """Why the scope is not what the rule asked for, or why nothing is to be done."""
    refused: bool = False
    decided: bool = False
    """A person decided it, or let the time for it pass: the limit of kills does not count."""
    thaw: bool = False
    """Of a freeze: undo it."""


class Planner:
    """Applies scope, workload boundaries and guards."""

    def __init__(self, root: CgroupRoot, guards: Guards, agent_cgroups: AgentCgroups | None = None) -> None:
        self._root = root
        self._guards = guards
        self._agent_cgroups = agent_cgroups

    def plan(self, verdict: Verdict) -> Plan:
        rule, event = verdict.rule, verdict.event
        if rule.action == "alert":
            return Plan(action="alert", scope=rule.scope)
        if rule.action == "deny" and not isinstance(event, ProcessCreation):
            return self._refused(verdict, "it has happened; only a limit in an agent's file denies it in time")
        if rule.scope == "process" or rule.action == "deny":
            return self._process_plan(verdict, None)
        if rule.scope == "agent" and (plan := self._agent_plan(verdict)):
            return plan
        if event.cgroup_path is None:
            return self._process_plan(verdict, "the cgroup is unknown")
        target, workload = boundary(event)
        outside = self._guards.outside(target.path)
        if outside:  # the workload is larger than what is watched, so all that is watched is part of it
            target, workload = Target(self._guards.within, None, target.witness), False
        refusal = self._guards.refusal(target.path, workload)
        if refusal:
            return self._process_plan(verdict, refusal)
        reason = f"{outside}; only the part in it" if outside else None
        return Plan(action=rule.action, scope="cgroup", cgroups=(target,), process=event.process_guid, reason=reason)

    def _agent_plan(self, verdict: Verdict) -> Plan | None:
        """None where nothing says which cgroups are the agent's, or none of them may be acted on."""
        event = verdict.event
        own = event.cgroup_path
        paths = list(self._agent_cgroups(event.agent)) if self._agent_cgroups and event.agent else []
        if not paths and own and (job := _SLURM_JOB.match(own)):
            paths = [job.group()]
        if not paths or own is None:
            return None
        targets = {target.path: target for path in paths for target in workloads(self._root, path)}
        targets[boundary(event)[0].path] = boundary(event)[0]
        refusals = {path: self._guards.refusal(path, is_workload(path, event.container_id)) for path in targets}
        allowed = [target for path, target in targets.items() if refusals[path] is None]
        if not allowed:
            return None
        left_out = [reason for reason in refusals.values() if reason]
        return Plan(
            action=verdict.rule.action,
            scope="agent",
            cgroups=tuple(_topmost(allowed)),
            process=event.process_guid,
            reason=f"left out: {'; '.join(left_out)}" if left_out else None,
        )

    def _process_plan(self, verdict: Verdict, why: str | None) -> Plan:
        event = verdict.event
        if event.process_id is None or event.process_guid is None:
            return self._refused(verdict, _joined(why, "the process is unknown"))
        refusal = self._guards.process_refusal(event.process_id)
        if refusal:
            return self._refused(verdict, _joined(why, refusal))
        if verdict.rule.action in ("freeze", "isolate"):
            done = "frozen" if verdict.rule.action == "freeze" else "cut off"
            return self._refused(verdict, _joined(why, f"only whole cgroups are {done}"))
        reason = f"{why}; only the process and its descendants" if why else None
        return Plan(action=verdict.rule.action, scope="process", process=event.process_guid, reason=reason)

    @staticmethod
    def _refused(verdict: Verdict, reason: str) -> Plan:
        return Plan(action=verdict.rule.action, scope=verdict.rule.scope, reason=reason, refused=True)


def boundary(event: AnyEvent) -> tuple[Target, bool]:
    """The cgroup of the workload that the event's cgroup is part of, and whether its name shows that it is one.

    A container's cgroup, a Slurm step's `user` cgroup (job_N itself would take slurmstepd along, and Slurm
    would never learn that the step is over), else the event's own.
    """
    path = event.cgroup_path or "/"
    slurm = _SLURM_USER.match(path)
    above = slurm.group() if slurm else _container_boundary(path, event.container_id)
    if above is None:
        return Target(path, event.cgroup_id), False
    if above == path:
        return Target(path, event.cgroup_id), True
    witness = None if event.cgroup_id is None else (path, event.cgroup_id)
    return Target(above, None, witness), True


def _container_boundary(path: str, container_id: str | None) -> str | None:
    if not container_id:
        return None
    parts = path.split("/")
    for end, part in enumerate(parts, 1):
        if container_id in part and "conmon" not in part:
            return "/".join(parts[:end])
    return None


def workloads(root: CgroupRoot, path: str) -> list[Target]:
    """What there is to act on at `path`: of a Slurm job its steps' `user` cgroups, else the cgroup itself."""
    user = _SLURM_USER.match(path)
    if user:
        return [Target(user.group())]
    if not _SLURM_JOB.match(path):
        return [Target(path)]
    return [Target(below) for below in root.below(path) if _SLURM_USER.fullmatch(below)]


def is_workload(path: str, container_id: str | None) -> bool:
    """The path's form shows that users' processes alone are there, so that it may lie in a protected unit."""
    return bool(_SLURM_USER.fullmatch(path)) or _container_boundary(path, container_id) == path


def _topmost(targets: Sequence[Target]) -> list[Target]:
    """Without those that lie below another: acting on a cgroup includes all below it."""
    paths = {target.path for target in targets}
    return [target for target in targets if not any(above in paths for above in _above(target.path))]


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts))]


def _joined(*reasons: str | None) -> str:
    return "; ".join(reason for reason in reasons if reason)
