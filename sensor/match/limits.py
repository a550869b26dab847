"""What agents' files limit, compiled; what of it is left to judge here, and what alerts say of it."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from sensor.agents_file import AgentFile, parse_destination
from sensor.events import AnyEvent, DeviceOpen, FlowEvent, ProcessCreation
from sensor.verdict import RuleInfo, Verdict

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_TECHNIQUES = {"egress": ("T1041",), "gpu": ("T1496",), "exec": ("T1059",)}
_RULES = {
    "egress": ("0b1f7c54-6e0e-4f3c-9d0e-5a0a3f1f9a01", "Destination outside the agent's limits"),
    "gpu": ("0b1f7c54-6e0e-4f3c-9d0e-5a0a3f1f9a02", "GPU outside the agent's limits"),
    "exec": ("0b1f7c54-6e0e-4f3c-9d0e-5a0a3f1f9a03", "Program outside the agent's limits"),
}
_NAME = re.compile(r"\*{1,2}/([^/*?\[]+)")
_PATH = re.compile(r"(?:/[^/*?\[]+)+")
_BELOW = re.compile(r"((?:/[^/*?\[]+)+)/\*{1,2}")
NAME_BYTES, COMPONENTS = 54, 48
"""What the kernel side compares: of each component of a path, one byte less than it reads, and how many of these."""


class Programs(msgspec.Struct, frozen=True):
    """A list of globs over programs' paths, in which `*` crosses slashes: by what the kernel can decide."""

    names: tuple[str, ...] = ()
    """`*/NAME`: the file's name."""
    paths: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    """`/DIRECTORY/*`: everything below it."""
    others: tuple[re.Pattern[str], ...] = ()
    """Left to the sensor."""
    every: tuple[re.Pattern[str], ...] = ()

    def match(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self.every)


class Limits(msgspec.Struct, frozen=True):
    """One agent's limits. A kind of limit that its file does not state is not limited."""

    agent: str
    networks: frozenset[tuple[Network, int | None]] = frozenset()
    """(network, port) that it may reach; a port of None: any."""
    hosts: frozenset[tuple[str, int | None]] = frozenset()
    """(name, port); "*.x": every name below x."""
    has_egress: bool = False
    """Whatever else is denied."""
    has_gpu: bool = False
    """No GPU may be opened."""
    deny: Programs = Programs()
    allow: Programs = Programs()
    """No program but these, unless it is empty."""

    @property
    def alone(self) -> bool:
        """The kernel can deny whatever is not in `allow`."""
        return bool(self.allow.every) and not self.allow.others

    def refuses(self, image: str) -> bool:
        """Whether this program may not run."""
        return self.deny.match(image) or bool(self.allow.every and not self.allow.match(image))


def destinations(texts: Iterable[str]) -> list[tuple[Network, int | None]]:
    """The networks of a list like `egress.allow`; names are none."""
    entries = [parse_destination(text) for text in texts]
    return [(entry.network, entry.port) for entry in entries if entry.network is not None]


def compile_limits(agent: AgentFile) -> Limits:
    """The limits that an agent's file states."""
    egress = [parse_destination(text) for text in agent.egress.allow] if agent.egress else []
    return Limits(
        agent=agent.agent,
        networks=frozenset((entry.network, entry.port) for entry in egress if entry.network is not None),
        hosts=frozenset((entry.host, entry.port) for entry in egress if entry.host is not None),
        has_egress=agent.egress is not None and agent.egress.default == "deny",
        has_gpu=agent.gpu is not None and not agent.gpu.allow,
        deny=_programs(agent.exec.deny if agent.exec else []),
        allow=_programs(agent.exec.allow if agent.exec else []),
    )


def _programs(globs: Iterable[str]) -> Programs:
    names, paths, below, others, every = [], [], [], [], []
    for glob in globs:
        pattern = re.compile(fnmatch.translate(glob), re.DOTALL)
        every.append(pattern)
        if not _fits(glob):
            others.append(pattern)
        elif found := _NAME.fullmatch(glob):
            names.append(found[1])
        elif _PATH.fullmatch(glob):
            paths.append(glob)
        elif found := _BELOW.fullmatch(glob):
            below.append(found[1])
        else:
            others.append(pattern)
    return Programs(tuple(names), tuple(paths), tuple(below), tuple(others), tuple(every))


def _fits(glob: str) -> bool:
    parts = glob.split("/")
    return len(parts) <= COMPONENTS and all(len(part.encode()) <= NAME_BYTES for part in parts)


class LimitWatch:
    """Says what went against an agent's limits: the kernel refused it, or would have, or left it to this class."""

    def __init__(self, agents: Iterable[AgentFile]) -> None:
        self._agents: dict[str, tuple[Limits, dict[str, RuleInfo]]] = {}
        for agent in agents:
            self._agents[agent.agent] = compile_limits(agent), _rules(agent)

    def match(self, event: AnyEvent) -> list[Verdict]:
        """At most one verdict."""
        if not isinstance(event, ProcessCreation | FlowEvent | DeviceOpen) or event.agent is None:
            return []
        known = self._agents.get(event.agent)
        if known is None:
            return []
        limits, rules = known
        if isinstance(event, ProcessCreation):  # it may have been denied by a rule, which says so itself
            is_against = event.image is not None and limits.refuses(event.image)
            is_against |= bool(event.truncated and (event.denied or event.would_deny))  # too deep a path
        else:
            is_against = bool(event.denied or event.would_deny)
        return [Verdict(rule=rules[_kind(event)], event=event)] if is_against else []


def _kind(event: AnyEvent) -> str:
    if isinstance(event, ProcessCreation):
        return "exec"
    return "gpu" if isinstance(event, DeviceOpen) else "egress"


def _rules(agent: AgentFile) -> dict[str, RuleInfo]:
    action = agent.response.action if agent.response else "deny"
    return {
        kind: RuleInfo(
            id=rule_id,
            title=title,
            level="high",
            techniques=_TECHNIQUES[kind],
            action=action,
            scope="process" if action == "deny" else "cgroup",
        )
        for kind, (rule_id, title) in _RULES.items()
    }
