"""Keeps what is held from starting: frozen as soon as it is made, and in the kernel no program of it begins."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from sensor import wire
from sensor.context.workload import parse
from sensor.match.limits import Limits, Programs
from sensor.respond import holds
from sensor.respond.brakes import AgentOf, Brakes
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.guards import Guards
from sensor.respond.holds import Hold, Target
from sensor.respond.plan import is_workload

log = structlog.get_logger()

_NOTHING = Programs(every=(re.compile(r"(?!)"),))
"""The list of allowed programs of an agent that may run none."""
_SETTLED_NS = 1_000_000_000
"""A directory that changed less long ago may change again and keep its time: the clock's ticks are coarse."""


class Keeper:
    """The holds on disk, as the sensor honours them."""

    def __init__(self, directory: Path, root: CgroupRoot, guards: Guards) -> None:
        self.failures: Counter[str] = Counter()
        """What could not be read, written or frozen: a hold with a hole in it."""
        self._directory = directory
        self._root = root
        self._guards = guards
        self._holds: dict[Target, Hold] = {}
        self._own: dict[Target, dict[str, int]] = {}
        """What this sensor froze, by hold: path -> id."""
        self._stamp: int | None = None
        self.shared: set[str] = set()
        """Cgroups that hold others than what is held: to freeze them would stop these."""

    def guard(self, guards: Guards) -> None:
        """Replaces the guards."""
        self._guards = guards

    def held(self) -> list[str]:
        """For `status`."""
        return [str(target) for target in sorted(self._holds)]

    def holds_agent(self, name: str) -> bool:
        return Target("agent", name) in self._holds

    def refresh(self) -> bool:
        """Look at the directory again; True where what is held has changed. What was released is thawed."""
        try:
            stamp = self._directory.stat().st_mtime_ns if self._directory.is_dir() else 0
            if stamp == self._stamp:
                return False
            found, damaged = holds.read_holds(self._directory)
        except OSError as error:
            self._failed("read", str(error))
            return False
        for name in damaged:
            self._failed("damaged", f"{name} does not say what it holds")
        self._stamp = stamp if time.time_ns() - stamp > _SETTLED_NS else None
        before, self._holds = self._holds.keys(), {hold.target: hold for hold in found}
        for target in before - self._holds.keys():
            log.info("released", what=str(target))
            self._thaw(self._own.pop(target, {}))
        for target in self._holds.keys() - before:
            log.warning("held: nothing of it starts", what=str(target))
        return before != self._holds.keys()

    def made(self, cgroup_id: int, path: str, agent: str | None) -> None:
        """Freeze this cgroup if it is held."""
        target = self._target(path, agent)
        if target is None or path in self._own.get(target, {}) or path in self.shared:
            return
        refusal = self._guards.refusal(path, workload=is_workload(path, parse(path).container_id))
        if refusal:
            log.warning("held, but not frozen", cgroup=path, reason=refusal)
            return
        try:
            self._freeze(target, path, cgroup_id)
        except OSError as error:
            self._failed("freeze", f"{path}: {error}")

    def removed(self, cgroup_id: int) -> None:
        for frozen in self._own.values():
            for path in [path for path, own in frozen.items() if own == cgroup_id]:
                del frozen[path]

    def _target(self, path: str, agent: str | None) -> Target | None:
        if agent is not None and Target("agent", agent) in self._holds:
            return Target("agent", agent)
        return self._holds[named].target if (named := Target("cgroup", path)) in self._holds else None

    def _freeze(self, target: Target, path: str, cgroup_id: int) -> None:
        cgroup = self._root.open(path, cgroup_id)
        if cgroup is None:
            return
        try:
            frozen = holds.freeze([cgroup])
        finally:
            cgroup.close()
        if not frozen:
            return
        self._own.setdefault(target, {}).update(frozen)
        log.warning("held: frozen as it was made", cgroup=path, what=str(target))
        if not holds.add(self._directory, target, frozen):
            self._thaw(self._own.pop(target))

    def _thaw(self, frozen: dict[str, int]) -> None:
        for failed in holds.thaw(self._root, frozen):
            self._failed("thaw", failed)

    def _failed(self, what: str, why: str) -> None:
        self.failures[what] += 1
        log.error("a hold has a hole", what=what, reason=why)


class HoldingBrakes(Brakes):
    """Brakes that know of holds as well."""

    keeper: Keeper

    def use(
        self, limits: Mapping[str, Limits], cgroups: Iterable[tuple[int, str]], agent_of: AgentOf, *rest: Any
    ) -> None:
        """As `Brakes.use`; of agents that are held no program begins, in monitor mode too."""
        self._stated = limits, agent_of, rest
        cgroups = list(cgroups)
        self.keeper.shared = self._shared(cgroups, agent_of) if self.keeper.held() else set()
        held = {
            name: replace(limit, deny=Programs(), allow=_NOTHING) if self.keeper.holds_agent(name) else limit
            for name, limit in limits.items()
        }
        super().use(held, cgroups, agent_of, *rest)

    def renew(self, cgroups: Iterable[tuple[int, str]]) -> None:
        """What is held has changed; `cgroups` is every cgroup that there is."""
        limits, agent_of, rest = self._stated
        self.use(limits, cgroups, agent_of, *rest)

    def _shared(self, cgroups: Iterable[tuple[int, str]], agent_of: AgentOf) -> set[str]:
        owners = ((path, agent_of(cgroup_id, path)) for cgroup_id, path in cgroups)
        others = [path for path, owner in owners if owner is not None and not self.keeper.holds_agent(owner)]
        return {path[:end] for path in others for end, letter in enumerate(path) if letter == "/" and end}

    def made(self, cgroup_id: int, path: str, agent: str | None) -> None:
        super().made(cgroup_id, path, agent)
        self.keeper.made(cgroup_id, path, agent)

    def removed(self, cgroup_id: int) -> None:
        super().removed(cgroup_id)
        self.keeper.removed(cgroup_id)

    def _flags(self, limits: Limits) -> int:
        return super()._flags(limits) | (wire.LIMIT_ENFORCED if self.keeper.holds_agent(limits.agent) else 0)
