"""Drills, as the running sensor sees them: for a while a cgroup is judged as if it were an agent's.

The canary stands for the agent under a name of its own, its double's. So whatever is done to it, in whatever scope,
reaches no cgroup of the agent, and nothing that it does is learned or counted as the agent's.
"""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec.structs import asdict, replace

from sensor.agents_file import DRILLED, AgentFile, Match
from sensor.control import ControlError, Handler, Peer
from sensor.match.limits import compile_limits
from sensor.record.audit.trail import Audit
from sensor.record.drill_alerts import failed_alert, overdue_alert
from sensor.respond.cgroupfs import CgroupRoot
from sensor.verdict import Mode

log = structlog.get_logger()

DRILL_CGROUP = "hostbrake-drill-"
"""How the name of a canary's cgroup begins."""
STATE_FILE = "drills.json"
LIMIT_S = 600.0
"""How long a drill may last: then the double is gone."""
_DRILLS = 4
_ALERTS = 256
_LOOK_S = 60.0
_DAY_S = 86_400.0
_LOOPBACK = ipaddress.IPv4Address("127.0.0.1")

AgentAt = Callable[[str], str | None]


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one behaviour went; times in milliseconds from the deed."""

    behaviour: str
    passed: bool
    limit_ms: float
    known_ms: float | None = None
    stopped_ms: float | None = None
    error: str | None = None


class Past(msgspec.Struct):
    """What is known of an agent's drills; seconds since the epoch."""

    since: float
    passed: float | None = None
    told: float = 0


class _Drill(msgspec.Struct):
    id: str
    agent: AgentFile
    double: AgentFile
    place: str
    page: bool
    until: float
    alerts: list[dict[str, Any]] = []


class Drills:
    """The drills under way, and when each agent had its last."""

    def __init__(
        self,
        files: Iterable[AgentFile],
        *,
        state: Path,
        root: CgroupRoot,
        scope: str,
        audit: Audit,
        write: Callable[[dict[str, Any]], object],
        every_days: int,
        mode: Callable[[], Mode],
        changed: Callable[[], None],
        agent_at: AgentAt,
    ) -> None:
        """`write` takes an alert; `changed` is called when `files` gives others than before."""
        self._files = list(files)
        self._state = state
        self._root = root
        self._scope = scope
        self._audit = audit
        self._write = write
        self._every_s = every_days * _DAY_S
        self._mode = mode
        self._changed = changed
        self._agent_at = agent_at
        self._drills: dict[str, _Drill] = {}
        self._past: dict[str, Past] | None = None
        self._due = 0.0

    def use(self, files: Iterable[AgentFile]) -> None:
        """These are the agents from now on; a drill goes on."""
        self._files = list(files)
        if self._drills:
            self._changed()

    def files(self) -> list[AgentFile]:
        """All agents, and the doubles of those in a drill."""
        return [*self._files, *(drill.double for drill in self._drills.values())]

    def commands(self) -> dict[str, Handler]:
        return {
            "drill-agents": self._agents,
            "drill-begin": self._begin,
            "drill-alerts": self._told,
            "drill-end": self._end,
        }

    def mark(self, alert: dict[str, Any]) -> None:
        """Say in an alert that a drill raised it."""
        if not self._drills:
            return
        path = alert.get("cgroup", {}).get("path", "")
        for drill in self._drills.values():
            if path == drill.place or path.startswith(drill.place + "/"):
                alert["labels"] = {"drill": drill.id, **({} if drill.page else {"page": "nobody"})}
                event = alert["event"]
                event["reason"] = f"drill: {event['reason'].replace(drill.double.agent, drill.agent.agent)}"
                if "workload" in alert:
                    alert["workload"]["agent"] = drill.agent.agent
                if len(drill.alerts) < _ALERTS:
                    told = {"cgroup": path, "rule": alert["rule"]["name"], "response": alert["response"]}
                    drill.alerts.append({**told, "known": time.time_ns()})

    def tick(self) -> None:
        """Ends what lasts too long; says what is overdue."""
        late = [drill for drill in self._drills.values() if time.monotonic() > drill.until]
        for drill in late:
            log.error("a drill did not end", drill=drill.id, agent=drill.agent.agent)
            self._close(drill, [Result(behaviour="drill", passed=False, limit_ms=LIMIT_S * 1000, error="did not end")])
        if self._every_s and time.monotonic() >= self._due:
            self._due = time.monotonic() + _LOOK_S
            self._tell_overdue(time.time())

    def _tell_overdue(self, now: float) -> None:
        past = self._read()
        fresh = [file.agent for file in self._files if file.agent not in past]
        past.update({agent: Past(now) for agent in fresh})
        changed = bool(fresh)
        for file in self._files:
            last = past[file.agent]
            if now - (last.passed or last.since) > self._every_s and now - last.told > _DAY_S:
                last.told = now
                changed = True
                self._write(overdue_alert(file, last.passed, last.since, self._mode()))
        if changed:
            self._save()

    def _agents(self, _arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        return {"mode": self._mode(), "scope": self._scope, "agents": [_forbidden(file) for file in self._files]}

    def _begin(self, arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        agent = next((file for file in self._files if file.agent == arguments.get("agent")), None)
        path, page = arguments.get("cgroup"), arguments.get("page", False)
        if agent is None:
            raise ControlError(f"no agent {arguments.get('agent')!r}")
        if not isinstance(path, str) or not isinstance(page, bool):
            raise ControlError("a drill needs a cgroup, and whether to page")
        self._check(path)
        known = uuid.uuid4().hex[:12]
        double = replace(agent, agent=f"{agent.agent}{DRILLED}{known}", match=[Match(cgroup=f"{path}/**")])
        self._drills[known] = _Drill(known, agent, double, path, page, time.monotonic() + LIMIT_S, [])
        self._changed()
        return {"id": known, "mode": self._mode()}

    def _check(self, path: str) -> None:
        """Raises ControlError unless the cgroup is empty, nobody's, and named as a canary's."""
        if len(self._drills) >= _DRILLS:
            raise ControlError(f"{_DRILLS} drills are under way already")
        within = self._scope.rstrip("/") + "/"
        if not path.rpartition("/")[2].startswith(DRILL_CGROUP) or not path.startswith(within):
            raise ControlError(f"a canary's cgroup lies below {self._scope} and is named {DRILL_CGROUP}…")
        cgroup = self._root.open(path)
        if cgroup is None:
            raise ControlError(f"there is no cgroup {path}")
        populated = cgroup.is_populated()
        cgroup.close()
        owner = self._agent_at(path)
        if populated or owner is not None:
            raise ControlError(
                f"{path} {'has processes' if populated else f'is of agent {owner}'}: a canary begins empty"
            )

    def _told(self, arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        return {"alerts": self._known(arguments).alerts}

    def _end(self, arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        drill = self._known(arguments)
        try:
            results = msgspec.convert(arguments.get("results"), list[Result])
        except msgspec.ValidationError as error:
            raise ControlError(f"results: {error}") from None
        self._close(drill, results)
        return {}

    def _known(self, arguments: dict[str, Any]) -> _Drill:
        drill = self._drills.get(str(arguments.get("id")))
        if drill is None:
            raise ControlError(f"no drill {arguments.get('id')!r} is under way")
        return drill

    def _close(self, drill: _Drill, results: list[Result]) -> None:
        del self._drills[drill.id]
        self._changed()
        name, failed = drill.agent.agent, [result for result in results if not result.passed]
        passed = bool(results) and not failed
        for result in results:
            said = {field: value for field, value in asdict(result).items() if value is not None}
            self._audit.append("drill", drill=drill.id, agent=name, **said)
        summary = {"summary": True, "passed": passed, "behaviours": len(results), "mode": self._mode()}
        self._audit.append("drill", drill=drill.id, agent=name, owner=drill.agent.owner.name, **summary)
        if passed:
            past = self._read()
            past.setdefault(name, Past(time.time())).passed = time.time()
            self._save()
        else:
            what = [f"{result.behaviour}: {result.error or 'not passed'}" for result in failed]
            self._write(failed_alert(drill.agent, drill.id, what or ["nothing was tried"], self._mode()))

    def _read(self) -> dict[str, Past]:
        if self._past is None:
            self._past = {}
            try:
                self._past = msgspec.json.decode(self._state.read_bytes(), type=dict[str, Past])
            except FileNotFoundError:
                pass
            except (OSError, msgspec.DecodeError) as error:
                log.error("when agents had drills cannot be read", why=str(error))
        return self._past

    def _save(self) -> None:
        fresh = self._state.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(self._past))
            fresh.replace(self._state)
        except OSError as error:
            log.error("when agents had drills cannot be kept", why=str(error))


def _forbidden(file: AgentFile) -> dict[str, Any]:
    """What of a canary's behaviours this agent may not do by its file; the rest is forbidden to all."""
    limits = compile_limits(file)
    reachable = any(
        port is None and isinstance(network, ipaddress.IPv4Network) and _LOOPBACK in network
        for network, port in limits.networks
    )
    return {
        "agent": file.agent,
        "owner": file.owner.name,
        "gpu": file.gpu is None or not file.gpu.allow,
        "connect": limits.has_egress and not reachable,
    }
