"""One rank of a ring all-reduce, as NCCL does it over sockets: RANK RANKS PORT NEXT_HOST NEXT_PORT ROUNDS.

Each rank sends to the next and receives from the one before, both over connections of the start. The second half of
each round hands on unchanged what came in.
"""

import socket
import sys
import threading
import time

RANK, RANKS, PORT = map(int, sys.argv[1:4])
NEXT_HOST, NEXT_PORT, ROUNDS = sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
SIZE = 65_536


def connect() -> socket.socket:
    for _ in range(600):
        try:
            return socket.create_connection((NEXT_HOST, NEXT_PORT), 30)
        except ConnectionRefusedError:  # not all ranks have begun
            time.sleep(0.05)
    raise TimeoutError(NEXT_HOST)


def exchange(chunk: bytearray) -> bytearray:
    sender = threading.Thread(target=onward.sendall, args=(chunk,))
    sender.start()
    got = bytearray()
    while len(got) < SIZE:
        part = before.recv(SIZE - len(got))
        if not part:
            raise ConnectionError("the rank before is gone")
        got += part
    sender.join()
    return got


with socket.create_server(("", PORT)) as server:
    onward = connect()
    before, _ = server.accept()
for _ in range(ROUNDS):
    own = bytes([RANK + 1]) * SIZE
    chunk = bytearray(own)
    for _ in range(RANKS - 1):  # reduce
        got = exchange(chunk)
        chunk = bytearray((int.from_bytes(got, "big") + int.from_bytes(own, "big")).to_bytes(SIZE, "big"))
    total = chunk
    for _ in range(RANKS - 1):  # gather
        chunk = exchange(chunk)
        assert chunk == total
    assert total == bytes([sum(range(RANKS + 1))]) * SIZE
