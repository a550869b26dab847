"""What flows say, as events: their first words, the names that DNS gave, and their totals."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sensor.context.flows import DNS_PORT, SAME, Flows
from sensor.context.names import Answer, Names, Parser
from sensor.context.usage import Usage
from sensor.decode import Ends, FlowTotals, Payload, Relay
from sensor.events import AnyEvent, DnsQuery, NetworkConnection, NetworkFlow, NetworkPayload, NetworkRelay

if TYPE_CHECKING:
    from sensor.protocols import Finding

PROTOCOLS = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
    262: "mptcp",
}
"""IPPROTO_* in include/uapi/linux/in.h."""

_PROCESS = (
    "image",
    "command_line",
    "args",
    "parent_process_id",
    "parent_image",
    "parent_command_line",
)
_CLIENTS = 8192

Base = dict[str, Any]
"""The fields of an event that its task and cgroup give."""


class Conversations:
    """Turns what the kernel side hands up of flows into events."""

    def __init__(self, scope: Callable[[str], str]) -> None:
        """`scope` gives the DestinationScope of an address."""
        self.flows = Flows()
        self.names = Names()
        self.dns = Parser()
        self._scope = scope
        # The last connection of each process: the flows that follow are of the same program.
        self._clients: OrderedDict[tuple[int, int], NetworkConnection] = OrderedDict()

    def connected(self, tgid: int, start: int, cgroup_id: int, event: NetworkConnection) -> None:
        """A connection event was made: remember who, and say by which name it was known."""
        if event.destination_ip is not None:
            event.destination_hostname = self.names.name(cgroup_id, event.destination_ip, event.boottime)
        self._clients[tgid, start] = event
        self._clients.move_to_end((tgid, start))
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)

    def payload(self, raw: Payload, base: Base) -> list[AnyEvent]:
        """The events that a part of a flow's first words makes."""
        self._add_process(raw.tgid, raw.start, base)
        if raw.ends.remote_port != DNS_PORT:
            finding = self.flows.recognise(raw)
        elif raw.ends.protocol != socket.IPPROTO_UDP:
            messages, finding = self.flows.recognise_beside_dns(raw)
            if messages:
                return [event for message in messages for event in self._dns(raw, base, self._parse(message))]
        elif (answer := self._parse(raw.data)) is not None:
            return self._dns(raw, base, answer)
        else:
            finding = self.flows.recognise(raw)
        return self._found(finding, raw, base) if finding else []

    def totals(self, raw: FlowTotals, base: Base, usage: Usage | None = None) -> list[AnyEvent]:
        """The event of a flow that ended, or that has been open for another minute."""
        self._add_process(raw.tgid, raw.start, base)
        protocol, name = self.flows.known(raw)
        late = self.flows.ended(raw)
        events = self._found(late, raw, base) if late else []
        if late:
            protocol, name = late.protocol, _name(late) or name
        events.append(
            NetworkFlow(
                **base,
                **self.ends(raw.ends, raw.accepted),
                destination_hostname=name or self.names.name(raw.cgroup_id, raw.ends.remote, raw.time),
                bytes_out=raw.bytes_out,
                bytes_in=raw.bytes_in,
                packets_out=raw.packets_out,
                packets_in=raw.packets_in,
                duration=round((raw.time - raw.began) / 1e9, 3) if raw.began else None,
                flows=raw.flows,
                refused=raw.refused,
                application_protocol=SAME.get(protocol, protocol) if protocol else None,
                cpu_cores=usage.cpu_cores if usage else None,
                gpu_utilisation=usage.gpu_utilisation if usage else None,
            )
        )
        return events

    def relay(self, raw: Relay, base: Base) -> NetworkRelay:
        self._add_process(raw.tgid, raw.start, base)
        said = self.flows.said(raw.outer)
        name = said.name if said else None
        inner, holder = raw.inner, self._clients.get((raw.inner_tgid, raw.inner_start))
        image = None if holder is None or raw.accepted else holder.image
        return NetworkRelay(
            **base,
            **self.ends(raw.outer),
            destination_hostname=name or self.names.name(raw.cgroup_id, raw.outer.remote, raw.time),
            application_protocol=said.protocol if said else None,
            ssh_banner=said.ssh_banner if said else None,
            tls_server_name=name if said and said.protocol == "tls" else None,
            relay_ip=inner.remote,
            relay_port=inner.local_port if raw.accepted else inner.remote_port,
            relay_scope=self._scope(inner.remote),
            relay_process_id=raw.inner_tgid or None,
            relay_image=image,
            relay_same_image=None if image is None else image == base.get("image"),
            relay_initiated=not raw.accepted,
            relay_prompted=raw.prompted,
            relay_shared=raw.shared,
            relay_exchanges=raw.exchanges,
            relay_turns=raw.turns,
            relay_large=raw.large,
            relay_verbatim=raw.verbatim,
            relay_missed=raw.missed,
            relay_matched=round(200 * raw.turns / max(2 * raw.turns + raw.missed, 1), 1),
            relay_bytes_in=raw.bytes_in,
            relay_bytes_out=raw.bytes_out,
        )

    def losses(self) -> dict[str, int]:
        return {"flows_evicted": self.flows.evicted, "names_evicted": self.names.evicted}

    def _found(self, finding: Finding, raw: Payload | FlowTotals, base: Base) -> list[AnyEvent]:
        name = _name(finding) or self.names.name(raw.cgroup_id, raw.ends.remote, raw.time)
        ends = self.ends(raw.ends, raw.accepted)
        return [NetworkPayload(**base, **ends, **_said(finding), destination_hostname=name)]

    def _parse(self, message: bytes) -> Answer | None:
        answer = self.dns.parse(message)
        if answer is None:
            self.names.malformed += 1
        return answer

    def _dns(self, raw: Payload, base: Base, answer: Answer | None) -> list[AnyEvent]:
        if answer is None or not answer.is_response or not raw.inbound:
            return []
        self.names.learn(raw.cgroup_id, raw.time, answer)
        return [DnsQuery(**base, query_name=answer.name, query_type=answer.type, query_results=answer.results)]

    def _add_process(self, tgid: int, start: int, base: Base) -> None:
        client = self._clients.get((tgid, start))
        if client is not None:
            for name in _PROCESS:
                base[name] = getattr(client, name)

    def ends(self, ends: Ends, accepted: bool = False) -> Base:
        """The fields of an event that a flow's ends give."""
        return {
            "initiated": not accepted,
            "protocol": PROTOCOLS.get(ends.protocol) or str(ends.protocol),
            "destination_ip": ends.remote,
            "destination_port": ends.remote_port,
            "destination_scope": self._scope(ends.remote),
            "source_ip": ends.local,
            "source_port": ends.local_port or None,
        }


def _name(finding: Finding) -> str | None:
    """Of the far end, as the flow itself gives it."""
    return finding.tls_server_name or finding.http_host


def _said(finding: Finding) -> Base:
    return {
        "application_protocol": SAME.get(finding.protocol, finding.protocol),
        "carried_by": finding.carried_by,
        "from_peer": finding.from_peer,
        "ssh_banner": finding.ssh_banner,
        "ssh_peer_banner": finding.ssh_peer_banner,
        "stratum_method": finding.stratum_method,
        "stratum_user": finding.stratum_user,
        "http_method": finding.http_method,
        "http_host": finding.http_host,
        "http_path": finding.http_path,
        "http_upgrade": finding.http_upgrade,
        "socks_destination": finding.socks_destination or finding.http_connect_target,
        "tls_server_name": finding.tls_server_name,
        "tls_alpn": finding.tls_alpn,
        "tls_ech": finding.tls_ech,
        "tls_ja4": finding.tls_ja4,
    }
