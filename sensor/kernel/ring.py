"""Reading a BPF ring buffer (kernel/bpf/ringbuf.c; the layout is documented in Documentation/bpf/ringbuf.rst)."""

from __future__ import annotations

import ctypes
import mmap
import platform
from typing import Protocol

from sensor.kernel.libbpf import RING_CALLBACK, Libbpf

_BUSY = 1 << 31
_DISCARD = 1 << 30
_HEADER_BYTES = 8


class Ring(Protocol):
    """Where records come from: poll the map's descriptor, then read."""

    def read(self, most: int) -> list[bytes]:
        """About `most` records at the most, oldest first; empty when none is ready. They are consumed."""

    def close(self) -> None: ...


def open_ring(library: Libbpf, map_fd: int, size: int) -> Ring:
    """The fastest correct reader: the memory itself where loads are not reordered, libbpf's elsewhere."""
    if platform.machine() == "x86_64":
        return MappedRing(map_fd, size)
    return LibbpfRing(library, map_fd)


class MappedRing:
    """The ring through its shared memory. Needs a machine that keeps loads in order (x86-64): Python cannot
    express the acquire load that the producer position asks for."""

    def __init__(self, map_fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._mask = size - 1
        self._data_offset = page
        self._consumer_map = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # native-size views: each access is one load or store, never byte by byte
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._producer = memoryview(self._producer_map)[:_HEADER_BYTES].cast("Q")
        self._words = memoryview(self._producer_map).cast("I")

    def read(self, most: int) -> list[bytes]:
        records: list[bytes] = []
        position = self._consumer[0]
        producer = self._producer[0]
        data, mask, offset, words = self._producer_map, self._mask, self._data_offset, self._words
        while position < producer and len(records) < most:
            at = offset + (position & mask)
            length = words[at >> 2]
            if length & _BUSY:
                break
            size = length & ~_DISCARD
            if size == length:
                begin = at + _HEADER_BYTES
                records.append(data[begin : begin + size])
            position += (size + _HEADER_BYTES + 7) & ~7
        self._consumer[0] = position
        return records

    def close(self) -> None:
        for view in (self._consumer, self._producer, self._words):
            view.release()
        self._consumer_map.close()
        self._producer_map.close()


class LibbpfRing:
    """The ring through ring_buffer__consume: about twice as slow, correct on every machine."""

    def __init__(self, library: Libbpf, map_fd: int) -> None:
        self._library = library
        self._records: list[bytes] = []
        self._callback = RING_CALLBACK(self._take)
        self._ring = library.call(
            "ring_buffer__new", map_fd, self._callback, None, None, what="the ring buffer cannot be mapped"
        )

    def _take(self, _context: int, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return 0

    def read(self, most: int) -> list[bytes]:
        self._library.call("ring_buffer__consume", self._ring, what="the ring buffer cannot be read")
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        self._library.void("ring_buffer__free", self._ring)
