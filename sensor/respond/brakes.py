"""Agents' limits, put where the kernel enforces them: which cgroup is under which limits, from start to end."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import structlog

from sensor import wire
from sensor.kernel.libbpf import BpfError
from sensor.kernel.policies import HostTree, Policies, ProgramTree, mapped
from sensor.match.limits import Limits, Network, Programs
from sensor.respond import process
from sensor.respond.cgroupfs import Cgroup, CgroupRoot
from sensor.verdict import Mode

log = structlog.get_logger()

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_DNS_PORT = 53
_TURNS = 16
_FIRST_NUMBER = 1
_LAST_NUMBER = 0xFFFF - 1

AgentOf = Callable[[int, str], str | None]
"""The agent of a cgroup, by id and path."""


class Brakes:
    """Keeps the policy maps as the agents' files say. An agent keeps its number as long as the sensor runs."""

    def __init__(self, policies: Policies, root: CgroupRoot, scope: str = "/") -> None:
        """Only cgroups in `scope` are limited."""
        self.failures: Counter[str] = Counter()
        """What the kernel refused, by what it was: a limit that could not be set is a hole."""
        self._policies = policies
        self._root = root
        self._scope = scope
        self._below = scope.rstrip("/") + "/"
        self._enforced = 0
        self._numbers: dict[str, int] = {}
        self._limits: dict[str, Limits] = {}
        self._before: dict[str, Limits] = {}
        """Those that are being replaced."""
        self._places: dict[int, str] = {}
        self._isolated: dict[str, int] = {}
        self._cuts: dict[str, int] = {}
        """The state, one of its own, of what each isolation holds."""
        self._cut_number = 0
        self._denied: dict[bytes, bytes] = {}
        self._reached: dict[str, frozenset[tuple[Network, int | None]]] = {}
        self._directories: dict[int, dict[bytes, int]] = {}
        self._labels: dict[int, dict[bytes, int]] = {}
        self._resolvers: frozenset[tuple[Network, int | None]] = frozenset()

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
        before = self._before = self._limits
        self._enforced = wire.LIMIT_ENFORCED if mode == "enforce" else 0
        self._limits = {name: limit for name, limit in limits.items() if _is_limiting(limit)}
        for name in self._limits:
            if name not in self._numbers and len(self._numbers) < _LAST_NUMBER:
                self._numbers[name] = _FIRST_NUMBER + len(self._numbers)
        for name, limit in self._limits.items():
            self._allow(self._numbers[name], before.get(name), limit)
        self._announce()
        for name, limit in self._limits.items():
            self._try("limits", self._policies.limit, self._numbers[name], self._flags(limit))
        for cgroup_id, path in cgroups:
            self.made(cgroup_id, path, agent_of(cgroup_id, path))
        for name in before.keys() - self._limits.keys():
            self._lift(self._numbers[name])
        for name, limit in before.items():
            self._forget(self._numbers[name], limit, self._limits.get(name))
        self._before = {}
        self._announce()

    def _lift(self, number: int) -> None:
        """The agent is gone, or has no limits any more: so have its processes."""
        self._try("limits", self._policies.limit, number, 0)
        for tgid, held, _ in self._policies.bound():
            if held == number:
                self._try("processes", self._policies.unbind, tgid)

    def deny_everybody(self, programs: Programs, mode: Mode) -> None:
        """From now on no process in scope begins one of these programs; in monitor mode, each may."""
        before = self._denied
        self._denied = self._entries(wire.EVERYBODY, {wire.PROGRAM_DENIED: programs}) if mode == "enforce" else {}
        self._grow(before, self._denied)
        self._announce()
        self._shrink(before, self._denied)

    def _announce(self) -> None:
        policies = bool(self._limits or self._before or self._isolated)
        self._try("policies", self._policies.use, policies, bool(self._isolated), bool(self._denied))

    def trust(self, resolvers: Iterable[Address]) -> None:
        """From now on answers of these DNS servers alone say where a host is, and agents that may reach hosts by name
        may ask them.
        """
        now = {mapped(address): address for address in resolvers}
        for address in now.values():
            self._try("resolvers", self._policies.trust_resolver, address)
        for key in self._policies.resolvers():
            if key not in now:
                self._try("resolvers", self._policies.distrust_resolver, key)
        self._resolvers = frozenset((ipaddress.ip_network(address), _DNS_PORT) for address in now.values())

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
        number = self._numbers[wanted] if wanted else 0
        held, _ = self._policies.assigned(cgroup_id) or (0, 0)
        if wanted:
            self._places[cgroup_id] = wanted
        else:
            self._places.pop(cgroup_id, None)
        self._set(cgroup_id, number, self._state(path))
        if wanted is None and known is None:  # it had the limits by inheritance alone
            return
        for tgid in self._members(cgroup_id, path):
            bound = self._policies.binding(tgid)
            if bound in (None, held) and number:
                self._bind(tgid, number)
            elif bound is not None and bound == held:
                self._policies.unbind(tgid)

    def _bind(self, tgid: int, number: int) -> None:
        self._policies.bind(tgid, number)
        self._forget_dead(tgid)

    def _forget_dead(self, tgid: int) -> None:
        """Its exit took out what was there then; what was put there since would hold for the next one of this id."""
        if not process.is_alive(tgid):
            self._policies.forget_process(tgid)

    def isolate(self, cgroup: Cgroup) -> set[int]:
        """Cut the cgroup off, and all below it: no packet leaves but to the allow list, and no GPU is opened. Whoever
        is in there stays cut off wherever it goes. Gives the ids of these cgroups.

        Raises BpfError or OSError where the kernel refuses, and then some of it may be cut off.
        """
        path, done = cgroup.path, set[int]()
        if self._isolated.get(path) != cgroup.id:
            self._cut_number += 1
            self._cuts[path] = self._cut_number << 1 | wire.ISOLATED
        self._isolated[path] = cgroup.id
        self._policies.use(True, True, bool(self._denied))
        while new := cgroup.ids() - done:  # until none was made meanwhile below one not yet cut off
            done |= new
            for below_id in new:
                self._policies.assign(below_id, self._number_of(below_id), self._cuts[path])
        for tgid in cgroup.processes():
            self._policies.cut(tgid, self._cuts[path])
            self._forget_dead(tgid)
        return done

    def release(self, path: str) -> bool:
        """Undo `isolate` of this very cgroup; what it is denied by its agent's limits stays so. False: it was not.

        Raises BpfError or OSError where the kernel refuses.
        """
        if path not in self._isolated:
            return False
        cgroup_id, state = self._isolated.pop(path), self._cuts.pop(path)
        inner = {
            below_id: self._cuts[other]
            for other, other_id in self._isolated.items()
            if other.startswith(path + "/")
            for below_id in self._ids(other, other_id)
        }
        outer = self._state(path)
        for below_id in self._ids(path, cgroup_id):
            self._set(below_id, self._number_of(below_id), inner.get(below_id, outer))
        for _turn in range(_TURNS):  # a child may have been made meanwhile by one not yet let go
            left = [tgid for tgid, _, held in self._policies.bound() if held == state]
            for tgid in left:
                self._policies.cut(tgid, outer)
                self._forget_dead(tgid)
            if not left:
                break
        self._announce()
        return True

    def isolated(self) -> dict[str, int]:
        """The cgroups that were cut off, each with all below it: path -> id."""
        return dict(self._isolated)

    def allow_in_isolation(self, destinations: Iterable[tuple[Network, int | None]]) -> None:
        """Where those who are cut off may still go."""
        for network, port in destinations:
            self._try("isolation", self._policies.allow_egress, wire.ISOLATION, network, port)

    def is_isolated(self, cgroup: Cgroup) -> bool:
        """Whether the kernel has it so for every cgroup from here down. Raises BpfError or OSError."""
        policies = [self._policies.assigned(below_id) for below_id in cgroup.ids()]
        return all(policy is not None and policy[1] & wire.ISOLATED for policy in policies)

    def _number_of(self, cgroup_id: int) -> int:
        return self._numbers.get(self._places.get(cgroup_id, ""), 0)

    def _set(self, cgroup_id: int, number: int, state: int) -> None:
        if number or state:
            self._try("policies", self._policies.assign, cgroup_id, number, state)
        else:
            self._try("policies", self._policies.release, cgroup_id)

    def _state(self, path: str) -> int:
        tops = (top for top in self._isolated if path == top or path.startswith(top.rstrip("/") + "/"))
        return self._cuts.get(max(tops, key=len, default=""), 0)

    def _ids(self, path: str, cgroup_id: int) -> set[int]:
        """Of a cgroup and all below it; none where it has gone."""
        cgroup = self._root.open(path, cgroup_id)
        if cgroup is None:
            return set()
        try:
            return cgroup.ids()
        finally:
            cgroup.close()

    def belongs(self, tgid: int, agent: str, path: str) -> None:
        """A process in a cgroup that is nobody's is an agent's by its user."""
        if agent in self._limits and self._is_in_scope(path):
            self._try("processes", self._bind, tgid, self._numbers[agent])

    def bound(self) -> list[tuple[int, str]]:
        """(process, agent) of all that live under limits."""
        names = {number: name for name, number in self._numbers.items()}
        return [(tgid, names[number]) for tgid, number, _ in self._policies.bound() if number in names]

    def bound_to(self, tgid: int) -> str | None:
        """The agent under whose limits the process lives, wherever it is."""
        return self.name(self._policies.binding(tgid) or 0)

    def leaves(self, tgid: int) -> None:
        """The process is no agent's any more."""
        self._try("processes", self._policies.unbind, tgid)

    def _is_in_scope(self, path: str) -> bool:
        return path == self._scope or path.startswith(self._below)

    def removed(self, cgroup_id: int) -> None:
        """The kernel side has already forgotten it. Where somebody left it while it was cut off, there is still
        something to release.
        """
        self._places.pop(cgroup_id, None)
        for path in [path for path, own in self._isolated.items() if own == cgroup_id]:
            if not any(state == self._cuts[path] for _, _, state in self._policies.bound()):
                del self._isolated[path], self._cuts[path]

    def _members(self, cgroup_id: int, path: str) -> set[int]:
        try:
            cgroup = self._root.open(path, cgroup_id)
            if cgroup is None:
                return set()
            try:
                return cgroup.members()
            finally:
                cgroup.close()
        except OSError as error:
            self.failures["members"] += 1
            log.error("who is in a cgroup cannot be told", cgroup=path, reason=error.strerror)
            return set()

    def _flags(self, limits: Limits) -> int:
        flags = self._enforced
        flags |= wire.LIMIT_EGRESS if limits.has_egress else 0
        flags |= wire.LIMIT_GPU if limits.has_gpu else 0
        flags |= wire.LIMIT_PROGRAMS if limits.deny.every else 0
        return flags | (wire.LIMIT_PROGRAMS_ALONE if limits.alone else 0)

    def _allow(self, number: int, before: Limits | None, now: Limits) -> None:
        reached, reachable = self._reached.get(now.agent, frozenset()), self._reachable(now)
        for network, port in reachable - reached:
            self._try("egress", self._policies.allow_egress, number, network, port)
        self._reached[now.agent] = reached | reachable
        self._grow(self._tree(number, before), self._tree(number, now))
        for key, node in reversed(self._hosts(number, now).items()):  # what leads to a name after the name
            self._try("hosts", self._policies.name_host, key, node)

    def _forget(self, number: int, before: Limits, now: Limits | None) -> None:
        reachable = self._reachable(now) if now else frozenset()
        for network, port in self._reached.pop(before.agent, frozenset()) - reachable:
            self._try("egress", self._policies.forbid_egress, number, network, port)
        if now:
            self._reached[now.agent] = reachable
        self._shrink(self._tree(number, before), self._tree(number, now))
        for key in self._hosts(number, before).keys() - (self._hosts(number, now).keys() if now else set()):
            self._try("hosts", self._policies.forget_host, key)
        if before.hosts - (now.hosts if now else frozenset()):  # which addresses are its own is not known
            self._try("hosts", self._policies.forget_resolved, number)

    def _grow(self, before: Mapping[bytes, bytes], now: Mapping[bytes, bytes]) -> None:
        """Write the entries of programs so that each says what it said before as well; first what is denied."""
        for mask in (wire.PROGRAM_DENIED, wire.PROGRAM_DENIED | wire.PROGRAM_ALLOWED):
            for key, node in now.items():
                self._try("programs", self._policies.name_program, key, _joined(node, mask, before.get(key)))

    def _shrink(self, before: Mapping[bytes, bytes], now: Mapping[bytes, bytes]) -> None:
        """Take back what only was said before; last what was denied."""
        for key, node in before.items():
            left = _joined(node, wire.PROGRAM_DENIED, now.get(key))
            if left != _joined(node, -1, now.get(key)):
                self._try("programs", self._policies.name_program, key, left)
        for key, node in before.items():
            if key not in now:
                self._try("programs", self._policies.forget_program, key)
            elif node != now[key]:
                self._try("programs", self._policies.name_program, key, now[key])

    def _tree(self, number: int, limits: Limits | None) -> dict[bytes, bytes]:
        """What the kernel can decide of an agent's programs."""
        if limits is None:
            return {}
        return self._entries(number, {wire.PROGRAM_DENIED: limits.deny, wire.PROGRAM_ALLOWED: limits.allow})

    def _entries(self, number: int, verdicts: Mapping[int, Programs]) -> dict[bytes, bytes]:
        """A directory keeps its state as long as the sensor runs, so that new entries lead on from those of before."""
        tree = ProgramTree(number, self._directories.setdefault(number, {}))
        for verdict, programs in verdicts.items():
            for name in programs.names:
                tree.add_name(name, verdict)
            for path in programs.paths:
                tree.add_path(path, verdict)
            for path in programs.below:
                tree.add_path(path, verdict, below=True)
        return tree.entries()

    def _reachable(self, limits: Limits) -> frozenset[tuple[Network, int | None]]:
        return limits.networks | self._resolvers if limits.hosts else limits.networks

    def _hosts(self, number: int, limits: Limits) -> dict[bytes, bytes]:
        tree = HostTree(number, self._labels.setdefault(number, {}))
        for host, port in limits.hosts:
            tree.add(host, port)
        entries = tree.entries()
        for label in tree.left_out:
            self.failures["hosts"] += 1
            log.error("a host has too many ports", agent=limits.agent, label=label, most=wire.HOST_PORTS)
        return entries

    def _try(self, what: str, write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except BpfError as error:
            self._failed(what, error)

    def _failed(self, what: str, error: BpfError) -> None:
        self.failures[what] += 1
        log.error("a limit could not be set", what=what, reason=str(error))


def _joined(node: bytes, mask: int, other: bytes | None) -> bytes:
    """A node of the tree that says what `node` says of its programs, as far as in `mask`, and what the other says."""
    state, here, below = wire.PROGRAM_NODE.unpack(node)
    _, other_here, other_below = wire.PROGRAM_NODE.unpack(other) if other else (0, 0, 0)
    return wire.PROGRAM_NODE.pack(state, here & mask | other_here, below & mask | other_below)


def _is_limiting(limits: Limits) -> bool:
    return limits.has_egress or limits.has_gpu or bool(limits.deny.every) or limits.alone
