"""Cut workloads off from the network and from GPUs, and undo it exactly; what was cut off stays so over a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from sensor.kernel.libbpf import BpfError
from sensor.respond import cases as store
from sensor.respond.brakes import Brakes
from sensor.respond.cgroupfs import Cgroup, CgroupRoot
from sensor.respond.sockets import destroy

log = structlog.get_logger()

STATE_FILE = "isolated.json"
_STATE = msgspec.json.Decoder(dict[str, int])


class Isolation:
    """Who is cut off: cgroups by path and id, each with all below it."""

    def __init__(self, brakes: Brakes, root: CgroupRoot, path: Path) -> None:
        """Takes in what `path` holds, and cuts off again what is still there."""
        self.losses: Counter[str] = Counter()
        self._brakes = brakes
        self._root = root
        self._path = path
        self._again()

    def isolate(self, cgroups: Sequence[Cgroup]) -> tuple[int, list[str]]:
        """Cut these off and end their live sockets. Gives how many sockets, and what could not be done of that: their
        packets are dropped all the same. Raises OSError where the kernel refuses; then part of it may be done.
        """
        ended, faults = 0, []
        for cgroup in cgroups:
            try:
                cut_off = self._brakes.isolate(cgroup)
            except BpfError as error:
                raise OSError(error.code, str(error)) from None
            done, failed = destroy(cut_off, cgroup.processes())
            ended += done
            faults += failed
        self._save()
        if faults:
            self.losses["sockets_left"] += 1
            log.warning("live sockets could not be ended; their packets are dropped", faults=faults)
        return ended, faults

    def is_isolated(self, cgroup: Cgroup) -> bool:
        """As the kernel has it, from here down. Raises OSError where it does not tell."""
        try:
            return self._brakes.is_isolated(cgroup)
        except BpfError as error:
            raise OSError(error.code, str(error)) from None

    def release(self, path: str) -> bool:
        """Undo it; False where this cgroup was not cut off. Raises OSError where the kernel refuses."""
        try:
            done = self._brakes.release(path)
        except BpfError as error:
            raise OSError(error.code, str(error)) from None
        if done:
            self._save()
        return done

    def paths(self) -> list[str]:
        return list(self._brakes.isolated())

    def _again(self) -> None:
        try:
            known = _STATE.decode(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            self.losses["unreadable"] += 1
            log.error("who was cut off cannot be read", path=str(self._path), reason=str(error))
            return
        for path, cgroup_id in known.items():
            cgroup = self._root.open(path, cgroup_id)
            if cgroup is None:
                continue  # it has gone meanwhile
            try:
                self.isolate([cgroup])
                log.warning("cut off again after the restart", cgroup=path)
            except OSError as error:
                self.losses["not_cut_off_again"] += 1
                log.error("cannot be cut off again", cgroup=path, reason=str(error))
            finally:
                cgroup.close()

    def _save(self) -> None:
        try:
            store.write(self._path, msgspec.json.encode(self._brakes.isolated()))
        except OSError as error:
            self.losses["not_written"] += 1
            log.error("who is cut off cannot be written", path=str(self._path), reason=str(error))


class IsolateCgroups:
    """An act (`sensor.respond.act.Act`)."""

    def __init__(self, cgroups: Sequence[Cgroup], isolation: Isolation) -> None:
        self.processes = 0
        self._cgroups = cgroups
        self._isolation = isolation

    def begin(self) -> None:
        self.processes = len({pid for cgroup in self._cgroups for pid in cgroup.processes()})
        self._isolation.isolate(self._cgroups)

    def is_settled(self) -> bool:
        return all(self._isolation.is_isolated(cgroup) for cgroup in self._cgroups)

    def finish(self) -> None:
        return

    def wakers(self) -> list[tuple[int, int]]:
        return []

    def survivors(self) -> list[str]:
        return [f"{cgroup.path} is not cut off" for cgroup in self._cgroups if not self._isolation.is_isolated(cgroup)]

    def close(self) -> None:
        for cgroup in self._cgroups:
            cgroup.close()
