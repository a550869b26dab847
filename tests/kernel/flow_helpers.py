"""What the tests of flows share."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator

from sensor.decode import KernelEvent, decode
from sensor.kernel.core import CoreBackend


def echo_server(family: int = socket.AF_INET, address: str = "127.0.0.1") -> Iterator[tuple[int, str, int]]:
    """(family, address, port) of a server that says back what it is told, for a fixture."""
    with socket.create_server((address, 0), family=family) as server:
        stop, wake = socket.socketpair()
        thread = threading.Thread(target=_serve, args=(server, stop))
        thread.start()
        yield family, address, server.getsockname()[1]
        wake.close()
        thread.join(10)
        stop.close()


def _serve(server: socket.socket, stop: socket.socket) -> None:
    open_ = [server, stop]
    while True:
        for ready in select.select(open_, [], [])[0]:
            if ready is stop:
                return
            if ready is server:
                open_.append(server.accept()[0])
                continue
            try:
                data = ready.recv(65536)
                ready.sendall(data)
            except OSError:
                data = b""
            if not data:
                open_.remove(ready)
                ready.close()


def everything(backend: CoreBackend, wait_s: float = 0.05) -> list[KernelEvent]:
    """All that waits in the ring, after a moment."""
    time.sleep(wait_s)  # the last packets of a close come by softirq
    found: list[KernelEvent] = []
    while records := backend.read():
        found += [decode(record) for record in records]
    return found
