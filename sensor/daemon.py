"""`hostbrake run`: everything put together, and the loop that keeps it going."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sensor import __version__
from sensor.agents_file import AgentFile
from sensor.context.agents import Agents
from sensor.context.devices import gpu_majors
from sensor.context.enrich import Context
from sensor.control import ControlServer, Handler, Peer, Request, group_id
from sensor.cutting import isolation_commands
from sensor.desk import Desk, log_request, note_request
from sensor.drills import STATE_FILE as DRILLS_FILE
from sensor.drills import Drills
from sensor.events import AnyEvent
from sensor.kernel.core import CoreBackend, Programs
from sensor.kernel.libbpf import BpfError
from sensor.losses import Losses, clash_alert, kernel_losses, loss_alert
from sensor.match.fanout import FanOut
from sensor.match.limits import destinations
from sensor.match.matcher import Matcher
from sensor.match.mining import Mining
from sensor.match.profile_store import PROFILES_DIR
from sensor.match.profiles import Profiles
from sensor.node import NodeError, boot_id, cgroup2_mount, host, resolvers
from sensor.pager import pager_commands
from sensor.pipeline import Pipeline
from sensor.record.alerts import reason, sentence
from sensor.record.audit.incidents import Incidents
from sensor.record.audit.requests import Requests
from sensor.record.audit.trail import Audit
from sensor.record.notify.notifier import Notifier
from sensor.record.notify.store import NOTIFY_DIR
from sensor.record.outlet import Outlet
from sensor.record.sink import Sink
from sensor.reload import CHANGEABLE, Fresh, Reloader, Result, compiled, needs_restart
from sensor.respond.approvals import Approvals, Words
from sensor.respond.casebook import Casebook
from sensor.respond.cases import STATE_FILE
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Executor
from sensor.respond.guards import Guards
from sensor.respond.holds import HOLDS_DIR
from sensor.respond.isolation import STATE_FILE as ISOLATED_FILE
from sensor.respond.isolation import Isolation
from sensor.respond.keeper import HoldingBrakes, Keeper
from sensor.respond.plan import Planner
from sensor.startup import Loaded
from sensor.supervisor import Supervisor
from sensor.verdict import Verdict

log = structlog.get_logger()

IDLE_S = 0.25
"""How long housekeeping events may wait in the ring."""
TICK_S = 2.0
TURN_S = 0.008
"""How soon to look again after a turn that took records: the kernel side does not wake for a familiar program
within this time (TURN_NS in bpf/common.bpf.h), so that a storm of execs costs one wake for many."""
_LOOK_PIDS = 512
"""Processes that are looked at one by one; beyond it is cheaper to walk all there are."""
DRAIN_S = 0.1
"""How long the ring alone is attended to: signals, requests and losses have their turn in a storm without end too."""
_FAULTS = 20
"""How many faults the audit trail is told of a reload."""


class Daemon:
    """One sensor, from construction (everything attached) to the end of `run`."""

    def __init__(self, loaded: Loaded, programs: Programs, load: Callable[[], Loaded]) -> None:
        """`load` reads all that is in `loaded` anew, and raises FaultsError.

        Raises AuditError, BpfError, ControlError, NodeError or OSError; then nothing is attached or left behind.
        """
        config, rules = loaded.config, loaded.rules
        mount = cgroup2_mount()
        root = Path(config.cgroup_root) if config.cgroup_root else mount
        self._config = config
        self._rules = rules
        self._root = root
        self._ready = False
        self._stop = False
        self._reloader = Reloader(load, self._reloaded)
        self._since = time.time_ns()
        self._untold: Counter[str] = Counter()
        self._sweeps_failed = 0
        self._supervisor = Supervisor()
        with contextlib.ExitStack() as undo:
            self._wakeup = undo.enter_context(self._signals())
            self._notifier = self._make_notifier(loaded.agents)
            if self._notifier:
                undo.callback(self._notifier.close)
            commands: dict[str, Handler] = {
                "status": lambda _arguments, _peer: self.status(),
                "reload": lambda _arguments, _peer: {"number": self._reloader.ask()},
                "reloaded": lambda _arguments, _peer: msgspec.to_builtins(self._reloader.result),
            }
            commands |= pager_commands(self._notifier, self._names)
            self._control = ControlServer(
                Path(config.control_socket),
                commands,
                operators=group_id(config.operators),
                audit=self._asked,
                user_of=self._user_of,
            )
            undo.callback(self._control.close)
            self._audit = Audit(Path(config.state_dir))
            undo.callback(self._audit.close)
            self._requests = Requests(self._audit)
            self._alerts = Sink(config.alerts)
            undo.callback(self._alerts.close)
            self._outlet = Outlet(self._alerts, [self._notifier.offer] if self._notifier else [])
            self._events = Sink(config.events) if config.events else None
            if self._events:
                undo.callback(self._events.close)
            self._backend = CoreBackend(root, gpu_majors(config.gpu_majors), programs)
            undo.callback(self._backend.close)
            self._context = Context(cgroup_root=mount, agents=Agents(loaded.agents), gpu_majors=config.gpu_majors)
            undo.callback(self._context.close)
            self._context.seed()
            self._join(mount, compiled(loaded, None))
            self._cleanup = undo.pop_all()

    def _make_notifier(self, files: list[AgentFile]) -> Notifier | None:
        config = self._config
        directory = Path(config.state_dir) / NOTIFY_DIR
        return Notifier(config.notify, files, directory, host()[0]) if config.notify else None

    def _names(self) -> list[str]:
        return [agent.agent for agent in self._context.agents.files()]

    def _join(self, mount: Path, fresh: Fresh) -> None:
        config = self._config
        scope = self._context.cgroups.path(self._root.stat().st_ino)
        if scope is None:
            raise NodeError(f"{self._root} is no cgroup of the hierarchy at {mount}; name one with --cgroup-root")
        self._mining = Mining()
        self._scope = scope
        self._fresh = fresh
        self._cgroups = cgroups = CgroupRoot(mount)
        guards = Guards(cgroups, config.protect, within=scope)
        incidents = Incidents(self._audit)
        planner = Planner(cgroups, guards)
        self._executor = Executor(
            cgroups, planner, guards, config.mode, config.kills_per_minute, intend=incidents.intend
        )
        self._book = Casebook(Path(config.state_dir) / STATE_FILE)
        self._approvals = Approvals(self._executor, planner, cgroups, self._book, Words(reason, sentence))
        self._desk = Desk(self._approvals, self._book, self._agent_of)
        self._control.add(self._desk.commands())
        self._profiles = Profiles(Path(config.state_dir) / PROFILES_DIR)
        self._drills = Drills(
            fresh.loaded.agents,
            state=Path(config.state_dir) / DRILLS_FILE,
            root=cgroups,
            scope=scope,
            audit=self._audit,
            write=self._outlet.write,
            every_days=config.drill_every_days,
            mode=lambda: self._config.mode,
            changed=self._drilled,
            agent_at=self._agent_at,
        )
        self._control.add(self._drills.commands())
        self._pipeline = Pipeline(
            context=self._context,
            matcher=fresh.matcher or Matcher(self._rules.rules),
            executor=self._approvals,
            alerts=self._outlet,
            events=self._events,
            scope=scope,
            alert_window_s=config.alert_window_s,
            watchers=(
                FanOut().match,
                self._profiles.match,
                self._mining.match,
                self._limit_watch,
                self._approvals.recent.note,
            ),
            incidents=incidents,
            mark=self._drills.mark,
        )
        self._keeper = Keeper(Path(config.state_dir) / HOLDS_DIR, cgroups, guards)
        self._keeper.refresh()
        self._control.add({"killed": self._keep, "released": self._keep})
        self._brakes = HoldingBrakes(
            self._backend.policies(self._root.stat().st_ino, scope.count("/") if scope != "/" else 0),
            cgroups,
            scope,
        )
        self._brakes.keeper = self._keeper
        self._context.follow(self._brakes)
        self._brakes.allow_in_isolation(destinations(config.isolation_allow))
        self._isolation = Isolation(self._brakes, cgroups, Path(config.state_dir) / ISOLATED_FILE)
        self._executor.isolate_with(self._isolation)
        cutting = isolation_commands(self._isolation, cgroups, guards)
        self._control.add({name: self._desk.guarded(handler) for name, handler in cutting.items()})
        self._limit(fresh)
        self._context.bind_users()
        self._losses = Losses(
            {
                "kernel": lambda: kernel_losses(self._backend.counters()),
                "skipped": self._backend.missed_runs,
                "sweeps": lambda: {"failed": self._sweeps_failed},
                "undecodable": lambda: self._pipeline.undecodable,
                "context": self._context.losses,
                "correlation": self._pipeline.losses,
                "profiles": self._profiles.losses,
                "limits": lambda: self._brakes.failures,
                "holds": lambda: self._keeper.failures,
                "mining": lambda: {"flows_evicted": self._mining.evicted},
                "approvals": lambda: self._book.losses,
                "isolation": lambda: self._isolation.losses,
                "notifications": lambda: self._notifier.losses() if self._notifier else {},
                "alerts": lambda: self._alerts.losses,
                "events": lambda: self._events.losses if self._events else {},
                "audit": lambda: self._audit.losses,
            }
        )

    def _limit_watch(self, event: AnyEvent) -> Sequence[Verdict]:
        return self._limits.match(event)

    def _limit(self, fresh: Fresh) -> None:
        self._limits = fresh.watch
        self._approvals.use(fresh.agents.files(), self._config.approve_within)
        self._brakes.deny_everybody(fresh.denied, self._config.mode)
        self._brakes.trust(self._resolvers())
        self._brakes.use(fresh.limits, self._context.cgroups.items(), self._context.agent_of, self._config.mode)

    def _reload(self) -> None:
        """Use what a reload brought, if one has ended well."""
        fresh = self._reloader.poll(self._rules)
        if fresh is None:
            return
        new = fresh.loaded.config
        restart = needs_restart(self._config, new)
        self._config = config = msgspec.structs.replace(
            self._config, **{name: getattr(new, name) for name in CHANGEABLE}
        )
        self._rules = fresh.loaded.rules
        self._pipeline.use(fresh.matcher, config.alert_window_s)
        guards = Guards(self._cgroups, config.protect, within=self._scope)
        planner = Planner(self._cgroups, guards)
        self._executor.use(planner, guards, config.mode, config.kills_per_minute)
        self._approvals.plan_with(planner)
        before = self._context.agents
        if self._notifier:
            self._notifier.use(fresh.agents.files())
        self._context.use_agents(fresh.agents)
        self._limit(fresh)
        self._context.bind_users(before)
        self._fresh = fresh
        self._keeper.guard(guards)
        self._drills.use(fresh.loaded.agents)
        self._reloader.used(
            restart, {"mode": config.mode, "rules": len(self._rules.rules), "agents": len(fresh.agents)}
        )
        for what, why in self._context.recogniser.missing().items():
            log.warning(f"agents by {what}: not available", reason=why)

    def _reloaded(self, result: Result) -> None:
        faults = [str(fault) for fault in result.faults[:_FAULTS]]
        self._audit.append(
            "reload",
            outcome="refused" if faults else "done",
            **result.summary,
            **({"faults": faults, "fault_count": len(result.faults)} if faults else {}),
            **({"restart": result.restart} if result.restart else {}),
        )

    def _drilled(self) -> None:
        """A drill began or ended: its canary is under the agent's limits, or no longer."""
        fresh = compiled(msgspec.structs.replace(self._fresh.loaded, agents=self._drills.files()), self._rules)
        before = self._context.agents
        self._context.use_agents(fresh.agents)
        self._limit(fresh)
        self._context.bind_users(before)

    def _keep(self, _arguments: dict[str, Any] | None = None, _peer: Peer | None = None) -> dict[str, Any]:
        """Honour the holds as they are on disk now; the kill switch tells of itself here, and is answered at once."""
        if self._keeper.refresh():
            self._brakes.renew(self._context.cgroups.items())
        return {"held": self._keeper.held()}

    def _resolvers(self) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        found = []
        for text in resolvers() if self._config.resolvers is None else self._config.resolvers:
            try:
                found.append(ipaddress.ip_address(text))
            except ValueError:
                log.warning("no address of a DNS server", nameserver=text)
        return found

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT."""
        with self._cleanup, contextlib.closing(select.epoll()) as epoll:
            handlers = self._register(epoll)
            self._begin()
            wait_s = self._drain()
            if not self._stop:
                self._announce()
                self._approvals.resume()
            due = time.monotonic() + TICK_S
            while not self._stop:
                if self._control.serve() or self._approvals.timeout() is not None:
                    wait_s = min(wait_s, TURN_S)
                for descriptor, _ in epoll.poll(wait_s):
                    handlers[descriptor]()
                wait_s = self._drain()
                self._look()
                self._pipeline.complete()
                self._reload()
                self._supervisor.alive()
                if time.monotonic() >= due:
                    due = time.monotonic() + TICK_S
                    # In a storm what is still in the ring is older than now.
                    self._pipeline.advance(time.clock_gettime_ns(time.CLOCK_BOOTTIME) if wait_s else None)
                    self._approvals.tick()
                    self._tick()
            self._supervisor.stopping()
            self._tick(final=True)
            self._pipeline.close()
            if self._notifier:
                self._notifier.close()
            self._profiles.save(at_once=True)
            self._tick()
            self._requests.tick(at_once=True)
            self._audit.append("stop", pid=os.getpid(), alerts=dict(self._pipeline.outcomes))
            self._audit.close()
            log.info("stopped", alerts=dict(self._pipeline.outcomes))

    def _register(self, epoll: select.epoll) -> dict[int, Callable[[], None]]:
        handlers: dict[int, Callable[[], None]] = {
            self._backend.fileno(): lambda: None,  # every turn drains
            self._control.fileno(): self._control.accept,
            self._approvals.fileno(): self._pipeline.complete,
            self._wakeup.fileno(): lambda: None,
        }
        for descriptor in self._context.filenos():
            handlers[descriptor] = self._context.refresh
        for descriptor in handlers:
            epoll.register(descriptor, select.EPOLLIN)
        return handlers

    def _begin(self) -> None:
        self._audit.append(
            "start",
            version=__version__,
            host=host()[0],
            boot=boot_id(),
            pid=os.getpid(),
            mode=self._config.mode,
            rules=len(self._rules.rules),
            agents=len(self._context.agents),
        )

    def _announce(self) -> None:
        gc.freeze()  # what lives now lives on: the collector need not look at it again
        gc.enable()
        self._ready = True
        log.info(
            "ready",
            mode=self._config.mode,
            rules=len(self._rules.rules),
            agents=len(self._context.agents),
            cgroup_root=str(self._root),
        )
        for what, why in self._missing().items():
            log.warning(f"{what}: not available", reason=why)
        self._context.conversations.dns.start()
        if self._notifier:
            self._notifier.start()
        self._supervisor.ready()
        self._audit.tick()  # signs for the start

    def _drain(self) -> float:
        """Judge what waits in the ring; gives how long the loop may sleep after that, seconds."""
        until = time.monotonic() + DRAIN_S
        wait_s = IDLE_S
        while records := self._backend.read(256):
            for record in records:
                self._pipeline.feed(record)
            self._pipeline.complete()
            if time.monotonic() >= until:
                return 0
            wait_s = TURN_S
        return wait_s

    def _look(self) -> None:
        """See whose standard streams lead to a connection, where one may."""
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        cgroups = self._context.remote.due(began)
        if not cgroups:
            return
        try:
            found = self._backend.held_ends(cgroups, self._context.cgroups.members(cgroups, _LOOK_PIDS))
        except (BpfError, OSError) as error:
            log.error("descriptors cannot be looked at", error=str(error))
            self._context.remote.failed += 1
            found = b""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._pipeline.looked(found, now, now - began)

    def _tick(self, final: bool = False) -> None:
        self._sweep(final)
        for sink in filter(None, (self._alerts, self._events)):
            sink.flush()
        if self._context.devices.refresh():  # a GPU driver was loaded: its majors may be new
            self._backend.watch_majors(self._context.devices.majors())
        self._keep()
        self._drills.tick()
        self._context.advance(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._profiles.save()
        self._requests.tick()
        for note in self._notifier.notes() if self._notifier else ():
            self._audit.append("notification", **note)
        self._audit.tick()
        self._tell_losses()
        self._tell_clashes()

    def _sweep(self, final: bool) -> None:
        try:
            self._backend.sweep(final=final)
        except BpfError as error:
            self._sweeps_failed += 1
            if self._sweeps_failed == 1:
                log.error("ended flows cannot be told", reason=str(error))
        if final:
            self._drain()

    def _tell_losses(self) -> None:
        lost = self._losses.look()
        if lost:
            log.error("events were lost", **lost)
            self._untold.update(lost)
            # What the trail itself lost, it tells by itself, once there is room.
            others = {name: count for name, count in lost.items() if not name.startswith("audit.")}
            if others:
                self._audit.append("loss", what="lost", lost=others)
        # An alert that cannot be written is no further loss: it comes again, with what was lost since.
        if self._untold and self._outlet.write(loss_alert(self._untold, self._config.mode, host()), counts=False):
            self._untold.clear()
            self._pipeline.outcomes["none"] += 1

    def _tell_clashes(self) -> None:
        told = self._context.recogniser.told
        while told and self._alerts.write(clash_alert(*told[0], self._config.mode, host()), counts=False):
            told.pop(0)
            self._pipeline.outcomes["none"] += 1

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """SIGTERM and SIGINT end the loop, SIGHUP reloads; the socket wakes it (signal.set_wakeup_fd)."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        previous_fd = signal.set_wakeup_fd(writer.fileno())
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self._reloader.ask()
        else:
            self._stop = True

    def _agent_at(self, path: str) -> str | None:
        cgroup = self._cgroups.open(path)
        if cgroup is None:
            return None
        cgroup_id = cgroup.id
        cgroup.close()
        return self._context.agent_of(cgroup_id, path)

    def _agent_of(self, peer: Peer, path: str) -> str | None:
        """Whose `peer` is: by its cgroup, by that which it came from, or by its user."""
        user = None if peer.uid == 0 else self._context.agents.of_user(peer.user, peer.uid)
        return self._agent_at(path) or self._brakes.bound_to(peer.pid) or (user.agent if user else None)

    def _user_of(self, uid: int) -> str | None:
        return self._context.users.name(uid)

    def _missing(self) -> dict[str, str]:
        notifications = self._notifier.missing() if self._notifier else {}
        audit = {"audit trail": self._audit.unavailable} if self._audit.unavailable else {}
        return self._backend.missing | self._context.missing() | audit | notifications

    def _asked(self, request: Request) -> None:
        log_request(request)
        note_request(self._requests, request)

    def _clashes(self) -> dict[str, int]:
        return {", ".join(agents): count for agents, count in self._context.recogniser.clashes.items()}

    def status(self) -> dict[str, Any]:
        """What `hostbrake status --json` prints."""
        self._tell_losses()
        return {
            "ready": self._ready,
            "version": __version__,
            "pid": os.getpid(),
            "since": self._since,
            "mode": self._config.mode,
            "backend": "core",
            "pinned": False,
            "rules": self._rules.summary(),
            "agents": len(self._context.agents),
            "agents_that_clash": self._clashes(),
            "profiles": self._profiles.summary(),
            "events": dict(self._pipeline.seen),
            "alerts": dict(self._pipeline.outcomes),
            "merged": self._pipeline.merged,
            "approvals": self._desk.summary(),
            "held": self._keeper.held(),
            "isolated": self._isolation.paths(),
            "notifications": self._notifier.status() if self._notifier else None,
            "audit": self._audit.summary(),
            "lost": self._losses.total,
            "not_available": self._missing(),
            "kernel": self._backend.counters(),
            "control_refused": self._control.refused,
        }
