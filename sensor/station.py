"""What stands between the kernel's events and the records of them: joined here, and changed by a reload."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sensor.config import Config
from sensor.context.enrich import Context
from sensor.control import Handler, Peer
from sensor.cutting import isolation_commands
from sensor.desk import Desk
from sensor.drills import STATE_FILE as DRILLS_FILE
from sensor.drills import Drills
from sensor.events import AnyEvent
from sensor.kernel.core import CoreBackend
from sensor.losses import Source
from sensor.match.fanout import FanOut
from sensor.match.ir import RuleSet
from sensor.match.limits import destinations
from sensor.match.matcher import Matcher
from sensor.match.mining import Mining
from sensor.match.profile_store import PROFILES_DIR
from sensor.match.profiles import Profiles
from sensor.node import NodeError, resolvers
from sensor.pipeline import Pipeline
from sensor.record.alerts import reason, sentence
from sensor.record.audit.incidents import Incidents
from sensor.record.audit.trail import Audit
from sensor.record.outlet import Outlet
from sensor.record.sink import Sink
from sensor.reload import CHANGEABLE, Fresh, compiled
from sensor.respond.approvals import Approvals, Words
from sensor.respond.casebook import Casebook
from sensor.respond.cases import STATE_FILE, Case
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Executor
from sensor.respond.guards import Guards
from sensor.respond.holds import HOLDS_DIR
from sensor.respond.isolation import STATE_FILE as ISOLATED_FILE
from sensor.respond.isolation import Isolation
from sensor.respond.keeper import HoldingBrakes, Keeper
from sensor.respond.plan import Planner
from sensor.verdict import Verdict

log = structlog.get_logger()


def approval_record(case: Case, for_s: int | None) -> dict[str, Any]:
    """What the audit trail keeps of a decision."""
    record = {
        "case": case.id,
        "decision": case.decision,
        "by": case.by,
        "rule": {"id": case.rule.id, "name": case.rule.title},
        "agent": case.agent,
        "owner": case.owner,
        "cgroups": [ref.path for ref in case.cgroups],
        "for_s": for_s,
    }
    return {name: value for name, value in record.items() if value is not None}


class Outputs(msgspec.Struct, frozen=True):
    """Where what comes of events goes."""

    outlet: Outlet
    events: Sink | None
    audit: Audit


class Station:
    """The stages from context to response, with what they remember."""

    def __init__(
        self,
        config: Config,
        fresh: Fresh,
        *,
        root: Path,
        mount: Path,
        context: Context,
        backend: CoreBackend,
        to: Outputs,
    ) -> None:
        """`root` is the cgroup that is watched, `mount` where the whole hierarchy is. Raises NodeError."""
        self.config = config
        self.context = context
        self._fresh = fresh
        scope = context.cgroups.path(root.stat().st_ino)
        if scope is None:
            raise NodeError(f"{root} is no cgroup of the hierarchy at {mount}; name one with --cgroup-root")
        self._scope = scope
        self._cgroups = CgroupRoot(mount)
        self._state = Path(config.state_dir)
        guards = Guards(self._cgroups, config.protect, within=scope)
        self._respond(guards, to)
        self._match(fresh, to)
        policies = backend.policies(root.stat().st_ino, scope.count("/") if scope != "/" else 0)
        self._brake(HoldingBrakes(policies, self._cgroups, scope), guards)
        self._limit(fresh)
        context.bind_users()

    def _respond(self, guards: Guards, to: Outputs) -> None:
        config = self.config
        planner = Planner(self._cgroups, guards)
        self._incidents = Incidents(to.audit)
        self.executor = Executor(
            self._cgroups, planner, guards, config.mode, config.kills_per_minute, intend=self._incidents.intend
        )
        self._book = Casebook(self._state / STATE_FILE)
        self.approvals = Approvals(self.executor, planner, self._cgroups, self._book, Words(reason, sentence))
        self.approvals.decided = lambda case, for_s: to.audit.append("approval", **approval_record(case, for_s))
        self.desk = Desk(self.approvals, self._book, self._agent_of)

    def _match(self, fresh: Fresh, to: Outputs) -> None:
        config = self.config
        self._mining = Mining()
        self.profiles = Profiles(self._state / PROFILES_DIR)
        self.drills = Drills(
            fresh.loaded.agents,
            state=self._state / DRILLS_FILE,
            root=self._cgroups,
            scope=self._scope,
            audit=to.audit,
            write=to.outlet.write,
            every_days=config.drill_every_days,
            mode=lambda: self.config.mode,
            changed=self._drilled,
            agent_at=self.agent_at,
        )
        watchers = (
            FanOut().match,
            self.profiles.match,
            self._mining.match,
            self._limit_watch,
            self.approvals.recent.note,
        )
        self.pipeline = Pipeline(
            context=self.context,
            matcher=fresh.matcher or Matcher(self.rules.rules),
            executor=self.approvals,
            alerts=to.outlet,
            events=to.events,
            scope=self._scope,
            alert_window_s=config.alert_window_s,
            watchers=watchers,
            incidents=self._incidents,
            mark=self.drills.mark,
        )

    def _brake(self, brakes: HoldingBrakes, guards: Guards) -> None:
        self._keeper = Keeper(self._state / HOLDS_DIR, self._cgroups, guards)
        self._keeper.refresh()
        self._brakes = brakes
        brakes.keeper = self._keeper
        self.context.follow(brakes)
        brakes.allow_in_isolation(destinations(self.config.isolation_allow))
        self.isolation = Isolation(brakes, self._cgroups, self._state / ISOLATED_FILE)
        self.executor.isolate_with(self.isolation)
        cutting = isolation_commands(self.isolation, self._cgroups, guards)
        self._isolating = {name: self.desk.guarded(handler) for name, handler in cutting.items()}

    @property
    def rules(self) -> RuleSet:
        """Those in force."""
        return self._fresh.loaded.rules

    def commands(self) -> dict[str, Handler]:
        """What the control socket may be asked of all this."""
        kept: dict[str, Handler] = {"killed": self.keep, "released": self.keep}
        return self.desk.commands() | self.drills.commands() | self._isolating | kept

    def losses(self) -> dict[str, Source]:
        """What was lost here, by place."""
        return {
            "undecodable": lambda: self.pipeline.undecodable,
            "context": self.context.losses,
            "correlation": self.pipeline.losses,
            "profiles": self.profiles.losses,
            "limits": lambda: self._brakes.failures,
            "holds": lambda: self._keeper.failures,
            "mining": lambda: {"flows_evicted": self._mining.evicted},
            "approvals": lambda: self._book.losses,
            "isolation": lambda: self.isolation.losses,
        }

    def status(self) -> dict[str, Any]:
        """What `hostbrake status` says of all this."""
        clashes = {", ".join(agents): count for agents, count in self.context.recogniser.clashes.items()}
        return {
            "mode": self.config.mode,
            "rules": self.rules.summary(),
            "agents": len(self.context.agents),
            "agents_that_clash": clashes,
            "profiles": self.profiles.summary(),
            "events": dict(self.pipeline.seen),
            "alerts": dict(self.pipeline.outcomes),
            "merged": self.pipeline.merged,
            "approvals": self.desk.summary(),
            "held": self._keeper.held(),
            "isolated": self.isolation.paths(),
        }

    def _limit_watch(self, event: AnyEvent) -> Sequence[Verdict]:
        return self._limits.match(event)

    def _limit(self, fresh: Fresh) -> None:
        self._limits = fresh.watch
        self.approvals.use(fresh.agents.files(), self.config.approve_within)
        self._brakes.deny_everybody(fresh.denied, self.config.mode)
        self._brakes.trust(self._resolvers())
        self._brakes.use(fresh.limits, self.context.cgroups.items(), self.context.agent_of, self.config.mode)

    def use(self, fresh: Fresh) -> None:
        """What a reload brought, in one step: agents, rules and the settings that may change."""
        new = fresh.loaded.config
        self.config = config = msgspec.structs.replace(self.config, **{name: getattr(new, name) for name in CHANGEABLE})
        self.pipeline.use(fresh.matcher, config.alert_window_s)
        guards = Guards(self._cgroups, config.protect, within=self._scope)
        planner = Planner(self._cgroups, guards)
        self.executor.use(planner, guards, config.mode, config.kills_per_minute)
        self.approvals.plan_with(planner)
        self._use_agents(fresh)
        self._fresh = fresh
        self._keeper.guard(guards)
        self.drills.use(fresh.loaded.agents)

    def _use_agents(self, fresh: Fresh) -> None:
        before = self.context.agents
        self.context.use_agents(fresh.agents)
        self._limit(fresh)
        self.context.bind_users(before)

    def _drilled(self) -> None:
        """A drill began or ended: its canary is under the agent's limits, or no longer."""
        self._use_agents(compiled(msgspec.structs.replace(self._fresh.loaded, agents=self.drills.files()), self.rules))

    def keep(self, _arguments: dict[str, Any] | None = None, _peer: Peer | None = None) -> dict[str, Any]:
        """Honour the holds as they are on disk now; the kill switch tells of itself here, and is answered at once."""
        if self._keeper.refresh():
            self._brakes.renew(self.context.cgroups.items())
        return {"held": self._keeper.held()}

    def _resolvers(self) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        found = []
        for text in resolvers() if self.config.resolvers is None else self.config.resolvers:
            try:
                found.append(ipaddress.ip_address(text))
            except ValueError:
                log.warning("no address of a DNS server", nameserver=text)
        return found

    def _agent_of(self, peer: Peer, path: str) -> str | None:
        """Whose `peer` is: by its cgroup, by that which it came from, or by its user."""
        user = None if peer.uid == 0 else self.context.agents.of_user(peer.user, peer.uid)
        return self.agent_at(path) or self._brakes.bound_to(peer.pid) or (user.agent if user else None)

    def agent_at(self, path: str) -> str | None:
        """The agent that the cgroup at this path belongs to."""
        cgroup = self._cgroups.open(path)
        if cgroup is None:
            return None
        cgroup_id = cgroup.id
        cgroup.close()
        return self.context.agent_of(cgroup_id, path)
