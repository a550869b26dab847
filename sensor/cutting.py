"""What operators ask of isolation through the control socket."""

from __future__ import annotations

import time
from typing import Any

from sensor.control import ControlError, Handler, Peer
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.guards import Guards
from sensor.respond.isolation import Isolation


def isolation_commands(isolation: Isolation, root: CgroupRoot, guards: Guards) -> dict[str, Handler]:
    """`isolate` and `release`, of one cgroup each by its path, and `isolated`.

    To isolate one whose name is no text takes its id as well.
    """

    def isolate(arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        began = time.monotonic()
        path = _path(arguments)
        cgroup = root.open(path, _id(arguments))
        if cgroup is None:
            raise ControlError(f"there is no cgroup {path!r}")
        try:
            if refusal := guards.refusal(cgroup.path):
                raise ControlError(refusal)
            processes = len(cgroup.processes())
            sockets, faults = isolation.isolate([cgroup])
            verified = isolation.is_isolated(cgroup)
        except OSError as error:
            raise ControlError(f"the kernel refused: {error.strerror}") from None
        finally:
            cgroup.close()
        spent_ms = round((time.monotonic() - began) * 1000, 1)
        return {"processes": processes, "sockets": sockets, "faults": faults, "verified": verified, "ms": spent_ms}

    def release(arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        try:
            return {"released": isolation.release(_path(arguments))}
        except OSError as error:
            raise ControlError(f"the kernel refused: {error.strerror}") from None

    def isolated(_arguments: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        return {"cgroups": isolation.paths()}

    return {"isolate": isolate, "release": release, "isolated": isolated}


def _path(arguments: dict[str, Any]) -> str:
    given = arguments.get("cgroup")
    if not isinstance(given, str) or not given.startswith("/"):
        raise ControlError("cgroup must be a path from the root of cgroup v2")
    return given


def _id(arguments: dict[str, Any]) -> int | None:
    given = arguments.get("id")
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or not 0 < given < 1 << 64):
        raise ControlError("id must be a cgroup's id")
    return given
