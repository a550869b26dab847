"""Events as rules, recordings and alerts see them: one class per Sigma log source category.

Attributes are the Sigma field names in snake case. `to_record` and `from_record` are the JSON-lines form
(`--events`, `replay`, rule samples); a field with nothing to say is None and left out of the record.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, ClassVar, TypeAlias, get_args

import msgspec


class Event(msgspec.Struct, kw_only=True, rename="pascal", forbid_unknown_fields=True, gc=False):
    """What every event carries: when, which process, which workload."""

    CATEGORY: ClassVar[str] = ""

    time: int
    """Nanoseconds since the Unix epoch; in a record RFC 3339 UTC with microseconds."""
    process_id: int | None = None
    """The thread group id in the root PID namespace."""
    process_guid: str | None = None
    """Identity of the process across pid reuse and hosts: see `sensor.context.identity.guid`."""
    image: str | None = None
    """The executable's path as the kernel resolved it; for a script, the interpreter's."""
    command_line: str | None = None
    args: list[str] | None = None
    parent_process_id: int | None = None
    parent_image: str | None = None
    parent_command_line: str | None = None
    user: str | None = None
    user_id: int | None = None
    cgroup_id: int | None = None
    cgroup_path: str | None = None
    """The path in the cgroup v2 hierarchy, from its root: "/", "/system.slice/ssh.service"."""
    container_id: str | None = None
    systemd_unit: str | None = None
    slurm_job_id: str | None = None
    kubernetes_pod: str | None = None
    agent: str | None = None
    agent_owner: str | None = None
    agent_purpose: str | None = None
    agent_gpu: bool | None = None
    agent_egress: str | None = None
    """The agent's default for destinations that its file does not name: "allow" or "deny"."""
    repeats: int | None = None
    """How many equal events the kernel collapsed into this one since it last reported them."""
    boottime: int = 0
    """CLOCK_BOOTTIME of the kernel's event in nanoseconds, for latencies; 0 where replayed. Not recorded."""


class ProcessCreation(Event):
    """A program began to run: the kernel's sched_process_exec."""

    CATEGORY: ClassVar[str] = "process_creation"

    current_directory: str | None = None
    ancestors: list[str] | None = None
    """Images of the process's ancestors, the parent first."""
    fileless: bool | None = None
    """The executable has no name on any file system: a memfd, or deleted."""
    stdio_socket: bool | None = None
    """Standard input, output or error is a socket."""
    stdio_socket_family: str | None = None
    """That socket's address family: inet, inet6, unix, vsock …; a journal or an sshd child has unix."""
    denied: bool | None = None
    """It was ended before its first instruction, since its workload may not run it."""
    would_deny: bool | None = None
    """As `denied`, were its agent's limits enforced."""
    truncated: bool | None = None
    """Arguments or a path were longer than what the sensor keeps (4 KiB)."""

    @property
    def argv(self) -> str | None:
        """Every argument ended by NUL, as /proc/PID/cmdline has them (proc(5)).

        Unlike CommandLine it tells `-o "A B"` from `-o A B`, so a pattern can follow an option parser.
        """
        return None if self.args is None else "".join([f"{arg}\0" for arg in self.args])


class FlowEvent(Event):
    """What is said of a connection or of datagrams between the process and one destination."""

    initiated: bool | None = None
    """The process opened the connection; False where it accepted it."""
    protocol: str | None = None
    """The transport: tcp, udp, icmp …, or the number that IANA gave it."""
    destination_ip: str | None = None
    destination_port: int | None = None
    destination_hostname: str | None = None
    destination_scope: str | None = None
    """loopback, local (this host), private (RFC 1918, RFC 4193, RFC 6598), external or metadata."""
    source_ip: str | None = None
    source_port: int | None = None
    denied: bool | None = None
    """Nothing of it left, since its workload may not go there."""
    would_deny: bool | None = None
    """As `denied`, were its agent's limits enforced."""


class NetworkConnection(FlowEvent):
    """A connect(2), or the first datagram to a destination; repeats are collapsed."""

    CATEGORY: ClassVar[str] = "network_connection"

    prompted_by_ip: str | None = None
    """Who, on a connection that the process or another of its cgroup holds, had spoken unasked within the second
    before: as the far end of a tunnel does to have the near end connect."""
    prompted_by_port: int | None = None
    prompted_by_scope: str | None = None
    """As DestinationScope."""
    prompted_ms: float | None = None
    """How long before, in milliseconds."""
    prompted_cgroup: bool | None = None
    """It was said to another process of the cgroup."""


class NetworkPayload(FlowEvent):
    """The first words of a flow, recognised from their bytes alone, whatever the port and the program's name.

    Text is what the peers sent, so it may be anything; absent where the protocol has no such thing.
    """

    CATEGORY: ClassVar[str] = "network_payload"

    application_protocol: str | None = None
    """ssh, stratum, tls, http, socks, dns, wireguard, quic …"""
    carried_by: str | None = None
    """The protocol around this one: "http-connect", "socks5", "websocket" …"""
    from_peer: bool | None = None
    """The side that accepted the flow speaks as the client in it, as in a reverse tunnel."""
    ssh_banner: str | None = None
    """The identification string without its line end (RFC 4253 section 4.2): "SSH-2.0-OpenSSH_9.2p1"."""
    ssh_peer_banner: str | None = None
    """That of the side that accepted the connection."""
    stratum_user: str | None = None
    """The wallet, account or worker that the miner logs in with."""
    stratum_method: str | None = None
    """The JSON-RPC method of a mining client: "mining.subscribe", "login", "eth_submitLogin"."""
    tls_server_name: str | None = None
    """The name that a ClientHello asks for (RFC 6066 section 3), that of a QUIC Initial included."""
    tls_alpn: list[str] | None = None
    """The application protocols that a ClientHello offers (RFC 7301), in its order."""
    tls_ech: bool | None = None
    """The ClientHello holds an encrypted one (Encrypted Client Hello), so its server name may be a front."""
    tls_ja4: str | None = None
    """JA4, the fingerprint of the ClientHello: "t13d1516h2_8daaf6152771_b186095e22b6"."""
    http_method: str | None = None
    http_host: str | None = None
    """The host of an absolute target, or else of the Host header or :authority (RFC 3986 section 3.2.2): lower case,
    without port, brackets and user information."""
    http_path: str | None = None
    """The request target's first 256 bytes."""
    http_upgrade: str | None = None
    """The Upgrade header: "websocket", "h2c"."""
    socks_destination: str | None = None
    """Where the client wants a SOCKS proxy or an HTTP CONNECT to take it: "host:port"."""


class NetworkFlow(FlowEvent):
    """What went over flows of the process to one destination: at their end, and every minute while one is open.

    Bytes, headers from IP on included, and packets are those since the flow's last report, so that they add up.
    """

    CATEGORY: ClassVar[str] = "network_flow"

    bytes_out: int | None = None
    bytes_in: int | None = None
    packets_out: int | None = None
    packets_in: int | None = None
    duration: float | None = None
    """Seconds since the flow began; None for short accepted flows, and for sums told later."""
    flows: int | None = None
    """How many flows of the process to this destination ended since the last report; 0 while one is open."""
    refused: bool | None = None
    """It ended before it was established: nobody listens, or nobody answered."""
    application_protocol: str | None = None
    """As in NetworkPayload; "unknown" where its first words were seen and say nothing, absent where they were not."""
    cpu_cores: float | None = None
    """CPU seconds per second that the process's cgroup, with those below it, used in the last minute or so."""
    gpu_utilisation: float | None = None
    """Percent of one GPU's time that it used, summed over GPUs."""


class NetworkRelay(FlowEvent):
    """What comes in on one connection goes out on another at once, as much of it, and so does the answer.

    The destination is the far end of the outer connection, which this host opened to another; the process is the one
    that holds it. Said at 1, 3, 10, 30 and 100 turns or exchanges.
    """

    CATEGORY: ClassVar[str] = "network_relay"

    application_protocol: str | None = None
    """What the outer connection speaks, as in NetworkFlow."""
    ssh_banner: str | None = None
    """As in NetworkPayload: that of this host's end of the outer connection."""
    tls_server_name: str | None = None
    relay_ip: str | None = None
    """The far end of the inner connection; where that was accepted, who opened it."""
    relay_port: int | None = None
    """There, the port of the service; where the inner connection was accepted, the port that it came in on."""
    relay_scope: str | None = None
    """As DestinationScope, of RelayIp."""
    relay_process_id: int | None = None
    """Who holds the inner connection."""
    relay_image: str | None = None
    """The program that opened the inner connection."""
    relay_same_image: bool | None = None
    """It is the one that opened the outer connection, as where it has forked."""
    relay_initiated: bool | None = None
    """This host opened the inner connection; False where it was accepted, as by a listener."""
    relay_prompted: bool | None = None
    """The inner connection was opened within a quarter of a second after the outer one had spoken."""
    relay_shared: bool | None = None
    """The inner connection is another process's of the cgroup."""
    relay_exchanges: int | None = None
    """How often something went out on one connection after a burst on the other, of the way that has fewer."""
    relay_turns: int | None = None
    """So, of bursts that went out as they came, but for framing: one is a question and its answer."""
    relay_large: int | None = None
    """As RelayTurns, of bursts of 256 bytes or more; small ones may be alike in size by chance."""
    relay_verbatim: int | None = None
    """As RelayTurns, of bursts that ended in the very same 16 bytes: nothing was encrypted."""
    relay_missed: int | None = None
    """Bursts on either connection that did not go through."""
    relay_matched: float | None = None
    """Percent of the bursts that went through."""
    relay_bytes_in: int | None = None
    """Relayed from the outer connection to the inner one, framing left out."""
    relay_bytes_out: int | None = None


class ProcessStdio(FlowEvent):
    """A program whose standard input comes from a connection that was opened here, and whose output goes to it, through
    pipes, a pty or unix sockets; said once of each program and connection, and once more when it runs others.

    The process is the one that is fed, the connection the one that feeds it.
    """

    CATEGORY: ClassVar[str] = "process_stdio"

    application_protocol: str | None = None
    """As in NetworkPayload; "unknown" where the first words say nothing."""
    stdio_kind: str | None = None
    """Of its standard input: pipe, pty, unix, or socket where that is the connection itself."""
    fed_by_process_id: int | None = None
    """The process that holds the connection and feeds this one, itself or through others."""
    fed_by_image: str | None = None
    fed_by_command_line: str | None = None
    fed_by_stdio: bool | None = None
    """The other ends, or the connection, are the feeding program's own standard streams: somebody put it between."""
    only_connection: bool | None = None
    """The feeding process holds no other internet socket."""
    plain_text: bool | None = None
    """What was said first is text, and does not begin as JSON or a text protocol does."""
    reads_commands: bool | None = None
    """A shell or interpreter by its name, with no argument that says what to run: it runs what it reads."""
    ran_programs: bool | None = None
    """It has run another program since."""


class DnsQuery(Event):
    """A name that the process asked for, and what it was told."""

    CATEGORY: ClassVar[str] = "dns_query"

    query_name: str | None = None
    """Without the final dot; other bytes than letters, digits, "-" and "_" as in RFC 4343 section 2.1."""
    query_type: str | None = None
    """The record type's mnemonic, or TYPE and its number (RFC 3597 section 5): "A", "AAAA", "HTTPS", "TYPE65280"."""
    query_results: list[str] | None = None
    """Addresses and names of the answer, a chain of aliases first; empty where the answer held none."""


class DeviceOpen(Event):
    """An open of a GPU device node, by device number, so whatever its path."""

    CATEGORY: ClassVar[str] = "device_open"

    device_class: str | None = None
    device_major: int | None = None
    device_minor: int | None = None
    gpu_index: int | None = None
    access: str | None = None
    """read, write or readwrite."""
    denied: bool | None = None
    """The driver never heard of it, since its workload may not open it."""
    would_deny: bool | None = None
    """As `denied`, were its agent's limits enforced."""


class CgroupMigration(Event):
    """A process was moved out of its agent's cgroups, into `CgroupPath`. Its agent's limits go with it."""

    CATEGORY: ClassVar[str] = "cgroup_migration"

    left_agent: bool | None = None
    """Where it is now is not the cgroup of the agent that it belongs to."""


class CpuRounding(Event):
    """A program keeps changing the rounding mode of its floating-point arithmetic at random; said once of each.

    Counted are samples, ten a second at most: the mode in which one of its threads left the CPU. Those to nearest,
    the mode of nearly every program, are left out.
    """

    CATEGORY: ClassVar[str] = "cpu_rounding"

    rounding_modes: int | None = None
    """How many of the three were sampled."""
    rounding_down: int | None = None
    rounding_up: int | None = None
    rounding_toward_zero: int | None = None
    rounding_changes: int | None = None
    """How many samples differ from the one before."""
    duration: float | None = None
    """Seconds from the first sample to the last."""


AnyEvent: TypeAlias = (
    ProcessCreation
    | ProcessStdio
    | NetworkConnection
    | NetworkPayload
    | NetworkFlow
    | NetworkRelay
    | DnsQuery
    | DeviceOpen
    | CpuRounding
    | CgroupMigration
)


def kernel_time(event: AnyEvent) -> int:
    """When the kernel saw it, in nanoseconds: CLOCK_BOOTTIME, or since the Unix epoch where it was replayed."""
    return event.boottime or event.time


CLASSES: dict[str, type[AnyEvent]] = {cls.CATEGORY: cls for cls in get_args(AnyEvent)}
"""Event class by Sigma category."""

_UNRECORDED = {"time", "boottime"}
_DERIVED = {"process_creation": {"Argv": "argv"}}


def fields_of(category: str) -> dict[str, str]:
    """Sigma field name -> attribute name, for the fields that events of `category` have.

    Among them those that records leave out because another field gives them: Argv.
    """
    return _recorded_fields(CLASSES[category]) | _DERIVED.get(category, {})


def _recorded_fields(cls: type[AnyEvent]) -> dict[str, str]:
    fields = msgspec.structs.fields(cls)
    return {field.encode_name: field.name for field in fields if field.name not in _UNRECORDED}


_RECORDED = {
    cls: tuple((attribute, name) for name, attribute in _recorded_fields(cls).items()) for cls in CLASSES.values()
}


class RecordError(ValueError):
    """A recorded line is no event; the message says why."""


def to_record(event: AnyEvent) -> dict[str, Any]:
    """The event as one flat JSON object, ready for orjson."""
    record: dict[str, Any] = {"category": event.CATEGORY, "time": rfc3339(event.time)}
    for attribute, name in _RECORDED[type(event)]:
        value = getattr(event, attribute)
        if value is not None:
            record[name] = value
    return record


def from_record(record: object) -> AnyEvent:
    """The inverse of `to_record`; raises RecordError for anything else. `time` may be absent in samples."""
    if not isinstance(record, dict):
        raise RecordError("an event is an object")
    fields = dict(record)
    category = fields.pop("category", None)
    cls = CLASSES.get(category) if isinstance(category, str) else None
    if cls is None:
        raise RecordError(f"unknown category {category!r}; known: {', '.join(CLASSES)}")
    fields["Time"] = parse_rfc3339(fields.pop("time", "1970-01-01T00:00:00Z"))
    if "Boottime" in fields:
        raise RecordError("unknown field `Boottime`")
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as error:
        raise RecordError(str(error)) from None


def rfc3339(time_ns: int) -> str:
    """RFC 3339 UTC with microseconds (section 5.6)."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*([Zz]|[+-]\d\d:\d\d)")


def parse_rfc3339(text: object) -> int:
    """Nanoseconds since the epoch; raises RecordError where `text` is no RFC 3339 time."""
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise RecordError(f"time: not RFC 3339: {text!r}")
    day, clock, fraction, zone = match.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise RecordError(f"time: {error}") from None
    return int(whole.timestamp()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
