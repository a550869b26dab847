"""Kernel events -> events that rules judge: who did it, where it runs, what it reached for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sensor import decode
from sensor.context.agents import Agents
from sensor.context.cgroups import Cgroups
from sensor.context.containers import Containers
from sensor.context.conversations import PROTOCOLS, Conversations
from sensor.context.devices import Devices
from sensor.context.gpus import DRIVER, Nvml
from sensor.context.held import HeldEnd
from sensor.context.identity import guid
from sensor.context.membership import Follower, Membership, agent_fields
from sensor.context.places import Place, Places
from sensor.context.processes import Process, Processes
from sensor.context.recognise import Recogniser
from sensor.context.remote import Remote, Suspect
from sensor.context.routes import Routes
from sensor.context.slurm import Jobs
from sensor.context.steered import may_steer, process_stdio
from sensor.context.usage import Usages
from sensor.context.users import Users
from sensor.context.wiring import Wired
from sensor.events import (
    AnyEvent,
    CgroupMigration,
    CpuRounding,
    DeviceOpen,
    NetworkConnection,
    NetworkRelay,
    ProcessCreation,
    ProcessStdio,
)
from sensor.node import boottime_offset

_SECOND = 1_000_000_000
_ACCESS = {1: "read", 2: "write", 3: "readwrite"}
_FAMILIES = {1: "unix", 2: "inet", 10: "inet6", 16: "netlink", 17: "packet", 38: "alg", 40: "vsock"}
"""AF_* in include/linux/socket.h."""


def _family(number: int) -> str:
    return _FAMILIES.get(number) or str(number)


class Context:
    """What the sensor knows of this node.

    `cgroup_root` is where the whole cgroup v2 hierarchy is mounted. Raises NodeError where the routing table
    cannot be read, OSError where `cgroup_root` cannot.

    Order of use: attach the kernel programs, then `seed`, then `enrich` each event in the order of the ring;
    so nothing falls between.
    """

    def __init__(
        self,
        *,
        cgroup_root: Path,
        agents: Agents,
        gpu_majors: Iterable[int] = (),
        containers: Containers | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        self.processes = Processes()
        self.cgroups = Cgroups(cgroup_root)
        self.devices = Devices(gpu_majors)
        self.routes = Routes()
        self.users = Users()
        self.conversations = Conversations(self.routes.scope)
        self.remote = Remote()
        self._gpus = Nvml() if DRIVER.exists() else None
        self.usages = Usages(cgroup_root, self._gpus)
        self._members = Membership(cgroup_root, agents, self.users.name, containers, jobs)
        self._places = Places(self.cgroups, self._members)
        self._offset = 0
        self._offset_due = 0
        self._users_due = 0

    def seed(self) -> None:
        """Take in the processes and cgroups that are older than the sensor."""
        self.cgroups.seed()
        self.processes.seed()

    def use_agents(self, agents: Agents) -> None:
        """From the next event on, these are the agents. Whoever follows is then to be told of all cgroups, and
        `bind_users` called.
        """
        self._members.use(agents)
        self._places.clear()

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of cgroups that come and go, from the next event on."""
        self._members.follower = follower

    def agent_of(self, cgroup_id: int, path: str) -> str | None:
        """The agent that a cgroup belongs to."""
        return self._members.of_cgroup(cgroup_id, path)

    def bind_users(self, before: Agents | None = None) -> None:
        """See `Membership.bind_users`."""
        self._members.bind_users(self.cgroups.items(), before)

    @property
    def recogniser(self) -> Recogniser:
        return self._members.recogniser

    def advance(self, now: int) -> None:
        """Take in what became known meanwhile; to be called every few seconds with the time since boot, nanoseconds."""
        if now >= self._offset_due:
            self._tick(now)

    @property
    def agents(self) -> Agents:
        return self._members.agents

    def filenos(self) -> tuple[int, ...]:
        """Descriptors to wait on: one is readable when routes may have changed."""
        return (self.routes.fileno(),)

    def refresh(self) -> None:
        """Take in what changed; call this when one of `filenos` is readable."""
        self.routes.read_changes()

    def close(self) -> None:
        self.routes.close()

    def missing(self) -> dict[str, str]:
        """What there is on this node but no way to know -> why."""
        why = self._gpus.why if self._gpus else None
        unknown = {f"agents by {form}": why for form, why in self.recogniser.missing().items()}
        return ({"gpu utilisation": why} if why else {}) | unknown

    def losses(self) -> dict[str, int]:
        """What the tables had to let go or could not find, since the sensor began."""
        return {
            "processes_evicted": self.processes.evicted,
            "cgroups_evicted": self.cgroups.evicted,
            "cgroups_unknown": self.cgroups.unknown,
            "users_unanswered": self.users.unanswered,
            "routes_failed": self.routes.failures,
            "gpus_silent": self._gpus.failures if self._gpus else 0,
            **self.recogniser.losses(),
            "suspects_evicted": self.remote.evicted,
            "looks_failed": self.remote.failed,
            **self.conversations.losses(),
        }

    def enrich(self, raw: decode.Kernel) -> AnyEvent | list[AnyEvent] | None:
        """The event or events that rules see, or None where only what is known changes. Never raises."""
        if raw.time >= self._offset_due:
            self._tick(raw.time)
        if isinstance(raw, decode.Exec):
            event = self._exec(raw)
            told = self.remote.started(raw)
            return [event, *(self._stdio(*each, raw.time, ran=True) for each in told)] if told else event
        if isinstance(raw, decode.Exit):
            self.processes.exited(raw.tgid, raw.start)
            self.remote.exited((raw.tgid, raw.start))
        elif isinstance(raw, decode.Connect):
            return self._connect(raw)
        elif isinstance(raw, decode.DeviceAccess):
            return self._device(raw)
        elif isinstance(raw, decode.Rounding):
            return self._rounding(raw)
        elif isinstance(raw, decode.Payload):
            events = self.conversations.payload(raw, self._base(raw))
            self._suspect(raw)
            return events
        elif isinstance(raw, decode.FlowTotals):
            self.remote.ended(raw)
            base = self._base(raw)
            usage = None if raw.closed else self.usages.of(raw.cgroup_id, base["cgroup_path"], raw.time)
            return self.conversations.totals(raw, base, usage)
        elif isinstance(raw, decode.Relay):
            return self._relay(raw)
        else:
            return self._cgroup(raw)
        return None

    def _tick(self, now: int) -> None:
        self._offset = boottime_offset()
        self._offset_due = now + _SECOND
        self.cgroups.retry()
        self._recognise()
        if now >= self._users_due:
            self._users_due = now + 60 * _SECOND
            self.users.refresh()

    def _recognise(self) -> None:
        """Take in what container runtimes and Slurm have told since the last call."""
        changed = self._members.news()
        if changed:
            self._places.forget(changed)

    def _cgroup(self, raw: decode.Kernel) -> AnyEvent | None:
        if isinstance(raw, decode.CgroupMade):
            self.cgroups.learn(raw.made, raw.path)
            self._places.forget((raw.made,))
            self._members.made(raw.made, raw.path)
        elif isinstance(raw, decode.CgroupRemoved):
            self.cgroups.forget(raw.removed)
            self._places.forget((raw.removed,))
            self._members.removed(raw.removed)
        elif isinstance(raw, decode.CgroupMoved):
            if raw.path:
                self.cgroups.learn(raw.into, raw.path)
            if raw.left:
                return self._migration(raw)
        return None

    def _migration(self, raw: decode.CgroupMoved) -> CgroupMigration:
        own = self.processes.find(raw.moved, raw.moved_start, "", ())
        base = self._base(raw) | {
            "process_id": raw.moved,
            "process_guid": guid(raw.moved, raw.moved_start),
            "user": None,
            "user_id": None,
            "cgroup_id": raw.into,
            "cgroup_path": raw.path,
        }
        return CgroupMigration(
            **base | agent_fields(self._members.of_number(raw.left)),
            left_agent=True,
            image=own.image if own else None,
            command_line=own.command_line if own else None,
            args=own.args if own else None,
        )

    def _exec(self, raw: decode.Exec) -> ProcessCreation:
        image, args, chain = raw.image, raw.args, raw.ancestors
        command_line = " ".join(args)
        processes = self.processes
        processes.executed(raw.tgid, raw.start, Process(image, command_line, args, raw.piped))
        parent_image = raw.parent_image
        parent = processes.find(*chain[0], parent_image, chain[1:]) if chain else None
        user = self.users.name(raw.uid)
        place = self._places.of(raw.cgroup_id, raw.uid, user)
        if place.asks_user and raw.uid:
            place = self._user_of_job(place.asks_user, raw, user)
        if place.by_user and place.agent and place.path and self._members.follower:
            self._members.follower.belongs(raw.tgid, place.agent, place.path)
        event = ProcessCreation(
            time=raw.time + self._offset,
            boottime=raw.time,
            process_id=raw.tgid,
            process_guid=guid(raw.tgid, raw.start),
            image=image or None,
            command_line=command_line,
            args=args,
            current_directory=raw.cwd or None,
            parent_process_id=chain[0][0] if chain else None,
            parent_image=parent_image or None,
            parent_command_line=parent.command_line if parent else None,
            ancestors=[parent_image, *processes.images(chain[1:])] if chain else None,
            fileless=raw.fileless,
            stdio_socket=raw.stdio_socket,
            stdio_socket_family=_family(raw.stdio_family) if raw.stdio_family else None,
            truncated=raw.truncated,
            user=user,
            user_id=raw.uid,
            cgroup_id=raw.cgroup_id,
            cgroup_path=place.path,
            container_id=place.container_id,
            systemd_unit=place.systemd_unit,
            slurm_job_id=place.slurm_job_id,
            kubernetes_pod=place.kubernetes_pod,
            agent=place.agent,
            agent_owner=place.agent_owner,
            agent_purpose=place.agent_purpose,
            agent_gpu=place.agent_gpu,
            agent_egress=place.agent_egress,
        )
        if raw.denied or raw.unwanted:
            self._judged(event, raw)
        return event

    def _user_of_job(self, job_id: str, raw: decode.Exec, user: str | None) -> Place:
        """Its first program that is not root's tells it."""
        self._members.recogniser.job_runs_as(job_id, raw.uid)
        self._recognise()
        self._places.forget((raw.cgroup_id,))
        return self._places.of(raw.cgroup_id, raw.uid, user)

    def _judged(self, event: ProcessCreation | NetworkConnection | DeviceOpen, raw: decode.Origin) -> None:
        """What the kernel side decided, and by whose limits: a process that was moved is still its agent's."""
        event.denied = raw.denied
        event.would_deny = raw.unwanted or None
        for name, value in agent_fields(self._members.of_number(raw.agent)).items():
            setattr(event, name, value)

    def _base(self, raw: decode.Kernel) -> dict[str, Any]:
        """What an event's task and cgroup say of it; of the process no more than its identity."""
        user = self.users.name(raw.uid)
        place = self._places.of(raw.cgroup_id, raw.uid, user)
        return {
            "time": raw.time + self._offset,
            "boottime": raw.time,
            "process_id": raw.tgid or None,
            "process_guid": guid(raw.tgid, raw.start) if raw.tgid else None,
            "user": user if raw.tgid else None,
            "user_id": raw.uid if raw.tgid else None,
            "cgroup_id": raw.cgroup_id,
            "cgroup_path": place.path,
            "container_id": place.container_id,
            "systemd_unit": place.systemd_unit,
            "slurm_job_id": place.slurm_job_id,
            "kubernetes_pod": place.kubernetes_pod,
            "agent": place.agent,
            "agent_owner": place.agent_owner,
            "agent_purpose": place.agent_purpose,
            "agent_gpu": place.agent_gpu,
            "agent_egress": place.agent_egress,
        }

    def _actor(self, raw: decode.Origin) -> dict[str, Any]:
        """`_base`, and what the process and its parent run."""
        own, parent = self._programs(raw)
        return {
            **self._base(raw),
            "image": raw.image or None,
            "command_line": own.command_line if own else None,
            "args": own.args if own else None,
            "parent_process_id": raw.ancestors[0][0] if raw.ancestors else None,
            "parent_image": parent.image if parent else None,
            "parent_command_line": parent.command_line if parent else None,
        }

    def _connect(self, raw: decode.Connect) -> NetworkConnection:
        event = NetworkConnection(
            **self._actor(raw),
            initiated=True,
            protocol=PROTOCOLS.get(raw.protocol) or str(raw.protocol),
            destination_ip=raw.address,
            destination_port=raw.port,
            destination_scope=self.routes.scope(raw.address),
            source_ip=raw.source_address,
            source_port=raw.source_port,
            denied=raw.denied,
            repeats=raw.repeats or None,
        )
        if raw.denied or raw.unwanted:
            self._judged(event, raw)
        if raw.prompt is not None:
            event.prompted_by_ip = raw.prompt.address
            event.prompted_by_port = raw.prompt.port
            event.prompted_by_scope = self.routes.scope(raw.prompt.address)
            event.prompted_ms = round((raw.time - raw.prompt.time) / 1e6, 3)
            event.prompted_cgroup = raw.prompt.shared
        self.conversations.connected(raw.tgid, raw.start, raw.cgroup_id, event)
        return event

    def _relay(self, raw: decode.Relay) -> NetworkRelay:
        event = self.conversations.relay(raw, self._base(raw))
        if event.image is None and raw.tgid:  # no connection of it was seen: the outer one may be older than we are
            own = self.processes.find(raw.tgid, raw.start, "", ())
            if own is not None:
                event.image, event.command_line, event.args = own.image, own.command_line, own.args
        return event

    def _device(self, raw: decode.DeviceAccess) -> DeviceOpen:
        device_class, index = self.devices.device(raw.major, raw.minor)
        event = DeviceOpen(
            **self._actor(raw),
            device_class=device_class,
            device_major=raw.major,
            device_minor=raw.minor,
            gpu_index=index,
            access=_ACCESS.get(raw.access),
            denied=raw.denied,
            repeats=raw.repeats or None,
        )
        if raw.denied or raw.unwanted:
            self._judged(event, raw)
        return event

    def _rounding(self, raw: decode.Rounding) -> CpuRounding:
        own, parent = self._programs(raw)
        return CpuRounding(
            **self._base(raw),
            image=raw.image or None,
            command_line=own.command_line if own else None,
            args=own.args if own else None,
            parent_process_id=raw.ancestors[0][0] if raw.ancestors else None,
            parent_image=parent.image if parent else None,
            parent_command_line=parent.command_line if parent else None,
            rounding_modes=sum(count > 0 for count in (raw.down, raw.up, raw.toward_zero)),
            rounding_down=raw.down,
            rounding_up=raw.up,
            rounding_toward_zero=raw.toward_zero,
            rounding_changes=raw.changes,
            duration=round(raw.span / 1e9, 3),
        )

    def _suspect(self, raw: decode.Payload) -> None:
        owner = self.processes.get(raw.tgid, raw.start)
        if raw.ends.cookie not in self.remote and may_steer(raw, owner, self.conversations):
            self.remote.spoke(raw, self.routes.scope(raw.ends.remote))

    def looked(self, found: list[HeldEnd], now: int, took: int) -> list[AnyEvent]:
        """What a look at the descriptors of some processes tells: see Remote.looked."""
        return [self._stdio(suspect, fed, now) for suspect, fed in self.remote.looked(found, now, took)]

    def _stdio(self, suspect: Suspect, fed: Wired, now: int, *, ran: bool = False) -> ProcessStdio:
        base = self._base(fed.process) | {"time": now + self._offset, "boottime": now}
        return process_stdio(base, self.processes, self.conversations, suspect.ends, fed, ran=ran)

    def _programs(self, raw: decode.Origin) -> tuple[Process | None, Process | None]:
        """What the process itself and its parent run."""
        processes, chain = self.processes, raw.ancestors
        own = processes.find(raw.tgid, raw.start, raw.image, chain)
        return own, processes.find(*chain[0], "", ()) if chain else None
