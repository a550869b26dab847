"""Which agent a workload belongs to: the agents' files, compiled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from sensor.agents_file import AgentFile, Match
from sensor.context.workload import Workload

_EVALUATED = {"cgroup", "systemd", "user"}

_TOKEN = re.compile(r"/\*\*(?=/|$)|\*\*|\*|\?|[^*?/]+|/")
_REGEX = {"/**": r"(?:/.*)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}


def compile_glob(glob: str) -> re.Pattern[str]:
    """`**` crosses slashes, `*` and `?` do not; "/x/**" covers /x itself. For use with fullmatch."""
    tokens = (match[0] for match in _TOKEN.finditer(glob))
    return re.compile("".join(_REGEX.get(token) or re.escape(token) for token in tokens), re.DOTALL)


class _Glob(NamedTuple):
    pattern: re.Pattern[str]
    literal: int
    """Characters before the first wildcard."""
    agent: AgentFile


class Agents:
    """All agents. An event belongs to at most one: the most specific match.

    Specific is what pins more characters of the cgroup's path: for a cgroup glob those before its first
    wildcard; for a unit glob the path down to the unit and those of the glob before its first wildcard. Of
    two equal ones the agent whose name sorts first wins. A user counts only where neither path nor unit
    matches.

    Units are those of the system's manager: what runs below user@N.service is named by that user.
    """

    def __init__(self, files: Iterable[AgentFile] = ()) -> None:
        self.unsupported: list[tuple[AgentFile, Match]] = []
        """Matches that this version does not evaluate: nothing is recognised by them."""
        self._cgroups: list[_Glob] = []
        self._units: list[_Glob] = []
        self._users: dict[str, AgentFile] = {}
        agents = sorted(files, key=lambda file: file.agent)
        self._named = {agent.agent: agent for agent in agents}
        for agent in agents:
            for match in agent.match:
                self._add(agent, match)

    def _add(self, agent: AgentFile, match: Match) -> None:
        form, pattern = match.form, match.pattern
        if form not in _EVALUATED:
            self.unsupported.append((agent, match))
        elif form == "user":
            self._users.setdefault(pattern, agent)
        else:
            literal = len(re.split(r"[*?]", pattern, maxsplit=1)[0])
            globs = self._cgroups if form == "cgroup" else self._units
            globs.append(_Glob(compile_glob(pattern), literal, agent))

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

    def of_cgroup(self, path: str, workload: Workload) -> AgentFile | None:
        """The agent that the cgroup at `path` belongs to."""
        found = [(glob.literal, glob.agent) for glob in self._cgroups if glob.pattern.fullmatch(path)]
        if workload.system_unit is not None:
            start, unit = workload.system_unit
            units = (glob for glob in self._units if glob.pattern.fullmatch(unit))
            found += [(start + glob.literal, glob.agent) for glob in units]
        return min(found, key=lambda match: (-match[0], match[1].agent))[1] if found else None

    def of_user(self, name: str | None, uid: int) -> AgentFile | None:
        """The agent of this user, named in its file by name or by number."""
        return self._users.get(name or "") or self._users.get(str(uid))
