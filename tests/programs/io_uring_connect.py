"""Connect to 127.0.0.1:PORT through io_uring alone: no connect(2) is ever called (io_uring(7)).

Prints what the completion said: 0, or a negative errno.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys

SETUP, ENTER = 425, 426
OP_CONNECT = 16
ENTER_GETEVENTS = 1
OFF_SQES = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def syscall(*arguments: object) -> int:
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def main(port: int) -> None:
    params = ctypes.create_string_buffer(120)
    ring = syscall(SETUP, 1, params)
    sq_off = struct.unpack_from("=10I", params, 40)  # head tail mask entries flags dropped array
    cq_off = struct.unpack_from("=10I", params, 80)  # head tail mask entries overflow cqes
    rings = mmap.mmap(ring, 4096, offset=0)
    sqes = mmap.mmap(ring, 4096, offset=OFF_SQES)

    sock = socket.socket()
    address = ctypes.create_string_buffer(
        struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, b"\x7f\0\0\1")
    )
    entry = struct.pack("=BBHiQQIIQ", OP_CONNECT, 0, 0, sock.fileno(), 16, ctypes.addressof(address), 0, 0, 7)
    sqes[: len(entry)] = entry
    struct.pack_into("=I", rings, sq_off[6], 0)
    struct.pack_into("=I", rings, sq_off[1], 1)
    syscall(ENTER, ring, 1, 1, ENTER_GETEVENTS, None, 0)
    _, result, _ = struct.unpack_from("=Qii", rings, cq_off[5])
    sys.stdout.write(f"{result}\n")


main(int(sys.argv[1]))
