"""`DestinationScope`: whether an address is this host, its neighbours, the world or a metadata service.

Speaks rtnetlink(7) itself: what is asked is one table, and importing pyroute2 for it takes 0.18 s and 24 MB.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from sensor.context.netlink import HEADER, messages
from sensor.node import NodeError

METADATA = {
    "169.254.169.254": "AWS, Azure, Google, Oracle, OpenStack, DigitalOcean, Hetzner and others",
    "fd00:ec2::254": "AWS (EC2 User Guide, instance metadata)",
    "169.254.170.2": "AWS, task credentials (ECS Developer Guide)",
    "169.254.170.23": "AWS, pod credentials (EKS User Guide, Pod Identity Agent)",
    "fd00:ec2::23": "AWS, pod credentials over IPv6 (same)",
    "168.63.129.16": "Azure WireServer: goal state and certificates",
    "fd20:ce::254": "Google, VMs without IPv4 (Compute Engine, metadata server)",
    "fd00:c1::a9fe:a9fe": "Oracle over IPv6 (oci-python-sdk, instance principals)",
    "192.0.0.192": "Oracle Cloud Classic",
    "fe80::a9fe:a9fe": "OpenStack (neutron) and Akamai over IPv6",
    "fd00:a9fe:a9fe::1": "Akamai (cloud-init, datasource Akamai)",
    "100.100.100.200": "Alibaba",
    "fd00:100::100:200": "Alibaba over IPv6",
    "169.254.0.23": "Tencent",
    "169.254.42.42": "Scaleway (cloud-init, datasource Scaleway)",
    "fd00:42::42": "Scaleway over IPv6 (same)",
}
"""Instance metadata services by address, and whose they are. Some of them answer DNS on port 53, too."""

_LOOPBACK = ("127.0.0.0/8", "::1/128", "0.0.0.0/32", "::/128")  # to "any address" means to this host: ip(7)
_PRIVATE = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",  # RFC 1918
    "fc00::/7",  # RFC 4193
    "100.64.0.0/10",  # RFC 6598
)

# include/uapi/linux/rtnetlink.h, netlink.h
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_ROUTE = 0x40, 0x400
_RT_TABLE_LOCAL, _RTN_LOCAL, _RTA_DST = 255, 2, 1
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_RTMSG = struct.Struct("=8BI")
_ATTRIBUTE = struct.Struct("=HH")
_NO_TABLE = {errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT}  # no address yet; no such protocol here

_MAPPED = bytes(10) + b"\xff\xff"
_CACHE_LIMIT = 16_384


class _Networks:
    """A set of networks, by family (address length in bytes) and host bits."""

    def __init__(self, networks: Iterator[tuple[bytes, int]]) -> None:
        self._networks: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for address, prefix in networks:
            shift = len(address) * 8 - prefix
            values = self._networks[len(address)].setdefault(shift, set())
            values.add(int.from_bytes(address, "big") >> shift)

    def __contains__(self, packed: bytes) -> bool:
        value = int.from_bytes(packed, "big")
        return any(value >> shift in values for shift, values in self._networks[len(packed)].items())


def _pack(address: str) -> bytes | None:
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        packed = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


def _parse(cidrs: tuple[str, ...]) -> Iterator[tuple[bytes, int]]:
    for cidr in cidrs:
        address, _, prefix = cidr.partition("/")
        packed = _pack(address)
        if packed is not None:
            yield packed, int(prefix)


class Routes:
    """Scopes of addresses as this network namespace routes them, following changes.

    Raises NodeError where routes can't be read at all. `fileno` becomes readable when routes may have
    changed; `read_changes` then takes them in.
    """

    def __init__(self) -> None:
        self.reloads = 0
        self.failures = 0
        """Reloads that failed; what was known before stays in force."""
        self._metadata = {_pack(address) for address in METADATA}
        self._loopback = _Networks(_parse(_LOOPBACK))
        self._private = _Networks(_parse(_PRIVATE))
        self._scopes: dict[str, str] = {}
        try:
            self._changes = _netlink_socket(_RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE)
            self._changes.setblocking(False)
            self._local = _Networks(_local_routes())
        except OSError as error:
            raise NodeError(
                f"the routing table cannot be read ({error}); let the sensor use AF_NETLINK sockets"
            ) from error

    def fileno(self) -> int:
        return self._changes.fileno()

    def close(self) -> None:
        self._changes.close()

    def read_changes(self) -> None:
        """Take in what changed; call this when `fileno` is readable. Never waits for longer than a second."""
        changed = False
        for _ in range(256):
            try:
                data, sender = self._changes.recvfrom(65_536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: the kernel dropped some
                changed = True
                continue
            if sender[0] == 0 and not changed:
                changed = any(_is_local_route(kind, body) for kind, body in messages(data))
        if changed:
            self._reload()

    def scope(self, address: str) -> str:
        """loopback, metadata, local, private or external.

        Metadata wins over local: a node may serve it to its pods on a local address. Local is what the
        kernel's local table has. Whatever is in no other class is external: also link-local, multicast and
        broadcast addresses, and what is no address at all.
        """
        scope = self._scopes.get(address)
        if scope is None:
            if len(self._scopes) >= _CACHE_LIMIT:
                self._scopes.clear()
            scope = self._scopes[address] = self._look_up(_pack(address))
        return scope

    def _look_up(self, packed: bytes | None) -> str:
        if packed is None:
            return "external"
        if packed in self._metadata:
            return "metadata"
        if packed in self._loopback:
            return "loopback"
        if packed in self._local:
            return "local"
        return "private" if packed in self._private else "external"

    def _reload(self) -> None:
        try:
            self._local = _Networks(_local_routes())
        except OSError:
            self.failures += 1
            return
        self.reloads += 1
        self._scopes.clear()


class _Route(NamedTuple):
    table: int
    kind: int
    destination: bytes
    prefix: int


def _netlink_socket(groups: int) -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        netlink.bind((0, groups))
    except OSError:
        netlink.close()
        raise
    return netlink


def _local_routes() -> Iterator[tuple[bytes, int]]:
    """(address, prefix length) of every local route; raises OSError where the kernel won't tell."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            for kind, body in _dump(family):
                route = _route(body) if kind == _RTM_NEWROUTE else None
                if route and route.table == _RT_TABLE_LOCAL and route.kind == _RTN_LOCAL:
                    yield route.destination, route.prefix
        except OSError as error:
            if error.errno not in _NO_TABLE:
                raise


def _dump(family: int) -> Iterator[tuple[int, bytes]]:
    with _netlink_socket(0) as netlink:
        netlink.settimeout(1)
        # Without strict checking the kernel ignores table and type, and sends every route that there is.
        netlink.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        wanted = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_LOCAL, 0, 0, _RTN_LOCAL, 0)
        length = HEADER.size + len(wanted)
        netlink.send(HEADER.pack(length, _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + wanted)
        while True:
            data, sender = netlink.recvfrom(65_536)
            for kind, body in messages(data) if sender[0] == 0 else ():
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = -int.from_bytes(body[:4], "little", signed=True) if len(body) >= 4 else 0
                    if code:
                        raise OSError(code, "rtnetlink")
                    return
                yield kind, body


def _is_local_route(kind: int, body: bytes) -> bool:
    route = _route(body) if kind in (_RTM_NEWROUTE, _RTM_DELROUTE) else None
    return route is not None and route.table == _RT_TABLE_LOCAL


def _route(body: bytes) -> _Route | None:
    if len(body) < _RTMSG.size:
        return None
    family, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(body)
    destination = bytes(4 if family == socket.AF_INET else 16)
    offset = _RTMSG.size
    while offset + _ATTRIBUTE.size <= len(body):
        length, attribute = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        value = body[offset + _ATTRIBUTE.size : offset + length]
        if attribute == _RTA_DST and len(value) == len(destination):
            destination = value
        offset += (length + 3) & ~3
    return _Route(table, kind, destination, prefix) if prefix <= len(destination) * 8 else None
