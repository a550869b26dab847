"""Agents' limits, put where the kernel enforces them: which cgroup is under which limits, from start to end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from sensor import wire
from sensor.kernel.libbpf import BpfError
from sensor.kernel.policies import Policies, ProgramTree
from sensor.match.limits import Limits
from sensor.verdict import Mode

log = structlog.get_logger()

_FIRST_NUMBER = 1
_LAST_NUMBER = 0xFFFF - 1

AgentOf = Callable[[int, str], str | None]
"""The agent of a cgroup, by id and path."""


class Brakes:
    """Keeps the policy maps as the agents' files say. An agent keeps its number as long as the sensor runs."""

    def __init__(self, policies: Policies, mount: Path, scope: str = "/") -> None:
        """`mount` is where the whole v2 hierarchy is; only cgroups in `scope` are limited."""
        self.failures: Counter[str] = Counter()
        """What the kernel refused, by what it was: a limit that could not be set is a hole."""
        self._policies = policies
        self._mount = mount
        self._scope = scope
        self._below = scope.rstrip("/") + "/"
        self._enforced = 0
        self._numbers: dict[str, int] = {}
        self._limits: dict[str, Limits] = {}
        self._places: dict[int, str] = {}
        self._states: dict[int, dict[bytes, int]] = {}

    def name(self, number: int) -> str | None:
        """The agent with this number."""
        return next((name for name, own in self._numbers.items() if own == number), None)

    def use(
        self, limits: Mapping[str, Limits], cgroups: Iterable[tuple[int, str]], agent_of: AgentOf, mode: Mode
    ) -> None:
        """From now on these are the limits, and `cgroups`, (id, path) each, is every cgroup that there is.

        First what is allowed, then what is limited and whose each cgroup is, then what is no longer allowed: nothing
        that both the old and the new limits let happen is denied in between, and nothing that both deny happens.
        """
        before = self._limits
        self._enforced = wire.LIMIT_ENFORCED if mode == "enforce" else 0
        self._limits = {name: limit for name, limit in limits.items() if _is_limiting(limit)}
        for name in self._limits:
            if name not in self._numbers and len(self._numbers) < _LAST_NUMBER:
                self._numbers[name] = _FIRST_NUMBER + len(self._numbers)
        for name, limit in self._limits.items():
            self._allow(self._numbers[name], before.get(name), limit)
        self._try("policies", self._policies.use, bool(self._limits or before), False)
        for name, limit in self._limits.items():
            self._try("limits", self._policies.limit, self._numbers[name], self._flags(limit))
        for cgroup_id, path in cgroups:
            self.made(cgroup_id, path, agent_of(cgroup_id, path))
        for name in before.keys() - self._limits.keys():
            self._lift(self._numbers[name])
        for name, limit in before.items():
            self._forget(self._numbers[name], limit, self._limits.get(name))
        self._try("policies", self._policies.use, bool(self._limits), False)

    def _lift(self, number: int) -> None:
        """The agent is gone, or has no limits any more: so have its processes."""
        self._try("limits", self._policies.limit, number, 0)
        for tgid, held in self._policies.bound():
            if held == number:
                self._try("processes", self._policies.unbind, tgid)

    def made(self, cgroup_id: int, path: str, agent: str | None) -> None:
        """The cgroup belongs to `agent` now, or to none. What is in it already is bound, too; but whoever came from
        another agent's cgroup stays under that one's limits as well.
        """
        known = self._places.get(cgroup_id)
        wanted = agent if agent in self._limits and self._is_in_scope(path) else None
        if wanted == known and (wanted or not self._limits):
            return
        try:
            self._place(cgroup_id, path, known, wanted)
        except BpfError as error:
            self._failed("policies", error)

    def _place(self, cgroup_id: int, path: str, known: str | None, wanted: str | None) -> None:
        if wanted is None and known is None:
            self._policies.release(cgroup_id)  # what it has by inheritance
            return
        number = self._numbers[wanted] if wanted else 0
        held, _ = self._policies.assigned(cgroup_id) or (0, 0)
        if wanted:
            self._places[cgroup_id] = wanted
            self._policies.assign(cgroup_id, number)
        else:
            del self._places[cgroup_id]
            self._policies.release(cgroup_id)
        for tgid in self._members(path):
            bound = self._policies.binding(tgid)
            if bound in (None, held) and number:
                self._policies.bind(tgid, number)
            elif bound is not None and bound == held:
                self._policies.unbind(tgid)

    def belongs(self, tgid: int, agent: str, path: str) -> None:
        """A process in a cgroup that is nobody's is an agent's by its user."""
        if agent in self._limits and self._is_in_scope(path):
            self._try("processes", self._policies.bind, tgid, self._numbers[agent])

    def bound(self) -> list[tuple[int, str]]:
        """(process, agent) of all that live under limits."""
        names = {number: name for name, number in self._numbers.items()}
        return [(tgid, names[number]) for tgid, number in self._policies.bound() if number in names]

    def leaves(self, tgid: int) -> None:
        """The process is no agent's any more."""
        self._try("processes", self._policies.unbind, tgid)

    def _is_in_scope(self, path: str) -> bool:
        return path == self._scope or path.startswith(self._below)

    def removed(self, cgroup_id: int) -> None:
        """The kernel side has already forgotten it."""
        self._places.pop(cgroup_id, None)

    def _members(self, path: str) -> list[int]:
        try:
            text = Path(os.fsdecode(os.fsencode(self._mount) + os.fsencode(path)), "cgroup.procs").read_text()
        except OSError:  # removed, or a threaded cgroup, which has no processes of its own
            return []
        return [int(tgid) for tgid in text.split()]

    def _flags(self, limits: Limits) -> int:
        flags = self._enforced
        flags |= wire.LIMIT_EGRESS if limits.has_egress else 0
        flags |= wire.LIMIT_GPU if limits.has_gpu else 0
        flags |= wire.LIMIT_PROGRAMS if limits.deny.every else 0
        return flags | (wire.LIMIT_PROGRAMS_ALONE if limits.alone else 0)

    def _allow(self, number: int, before: Limits | None, now: Limits) -> None:
        known = before.networks if before else frozenset()
        for network, port in now.networks - known:
            self._try("egress", self._policies.allow_egress, number, network, port)
        old = self._tree(number, before) if before else {}
        for key, node in self._tree(number, now).items():
            self._try("programs", self._policies.name_program, key, _either(node, old.get(key)))

    def _forget(self, number: int, before: Limits, now: Limits | None) -> None:
        for network, port in before.networks - (now.networks if now else frozenset()):
            self._try("egress", self._policies.forbid_egress, number, network, port)
        old, new = self._tree(number, before), self._tree(number, now) if now else {}
        for key in old.keys() - new.keys():
            self._try("programs", self._policies.forget_program, key)
        for key in old.keys() & new.keys():
            if _either(new[key], old[key]) != new[key]:
                self._try("programs", self._policies.name_program, key, new[key])

    def _tree(self, number: int, limits: Limits) -> dict[bytes, bytes]:
        """What the kernel can decide of programs. A directory keeps its state as long as the sensor runs, so that the
        new entries lead on from those of before.
        """
        tree = ProgramTree(number, self._states.setdefault(number, {}))
        for programs, verdict in ((limits.deny, wire.PROGRAM_DENIED), (limits.allow, wire.PROGRAM_ALLOWED)):
            for name in programs.names:
                tree.add_name(name, verdict)
            for path in programs.paths:
                tree.add_path(path, verdict)
            for path in programs.below:
                tree.add_path(path, verdict, below=True)
        return tree.entries()

    def _try(self, what: str, write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except BpfError as error:
            self._failed(what, error)

    def _failed(self, what: str, error: BpfError) -> None:
        self.failures[what] += 1
        log.error("a limit could not be set", what=what, reason=str(error))


def _either(node: bytes, before: bytes | None) -> bytes:
    """A node of the tree that says what both say of its program."""
    if before is None:
        return node
    (state, here, below), (_, old_here, old_below) = wire.PROGRAM_NODE.unpack(node), wire.PROGRAM_NODE.unpack(before)
    return wire.PROGRAM_NODE.pack(state, here | old_here, below | old_below)


def _is_limiting(limits: Limits) -> bool:
    return limits.has_egress or limits.has_gpu or bool(limits.deny.every) or limits.alone
