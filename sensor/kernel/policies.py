"""The policy maps: what agents may do, as the hooks read it (bpf/policy.bpf.h). Bytes alone; no policy of its own."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from typing import Protocol, TypeAlias

from sensor import wire

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MASK = (1 << 64) - 1
_MAPPED_BITS = 96
_BEFORE_ADDRESS = 64


class Maps(Protocol):
    """Maps by name; `sensor.kernel.libbpf.BpfObject` is one."""

    def update(self, name: str, key: bytes, value: bytes) -> None:
        """Raises BpfError."""

    def delete(self, name: str, key: bytes) -> bool:
        """False where there was no such entry; raises BpfError."""

    def keys(self, name: str, size: int) -> Iterator[bytes]:
        """Every key; of a map that changes meanwhile, some may be missing."""

    def value(self, name: str, key: bytes, size: int) -> bytes | None:
        """None where there is no such entry."""


class Policies:
    """Writes the maps. Every method raises BpfError where the kernel refuses, as it does when a map is full."""

    def __init__(self, maps: Maps, scope: int = 1, scope_level: int = 0) -> None:
        """Rules for everybody hold below the cgroup with id `scope`, which lies `scope_level` below the root."""
        self._maps = maps
        self._scope = (scope, scope_level)
        self._any_policy = False
        self._any_isolated = False
        self._programs = False
        self._announce()

    def use(self, policies: bool, isolated: bool, programs: bool = False) -> None:
        """Whether there is anything for the hooks to ask for: without, they ask for nothing."""
        if (policies, isolated, programs) != (self._any_policy, self._any_isolated, self._programs):
            self._any_policy, self._any_isolated, self._programs = policies, isolated, programs
            self._announce()

    def _announce(self) -> None:
        value = wire.BRAKES.pack(self._any_policy, self._any_isolated, self._programs, 0, *self._scope)
        self._maps.update("brakes", b"\0\0\0\0", value)

    def assign(self, cgroup_id: int, agent: int, state: int = 0) -> None:
        """What runs in this cgroup is under the agent's limits, and what is made below it from now on."""
        self._maps.update("policies", cgroup_id.to_bytes(8, sys.byteorder), wire.POLICY.pack(agent, state))

    def release(self, cgroup_id: int) -> None:
        self._maps.delete("policies", cgroup_id.to_bytes(8, sys.byteorder))

    def assigned(self, cgroup_id: int) -> tuple[int, int] | None:
        """(agent, state) of a cgroup."""
        found = self._maps.value("policies", cgroup_id.to_bytes(8, sys.byteorder), wire.POLICY.size)
        return None if found is None else wire.POLICY.unpack(found)

    def bind(self, tgid: int, agent: int) -> None:
        """The process is under the agent's limits wherever it goes, and so are the children it makes from now on."""
        self._hold(tgid, agent, self._held(tgid)[1])

    def unbind(self, tgid: int) -> None:
        """The process is under no agent's limits by itself; whether it is cut off stays."""
        self._hold(tgid, 0, self._held(tgid)[1])

    def cut(self, tgid: int, state: int) -> None:
        """The process is cut off wherever it goes, and so are the children it makes from now on; 0: it is not."""
        self._hold(tgid, self._held(tgid)[0], state)

    def forget_process(self, tgid: int) -> None:
        """It has ended."""
        self._maps.delete("bound", tgid.to_bytes(4, sys.byteorder))

    def _hold(self, tgid: int, agent: int, state: int) -> None:
        if agent or state:
            self._maps.update("bound", tgid.to_bytes(4, sys.byteorder), wire.POLICY.pack(agent, state))
        else:
            self.forget_process(tgid)

    def _held(self, tgid: int) -> tuple[int, int]:
        found = self._maps.value("bound", tgid.to_bytes(4, sys.byteorder), wire.POLICY.size)
        return (0, 0) if found is None else wire.POLICY.unpack(found)

    def binding(self, tgid: int) -> int | None:
        """The agent that a process is bound to."""
        return self._held(tgid)[0] or None

    def bound(self) -> list[tuple[int, int, int]]:
        """(tgid, agent, state) of every process that is bound or cut off."""
        found = []
        for key in list(self._maps.keys("bound", 4)):
            value = self._maps.value("bound", key, wire.POLICY.size)
            if value is not None:
                found.append((int.from_bytes(key, sys.byteorder), *wire.POLICY.unpack(value)))
        return found

    def limit(self, agent: int, flags: int) -> None:
        """What is limited: wire.LIMIT_* bits; 0 lifts every limit."""
        key = agent.to_bytes(4, sys.byteorder)
        if flags:
            self._maps.update("limits", key, flags.to_bytes(4, sys.byteorder))
        else:
            self._maps.delete("limits", key)

    def allow_egress(self, agent: int, network: Network, port: int | None) -> None:
        self._maps.update("egress", egress_key(agent, network, port), b"\1\0\0\0")

    def forbid_egress(self, agent: int, network: Network, port: int | None) -> None:
        """Take back `allow_egress`."""
        self._maps.delete("egress", egress_key(agent, network, port))

    def name_program(self, key: bytes, node: bytes) -> None:
        """One entry of `program_tree`."""
        self._maps.update("named", key, node)

    def forget_program(self, key: bytes) -> None:
        self._maps.delete("named", key)

    def trust_resolver(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        """Answers of this DNS server say where a host that may be reached is."""
        self._maps.update("resolvers", mapped(address), b"\1\0\0\0")

    def resolvers(self) -> list[bytes]:
        return list(self._maps.keys("resolvers", 16))

    def distrust_resolver(self, key: bytes) -> None:
        self._maps.delete("resolvers", key)

    def name_host(self, key: bytes, node: bytes) -> None:
        """One entry of `HostTree`."""
        self._maps.update("hosts", key, node)

    def forget_host(self, key: bytes) -> None:
        self._maps.delete("hosts", key)

    def forget_resolved(self, agent: int) -> None:
        """The addresses that the agent may reach because a host that it may reach was said to be there."""
        for key in list(self._maps.keys("resolved", wire.RESOLVED_KEY.size)):
            if wire.RESOLVED_KEY.unpack(key)[0] == agent:
                self._maps.delete("resolved", key)


def mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2)."""
    return b"\0" * 10 + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def egress_key(agent: int, network: Network, port: int | None) -> bytes:
    """`struct egress_key`."""
    bits = network.prefixlen + (_MAPPED_BITS if network.version == 4 else 0)
    return wire.EGRESS_KEY.pack(_BEFORE_ADDRESS + bits, agent, port or 0, 0, mapped(network.network_address))


class ProgramTree:
    """Paths and names of programs as the kernel looks them up: `entries` holds keys and nodes of the map."""

    def __init__(self, agent: int, states: dict[bytes, int] | None = None) -> None:
        """`states`: of directories, kept from one tree of the agent to the next; this one adds its own."""
        self._agent = agent
        self._states = {} if states is None else states
        self._nodes: dict[tuple[int, bytes], list[int]] = {}

    def add_name(self, name: str, verdict: int) -> None:
        """Every program with this file name."""
        self._node(wire.PROGRAM_BY_NAME, self._component(name))[1] |= verdict

    def add_path(self, path: str, verdict: int, below: bool = False) -> None:
        """The program with this path, or those `below` this directory."""
        state = wire.PROGRAM_ROOT
        node = [0, 0, 0]
        at = b""
        for part in map(self._component, filter(None, path.split("/"))):
            node = self._node(state, part)
            at += b"/" + part
            state = node[0] = self._states.setdefault(at, len(self._states) + 1)
        node[2 if below else 1] |= verdict

    def _node(self, state: int, name: bytes) -> list[int]:
        return self._nodes.setdefault((state, name), [0, 0, 0])

    def _component(self, name: str) -> bytes:
        raw = name.encode("utf-8", "surrogateescape")
        return raw.lower() if self._agent == wire.EVERYBODY else raw  # bytes.lower is ASCII's

    def entries(self) -> dict[bytes, bytes]:
        return {
            wire.PROGRAM_KEY.pack(self._agent, state, name): wire.PROGRAM_NODE.pack(*node)
            for (state, name), node in self._nodes.items()
        }


class HostTree:
    """Host names that an agent may reach, as the kernel looks them up."""

    def __init__(self, agent: int, states: dict[bytes, int] | None = None) -> None:
        """`states`: of names, kept from one tree of the agent to the next; this one adds its own."""
        self.left_out: list[str] = []
        """Names with more ports than the kernel side keeps."""
        self._agent = agent
        self._states = {} if states is None else states
        self._nodes: dict[tuple[int, bytes], _HostNode] = {}

    def add(self, host: str, port: int | None) -> None:
        """`host`: a name, or "*.x" for every name below x."""
        state, node = 0, _HostNode()
        below = host.startswith("*.")
        at = b""
        for label in reversed(host.removeprefix("*.").lower().encode("ascii").split(b".")):
            node = self._nodes.setdefault((state, label), _HostNode())
            at = label + b"." + at
            state = node.next = self._states.setdefault(at, len(self._states) + 1)
        (node.below if below else node.here).add(port or 0)

    def entries(self) -> dict[bytes, bytes]:
        found = {}
        for (state, label), node in self._nodes.items():
            key = wire.HOST_KEY.pack(self._agent, state, label)
            here, below = self._ports(label, node.here), self._ports(label, node.below)
            found[key] = wire.HOST_NODE.pack(node.next, bool(node.here), bool(node.below), here, below)
        return found

    def _ports(self, label: bytes, ports: set[int]) -> bytes:
        if 0 in ports:
            ports = {0}
        if len(ports) > wire.HOST_PORTS:
            self.left_out.append(label.decode())
        return b"".join(port.to_bytes(2, sys.byteorder) for port in sorted(ports)[: wire.HOST_PORTS]).ljust(12, b"\0")


class _HostNode:
    def __init__(self) -> None:
        self.next = 0
        self.here: set[int] = set()
        self.below: set[int] = set()
