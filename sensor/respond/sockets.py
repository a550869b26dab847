"""Live sockets of a workload, ended by the kernel: sock_diag(7), SOCK_DESTROY.

An ended TCP connection sends a reset and its owner gets ECONNABORTED; what waits to be sent is dropped. Listeners and
UDP sockets stay: they would lose their ports. Their packets are dropped while the workload is cut off, and afterwards
all is as it was.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from sensor.context.netlink import HEADER, messages

# include/uapi/linux/sock_diag.h, inet_diag.h, netlink.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_CGROUP_ID = 21
_TCP_LISTEN, _TCP_TIME_WAIT = 10, 6
_STATES = 0xFFFFFFFF & ~(1 << _TCP_LISTEN | 1 << _TCP_TIME_WAIT)
_REQUEST = struct.Struct("=BBBBI48s")
_ID = slice(4, 52)  # of an inet_diag_msg
_MESSAGE_BYTES = 72
_ATTRIBUTE = struct.Struct("=HH")
_PATIENCE_S = 1.0
_CLONE_NEWNET = 0x40000000


def destroy(cgroup_ids: Collection[int], processes: Collection[int]) -> tuple[int, list[str]]:
    """End every TCP connection whose socket was made in these cgroups (version 2 ids), in the network namespaces of the
    caller and of these processes. Gives how many, and what could not be done.
    """
    ended, faults = 0, []
    for namespace in _namespaces(processes):
        result = _within(namespace, lambda: _destroy_here(cgroup_ids))
        if isinstance(result, OSError):
            faults.append(f"sockets in network namespace {namespace or 'of the sensor'}: {result.strerror}")
        else:
            ended += result
    return ended, faults


def _namespaces(processes: Collection[int]) -> list[str | None]:
    """One path to each network namespace, None for that of the caller."""
    own = Path("/proc/self/ns/net").stat().st_ino
    found: dict[int, str] = {}
    for pid in processes:
        path = f"/proc/{pid}/ns/net"
        try:
            found.setdefault(Path(path).stat().st_ino, path)
        except OSError:  # it has gone
            continue
    return [None, *(path for inode, path in found.items() if inode != own)]


def _within(namespace: str | None, act: Callable[[], int]) -> int | OSError:
    """What `act` gives there. A thread enters the namespace (setns(2) is a thread's own) and ends with it."""
    results: list[int | OSError] = []

    def work() -> None:
        try:
            if namespace is not None:
                _enter(namespace)
            results.append(act())
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=work, name="sockets", daemon=True)
    thread.start()
    thread.join()
    return results[0]


def _enter(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


def _destroy_here(cgroup_ids: Collection[int]) -> int:
    ended = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_PATIENCE_S)
        for family in (socket.AF_INET, socket.AF_INET6):
            for identity in list(_sockets(netlink, family, cgroup_ids)):
                ended += _end(netlink, family, identity)
    return ended


def _sockets(netlink: socket.socket, family: int, cgroup_ids: Collection[int]) -> Iterator[bytes]:
    """The ids (struct inet_diag_sockid) of those that were made in these cgroups."""
    _send(
        netlink, _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _STATES, bytes(48))
    )
    while True:
        for kind, body in messages(netlink.recv(65_536)):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -int.from_bytes(body[:4], "little", signed=True)
                if code == errno.ENOENT:  # this kernel was built without it
                    return
                raise OSError(code, os.strerror(code))
            if _cgroup_of(body) in cgroup_ids:
                yield body[_ID]


def _cgroup_of(body: bytes) -> int | None:
    offset = _MESSAGE_BYTES
    while offset + _ATTRIBUTE.size <= len(body):
        length, attribute = _ATTRIBUTE.unpack_from(body, offset)
        if attribute == _INET_DIAG_CGROUP_ID and length >= _ATTRIBUTE.size + 8:
            return int.from_bytes(body[offset + 4 : offset + 12], "little")
        offset += max(4, (length + 3) & ~3)
    return None


def _end(netlink: socket.socket, family: int, identity: bytes) -> int:
    """1, or 0 where it has ended by itself."""
    _send(netlink, _SOCK_DESTROY, _NLM_F_ACK, _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _STATES, identity))
    for kind, body in messages(netlink.recv(65_536)):
        code = -int.from_bytes(body[:4], "little", signed=True) if kind == _NLMSG_ERROR else 0
        if code == errno.ENOENT:
            return 0
        if code:
            raise OSError(code, os.strerror(code))
    return 1


def _send(netlink: socket.socket, kind: int, flags: int, body: bytes) -> None:
    netlink.send(HEADER.pack(HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body)
