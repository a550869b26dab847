"""The CO-RE backend: hostbrake.bpf.o loaded, attached and read. From open to close it is the kernel's side."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from sensor import wire
from sensor.kernel.libbpf import BpfObject, Libbpf, read_object
from sensor.kernel.ring import Ring, open_ring

OBJECT = Path(__file__).with_name("hostbrake.bpf.o")
RING_BYTES = 4 * 1024 * 1024
SCRATCH_PER_CPU = 4


class CoreBackend:
    """All programs attached, or BpfError and nothing attached."""

    def __init__(self, cgroup_root: Path, gpu_majors: Iterable[int], object_path: Path = OBJECT) -> None:
        library = Libbpf()
        self._object = BpfObject(library, read_object(object_path))
        try:
            self._cpu_values = (ctypes.c_uint64 * library.possible_cpus)()
            self._object.resize("scratches", SCRATCH_PER_CPU * library.possible_cpus)
            self._object.load()
            self.watch_majors(gpu_majors)
            self._counters_fd = self._object.map_fd("counters")
            self._ring_fd = self._object.map_fd("events")
            self._ring: Ring = open_ring(library, self._ring_fd, RING_BYTES)
            self._programs = self._object.programs()
            self._attach(cgroup_root)
        except BaseException:
            self._object.close()
            raise

    def _attach(self, cgroup_root: Path) -> None:
        cgroup_fd = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for program in self._programs.values():
                self._object.attach(program, cgroup_fd)
        finally:
            os.close(cgroup_fd)

    def watch_majors(self, majors: Iterable[int]) -> None:
        """Report opens of character devices with these major numbers, from now on."""
        for major in majors:
            self._object.update("gpu_majors", struct.pack("=I", major), b"\1")

    def fileno(self) -> int:
        """Readable (EPOLLIN) when an event waits that rules judge; housekeeping events do not wake."""
        return self._ring_fd

    def read(self, most: int = 1024) -> list[bytes]:
        """Records waiting in the ring, oldest first."""
        return self._ring.read(most)

    def counters(self) -> dict[str, dict[str, int]]:
        """What the kernel side counted since it was loaded, by event kind: see wire.COUNTERS."""
        return {
            name: {
                counter: self._object.per_cpu_sum(
                    self._counters_fd, kind * len(wire.COUNTERS) + index, self._cpu_values
                )
                for index, counter in enumerate(wire.COUNTERS)
            }
            for kind, name in wire.KINDS.items()
        }

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
