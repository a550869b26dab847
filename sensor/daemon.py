"""`hostbrake run`: everything put together, and the loop that keeps it going."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sensor import __version__
from sensor.agents_file import AgentFile
from sensor.context.agents import Agents
from sensor.context.devices import gpu_majors
from sensor.context.enrich import Context
from sensor.control import ControlServer, Handler, Request, group_id
from sensor.desk import log_request, note_request
from sensor.kernel.core import CoreBackend, Programs
from sensor.kernel.libbpf import BpfError
from sensor.losses import Losses, clash_alert, kernel_losses, loss_alert
from sensor.node import boot_id, cgroup2_mount, host
from sensor.pager import pager_commands
from sensor.record.audit.requests import Requests
from sensor.record.audit.trail import Audit
from sensor.record.notify.notifier import Notifier
from sensor.record.notify.store import NOTIFY_DIR
from sensor.record.outlet import Outlet
from sensor.record.sink import Sink
from sensor.reload import Fresh, Reloader, Result, compiled, needs_restart
from sensor.startup import Loaded
from sensor.station import Outputs, Station
from sensor.supervisor import Supervisor

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
        config = loaded.config
        mount = cgroup2_mount()
        root = Path(config.cgroup_root) if config.cgroup_root else mount
        self._config = config
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
        to = Outputs(self._outlet, self._events, self._audit)
        self._station = Station(
            self._config, fresh, root=self._root, mount=mount, context=self._context, backend=self._backend, to=to
        )
        self._pipeline, self._approvals = self._station.pipeline, self._station.approvals
        self._control.add(self._station.commands())
        self._losses = Losses(
            {
                "kernel": lambda: kernel_losses(self._backend.counters()),
                "skipped": self._backend.missed_runs,
                "sweeps": lambda: {"failed": self._sweeps_failed},
                **self._station.losses(),
                "notifications": lambda: self._notifier.losses() if self._notifier else {},
                "alerts": lambda: self._alerts.losses,
                "events": lambda: self._events.losses if self._events else {},
                "audit": lambda: self._audit.losses,
            }
        )

    def _reload(self) -> None:
        """Use what a reload brought, if one has ended well."""
        fresh = self._reloader.poll(self._station.rules)
        if fresh is None:
            return
        restart = needs_restart(self._config, fresh.loaded.config)
        if self._notifier:
            self._notifier.use(fresh.agents.files())
        self._station.use(fresh)
        self._config = config = self._station.config
        self._reloader.used(
            restart, {"mode": config.mode, "rules": len(self._station.rules), "agents": len(fresh.agents)}
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
            self._station.profiles.save(at_once=True)
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
            rules=len(self._station.rules),
            agents=len(self._context.agents),
        )

    def _announce(self) -> None:
        gc.freeze()  # what lives now lives on: the collector need not look at it again
        gc.enable()
        self._ready = True
        log.info(
            "ready",
            mode=self._config.mode,
            rules=len(self._station.rules),
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
        self._station.keep()
        self._station.drills.tick()
        self._context.advance(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._station.profiles.save()
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

    def _user_of(self, uid: int) -> str | None:
        return self._context.users.name(uid)

    def _missing(self) -> dict[str, str]:
        notifications = self._notifier.missing() if self._notifier else {}
        audit = {"audit trail": self._audit.unavailable} if self._audit.unavailable else {}
        return self._backend.missing | self._context.missing() | audit | notifications

    def _asked(self, request: Request) -> None:
        log_request(request)
        note_request(self._requests, request)

    def status(self) -> dict[str, Any]:
        """What `hostbrake status --json` prints."""
        self._tell_losses()
        return {
            "ready": self._ready,
            "version": __version__,
            "pid": os.getpid(),
            "since": self._since,
            "backend": "core",
            "pinned": False,
            **self._station.status(),
            "notifications": self._notifier.status() if self._notifier else None,
            "audit": self._audit.summary(),
            "lost": self._losses.total,
            "not_available": self._missing(),
            "kernel": self._backend.counters(),
            "control_refused": self._control.refused,
        }
