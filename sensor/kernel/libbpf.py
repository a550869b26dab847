"""The few libbpf calls that the sensor needs, through ctypes (libbpf 1.0 and later, bpf/libbpf.h and bpf/bpf.h)."""

from __future__ import annotations

import ctypes
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class BpfError(Exception):
    """libbpf or the kernel refused; the message is one sentence, `log` what libbpf said of it."""

    def __init__(self, what: str, code: int, log: list[str]) -> None:
        reason = os.strerror(code) if code else "unknown error"
        super().__init__(f"{what}: {reason}")
        self.code = code
        self.log = log


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
RING_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

_POINTER = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (_POINTER, [_POINTER]),
    "libbpf_num_possible_cpus": (ctypes.c_int, []),
    "bpf_object__open_mem": (_POINTER, [ctypes.c_char_p, ctypes.c_size_t, _POINTER]),
    "bpf_object__load": (ctypes.c_int, [_POINTER]),
    "bpf_object__close": (None, [_POINTER]),
    "bpf_object__find_map_by_name": (_POINTER, [_POINTER, ctypes.c_char_p]),
    "bpf_object__next_program": (_POINTER, [_POINTER, _POINTER]),
    "bpf_map__fd": (ctypes.c_int, [_POINTER]),
    "bpf_prog_test_run_opts": (ctypes.c_int, [ctypes.c_int, _POINTER]),
    "bpf_map__set_max_entries": (ctypes.c_int, [_POINTER, ctypes.c_uint32]),
    "bpf_map_update_elem": (ctypes.c_int, [ctypes.c_int, _POINTER, _POINTER, ctypes.c_uint64]),
    "bpf_map_delete_elem": (ctypes.c_int, [ctypes.c_int, _POINTER]),
    "bpf_map_get_next_key": (ctypes.c_int, [ctypes.c_int, _POINTER, _POINTER]),
    "bpf_map_lookup_elem": (ctypes.c_int, [ctypes.c_int, _POINTER, _POINTER]),
    "bpf_program__name": (ctypes.c_char_p, [_POINTER]),
    "bpf_program__section_name": (ctypes.c_char_p, [_POINTER]),
    "bpf_program__set_autoload": (ctypes.c_int, [_POINTER, ctypes.c_bool]),
    "bpf_program__fd": (ctypes.c_int, [_POINTER]),
    "bpf_program__attach": (_POINTER, [_POINTER]),
    "bpf_program__attach_iter": (_POINTER, [_POINTER, _POINTER]),
    "bpf_program__attach_cgroup": (_POINTER, [_POINTER, ctypes.c_int]),
    "bpf_link__fd": (ctypes.c_int, [_POINTER]),
    "bpf_iter_create": (ctypes.c_int, [ctypes.c_int]),
    "bpf_link__destroy": (ctypes.c_int, [_POINTER]),
    "ring_buffer__new": (_POINTER, [ctypes.c_int, RING_CALLBACK, _POINTER, _POINTER]),
    "ring_buffer__consume": (ctypes.c_int, [_POINTER]),
    "ring_buffer__free": (None, [_POINTER]),
}

_ITERATED = 1 << 16
"""Bytes asked for in one read of an iterator; the kernel gives whole records."""


class _IterTask(ctypes.Structure):
    """union bpf_iter_link_info (include/uapi/linux/bpf.h), as far as tasks go."""

    _fields_ = (("tid", ctypes.c_uint32), ("pid", ctypes.c_uint32), ("pid_fd", ctypes.c_uint32), ("_", ctypes.c_uint32))


class _IterOptions(ctypes.Structure):
    """struct bpf_iter_attach_opts (bpf/libbpf.h)."""

    _fields_ = (("sz", ctypes.c_size_t), ("link_info", ctypes.c_void_p), ("link_info_len", ctypes.c_uint32))


class _RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts in bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", _POINTER),
        ("data_out", _POINTER),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", _POINTER),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Libbpf:
    """The loaded library; every failing call raises BpfError with what libbpf printed."""

    SONAME = "libbpf.so.1"

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(self.SONAME, use_errno=True)
        except OSError as error:
            raise BpfError(f"{self.SONAME} cannot be loaded; install libbpf1", 0, [str(error)]) from None
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._library.libbpf_set_print(None)  # its text goes to stderr otherwise; failures carry errno

    def call(self, name: str, *arguments: object, what: str) -> Any:
        """Call `name`; a NULL or negative result raises BpfError(what)."""
        ctypes.set_errno(0)
        result = getattr(self._library, name)(*arguments)
        if result is None or result < 0:
            raise BpfError(what, ctypes.get_errno() or (-result if result else 0), [])
        return result

    def void(self, name: str, *arguments: object) -> None:
        getattr(self._library, name)(*arguments)

    def next_program(self, obj: int, program: int | None) -> int | None:
        result: int | None = self._library.bpf_object__next_program(obj, program)
        return result

    def text(self, name: str, pointer: int) -> str:
        raw: bytes = getattr(self._library, name)(pointer)
        return raw.decode()

    @property
    def possible_cpus(self) -> int:
        return int(self.call("libbpf_num_possible_cpus", what="counting CPUs"))


class BpfObject:
    """One object file's programs and maps, from open to close."""

    def __init__(self, library: Libbpf, image: bytes) -> None:
        self._library = library
        self._image = image  # libbpf reads it until load
        self._links: list[int] = []
        self._object: int | None = library.call(
            "bpf_object__open_mem", image, len(image), None, what="the BPF object cannot be read"
        )

    def resize(self, name: str, entries: int) -> None:
        """Set a map's max_entries; only before `load`."""
        self._library.call("bpf_map__set_max_entries", self._map(name), entries, what=f"map {name}")

    def load(self) -> None:
        self._library.call("bpf_object__load", self._object, what="the kernel refused the BPF programs")

    def programs(self) -> dict[str, int]:
        """libbpf's handle of each program by name."""
        found: dict[str, int] = {}
        program = self._library.next_program(self._object or 0, None)
        while program:
            found[self._library.text("bpf_program__name", program)] = program
            program = self._library.next_program(self._object or 0, program)
        return found

    def want(self, name: str) -> None:
        """Load this program too, whose section begins with "?"; only before `load`."""
        self._library.call("bpf_program__set_autoload", self.programs()[name], True, what=f"BPF program {name}")

    def attach(self, program: int, cgroup_fd: int) -> None:
        """Attach where the program's section says; a cgroup program to the cgroup behind `cgroup_fd`."""
        name = self._library.text("bpf_program__name", program)
        what = f"BPF program {name} cannot be attached"
        if self._library.text("bpf_program__section_name", program).startswith("cgroup"):
            link = self._library.call("bpf_program__attach_cgroup", program, cgroup_fd, what=what)
        else:
            link = self._library.call("bpf_program__attach", program, what=what)
        self._links.append(link)

    def iterate(self, program: int, pid: int, limit: int) -> bytes:
        """Run an iterator's program over one process, or all where `pid` is 0; gives what it wrote, cut at about
        `limit` bytes. BpfError with E2BIG or EINVAL where the kernel cannot choose a process (before 6.1).
        """
        what = "BPF iterator"
        info = _IterTask(pid=pid)
        options = _IterOptions(ctypes.sizeof(_IterOptions), ctypes.addressof(info), ctypes.sizeof(info))
        chosen = ctypes.byref(options) if pid else None
        link = self._library.call("bpf_program__attach_iter", program, chosen, what=what)
        try:
            link_fd = self._library.call("bpf_link__fd", link, what=what)
            descriptor = self._library.call("bpf_iter_create", link_fd, what=what)
        finally:
            self._library.void("bpf_link__destroy", link)
        with open(descriptor, "rb", buffering=0) as iterator:
            return _all_of(iterator, limit)

    def is_attachable(self, program: int) -> bool:
        """A program of type syscall is only run on request: `run`."""
        return self._library.text("bpf_program__section_name", program) != "syscall"

    def run(self, program: int, context: bytes) -> None:
        """Run a program of type syscall once, with this context."""
        options = _RunOptions(sz=ctypes.sizeof(_RunOptions), ctx_in=context, ctx_size_in=len(context))
        name = self._library.text("bpf_program__name", program)
        what = f"BPF program {name} cannot be run"
        self._library.call("bpf_prog_test_run_opts", self.program_fd(program), ctypes.byref(options), what=what)

    def program_fd(self, program: int) -> int:
        return int(self._library.call("bpf_program__fd", program, what="program descriptor"))

    def map_fd(self, name: str) -> int:
        return int(self._library.call("bpf_map__fd", self._map(name), what=f"map {name}"))

    def update(self, name: str, key: bytes, value: bytes) -> None:
        self._library.call("bpf_map_update_elem", self.map_fd(name), key, value, 0, what=f"map {name}")

    def delete(self, name: str, key: bytes) -> bool:
        """False where there was no such entry."""
        return self._found("bpf_map_delete_elem", self.map_fd(name), key, what=f"map {name}")

    def value(self, name: str, key: bytes, size: int) -> bytes | None:
        """`size` bytes; None where there is no such entry."""
        room = ctypes.create_string_buffer(size)
        found = self._found("bpf_map_lookup_elem", self.map_fd(name), key, room, what=f"map {name}")
        return room.raw if found else None

    def keys(self, name: str, size: int) -> Iterator[bytes]:
        """Every key, `size` bytes each. Of a map that changes meanwhile some may be missing, or come twice."""
        room = ctypes.create_string_buffer(size)
        descriptor, last = self.map_fd(name), None
        while self._found("bpf_map_get_next_key", descriptor, last, room, what=f"map {name}"):
            last = room.raw
            yield last

    def _found(self, name: str, *arguments: object, what: str) -> bool:
        try:
            self._library.call(name, *arguments, what=what)
        except BpfError as error:
            if error.code == errno.ENOENT:
                return False
            raise
        return True

    def per_cpu_sums(self, map_fd: int, values: ctypes.Array[ctypes.c_uint64], count: int) -> list[int]:
        """The only entry of a per-CPU array, `count` u64 wide, summed over all CPUs. `values` is room for it."""
        key = ctypes.c_uint32(0)
        self._library.call("bpf_map_lookup_elem", map_fd, ctypes.byref(key), ctypes.byref(values), what="counters")
        return [sum(values[slot::count]) for slot in range(count)]

    def close(self) -> None:
        for link in self._links:
            self._library.void("bpf_link__destroy", link)
        self._links.clear()
        if self._object is not None:
            self._library.void("bpf_object__close", self._object)
            self._object = None

    def _map(self, name: str) -> int:
        handle: int = self._library.call(
            "bpf_object__find_map_by_name", self._object, name.encode(), what=f"map {name}"
        )
        return handle


def read_object(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BpfError(f"{path} is missing; run: make build", 2, []) from None


def _all_of(iterator: io.FileIO, limit: int) -> bytes:
    written = b""
    for _ in range(limit):
        part = iterator.read(_ITERATED)
        if part is None:  # a million were passed by and none wrote (kernel/bpf/bpf_iter.c, bpf_seq_read)
            continue
        written += part
        if not part or len(written) >= limit:
            break
    return written
