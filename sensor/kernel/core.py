"""The CO-RE backend: hostbrake.bpf.o loaded, attached and read. From open to close it is the kernel's side."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

from sensor import wire
from sensor.kernel.libbpf import BpfError, BpfObject, Libbpf, read_object
from sensor.kernel.policies import Policies
from sensor.kernel.ring import Ring, open_ring

OBJECT = Path(__file__).with_name("hostbrake.bpf.o")
_RING_BYTES_PER_CPU = 256 * 1024
_RING_BYTES_LEAST, _RING_BYTES_MOST = 4 * 1024 * 1024, 32 * 1024 * 1024
VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")
SCRATCH_PER_CPU = 4
SILENCE_S = 30.0
"""As Linux's own connection tracking has it for UDP (net/netfilter/nf_conntrack_proto_udp.c), and 120 s for streams."""
_ROUNDING = "on_rounding"
_ROUNDING_TRACEPOINT = "x86_fpu_regs_deactivated"
_LOOK = "on_descriptor"
LOOK_CGROUPS = 256
"""As many cgroups one look takes in; the map holds more."""
_LOOK_BYTES = 2 << 20
_SLOTS = (len(wire.KINDS) + 1) * len(wire.COUNTERS)


def ring_bytes(cpus: int) -> int:
    """The ring's size, a power of two: more CPUs fill it faster. On a small node it holds 10,000 execs."""
    wanted = cpus * _RING_BYTES_PER_CPU
    return min(max(1 << (wanted - 1).bit_length(), _RING_BYTES_LEAST), _RING_BYTES_MOST)


def rounding_missing(btf: Path = VMLINUX_BTF) -> str | None:
    """Why the kernel cannot tell of rounding modes; None where it can."""
    try:
        # Each tracepoint has a type of this name (include/trace/bpf_probe.h), and the kernel's BTF holds it as text.
        known = f"\0btf_trace_{_ROUNDING_TRACEPOINT}\0".encode() in btf.read_bytes()
    except OSError as error:
        return f"{btf} cannot be read: {error.strerror}"
    return None if known else f"this kernel has no tracepoint {_ROUNDING_TRACEPOINT}"


class Programs:
    """The object's programs and maps in the kernel, attached nowhere. Raises BpfError where it refuses them."""

    def __init__(self, object_path: Path = OBJECT, btf: Path = VMLINUX_BTF) -> None:
        self.library = Libbpf()
        self.names: list[str] = []
        """Of the programs that were loaded."""
        self.missing: dict[str, str] = {}
        """What this kernel offers no way to see -> why."""
        self.ring_bytes = ring_bytes(self.library.possible_cpus)
        image = read_object(object_path)
        why = rounding_missing(btf)
        if why is None:
            try:
                self.object = self._load(image, with_rounding=True)
                return
            except BpfError as error:
                why = str(error)
        self.object = self._load(image, with_rounding=False)
        self.missing["randomx detection"] = why

    def _load(self, image: bytes, with_rounding: bool) -> BpfObject:
        loading = BpfObject(self.library, image)
        try:
            loading.resize("scratches", SCRATCH_PER_CPU * self.library.possible_cpus)
            loading.resize("events", self.ring_bytes)
            if with_rounding:
                loading.want(_ROUNDING)
            loading.load()
        except BpfError:
            loading.close()
            raise
        self.names = [name for name in loading.programs() if with_rounding or name != _ROUNDING]
        return loading


class Loading(threading.Thread):
    """Loads the programs beside whatever else there is to do at the start: the kernel takes 0.1 s to verify them."""

    def __init__(self) -> None:
        super().__init__(name="load", daemon=True)
        self._result: Programs | BpfError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = Programs()
        except BpfError as error:
            self._result = error

    def programs(self) -> Programs:
        """Waits for them; raises BpfError where they could not be loaded."""
        self.join()
        assert self._result is not None
        if isinstance(self._result, BpfError):
            raise self._result
        return self._result


class CoreBackend:
    """All programs attached, or BpfError or OSError and nothing attached. Owns `programs` from the first."""

    def __init__(self, cgroup_root: Path, gpu_majors: Iterable[int], programs: Programs | None = None) -> None:
        loaded = programs or Programs()
        self.missing = loaded.missing
        self._object = loaded.object
        self._chooses = True
        """The kernel can walk one process alone."""
        try:
            self._cpu_values = (ctypes.c_uint64 * (_SLOTS * loaded.library.possible_cpus))()
            self.watch_majors(gpu_majors)
            self._counters_fd = self._object.map_fd("counters")
            self._ring_fd = self._object.map_fd("events")
            self._ring: Ring = open_ring(loaded.library, self._ring_fd, loaded.ring_bytes)
            handles = self._object.programs()
            self._programs = {name: handles[name] for name in loaded.names}
            self._attach(cgroup_root)
        except (BpfError, OSError):
            self._object.close()
            raise

    def _attach(self, cgroup_root: Path) -> None:
        cgroup_fd = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, program in self._programs.items():
                if name != _LOOK and self._object.is_attachable(program):  # else it runs only when it is told to
                    self._object.attach(program, cgroup_fd)
        finally:
            os.close(cgroup_fd)

    def policies(self, scope: int, scope_level: int) -> Policies:
        """What agents may do, in the kernel; see `Policies`."""
        return Policies(self._object, scope, scope_level)

    def watch_majors(self, majors: Iterable[int]) -> None:
        """Report opens of character devices with these major numbers, from now on."""
        for major in majors:
            self._object.update("gpu_majors", struct.pack("=I", major), b"\1")

    def held_ends(self, cgroup_ids: Collection[int], pids: Collection[int] | None) -> bytes:
        """Which ends of pipes, ptys and sockets the processes hold that are in these cgroups or below them, and among
        `pids` unless that is None.

        At most LOOK_CGROUPS of them, and so many descriptors as fit into 2 MiB. Without `pids` or before Linux 6.1, the
        walk passes by every descriptor of the node, 0.25 us each. Raises BpfError or OSError.
        """
        keys = [struct.pack("=Q", cgroup_id) for cgroup_id in islice(cgroup_ids, LOOK_CGROUPS)]
        for key in keys:
            self._object.update("looked_at", key, b"\1")
        try:
            return self._walk(pids if self._chooses else None)
        finally:
            for key in keys:
                self._object.delete("looked_at", key)

    def _walk(self, pids: Collection[int] | None) -> bytes:
        program, found = self._programs[_LOOK], b""
        if pids is None:
            return self._object.iterate(program, 0, _LOOK_BYTES)
        for pid in pids:
            try:
                found += self._object.iterate(program, pid, _LOOK_BYTES - len(found))
            except BpfError as error:
                if error.code == errno.ESRCH:  # it has ended
                    continue
                if error.code not in (errno.E2BIG, errno.EINVAL):
                    raise
                self._chooses = False
                return self._walk(None)
        return found

    def fileno(self) -> int:
        """Readable (EPOLLIN) when an event waits that rules judge; housekeeping events do not wake."""
        return self._ring_fd

    def read(self, most: int = 1024) -> list[bytes]:
        """Records waiting in the ring, oldest first."""
        return self._ring.read(most)

    def counters(self) -> dict[str, dict[str, int]]:
        """What the kernel side counted since it was loaded, by event kind: see wire.COUNTERS."""
        sums = self._object.per_cpu_sums(self._counters_fd, self._cpu_values, _SLOTS)
        width = len(wire.COUNTERS)
        return {
            name: dict(zip(wire.COUNTERS, sums[kind * width : (kind + 1) * width], strict=True))
            for kind, name in wire.KINDS.items()
        }

    def sweep(self, *, silence_s: float = SILENCE_S, final: bool = False) -> None:
        """Have the kernel side tell what no further packet or close would bring up: what the last flows of a storm
        carried, a second later, and datagram flows without a packet for `silence_s` (four times that, where both
        sides spoke more than once; connected sockets tell at their close). To be called every few seconds; with
        `final` all that is due is told. Raises BpfError.
        """
        self._object.run(self._programs["on_sweep"], wire.SWEEP.pack(int(silence_s * 1e9), final, 0))

    def missed_runs(self) -> dict[str, int]:
        """How often the kernel skipped a program because it was already running on that CPU (bpf_prog_info's
        recursion_misses, as /proc/self/fdinfo shows it), for programs where that happened."""
        missed = {}
        for name, program in self._programs.items():
            text = Path(f"/proc/self/fdinfo/{self._object.program_fd(program)}").read_text()
            values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            count = int(values.get("recursion_misses", "0"))
            if count:
                missed[name] = count
        return missed

    def close(self) -> None:
        """Detach everything and free the ring."""
        self._ring.close()
        self._object.close()
