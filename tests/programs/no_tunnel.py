"""What is no tunnel, however like one it looks: it talks to another host and, prompted by that, to a local service.

queue PORT KIND COUNT               hand jobs to whoever connects
worker KIND ADDRESS PORT SERVICE    take them, and ask the local service for each
database PORT                       the local service: answers what it is asked
model PORT COUNT                    a slow language model behind HTTP
agent ADDRESS PORT SERVICE COUNT    asks it, keeps what it says in the database, and asks more
proxy PORT ADDRESS BACKEND          pass each connection on over one of its own
rank PLACE COUNT ADDRESS...         one of a ring that sums up, then a tree that hands out; PLACE is its own address
"""

import json
import os
import random
import select
import socket
import struct
import sys
import threading
import time


def send(sock, data):
    sock.sendall(struct.pack("!I", len(data)) + data)


def receive(sock):
    length = struct.unpack("!I", exactly(sock, 4))[0]
    return exactly(sock, length)


def exactly(sock, length):
    data = b""
    while len(data) < length:
        data += sock.recv(length - len(data)) or sys.exit("the other side has gone")
    return data


def queue(port, kind, count):
    with socket.create_server(("0.0.0.0", int(port))) as server:
        worker, _ = server.accept()
        for number in range(int(count)):
            text = random.randbytes(random.randrange(300, 3000)).hex() if kind == "store" else "x" * (number % 30)
            send(worker, json.dumps({"job": number, "text": text}).encode())
            receive(worker)


def worker(kind, address, port, service):
    with socket.create_connection((address, int(port))) as jobs:
        local = None
        while True:
            job = json.loads(receive(jobs))
            local = local or socket.create_connection(("127.0.0.1", int(service)))
            if kind == "store":
                send(local, b"INSERT '%s'" % job["text"].encode())
            else:
                send(local, b"SELECT * FROM t WHERE id=%d AND name='%s'" % (job["job"], job["text"].encode()))
            send(jobs, json.dumps({"job": job["job"], "result": receive(local).decode()}).encode())


def database(port):
    server = socket.create_server(("127.0.0.1", int(port)))
    while True:
        user, _ = server.accept()
        if os.fork():
            user.close()
            continue
        while True:
            asked = receive(user)
            send(user, b"INSERT 0 1" if asked.startswith(b"INSERT") else b"r" * random.randrange(20, 1500))


def request(sock, path, body):
    sock.sendall(b"POST %s HTTP/1.1\r\nHost: model\r\nContent-Length: %d\r\n\r\n%s" % (path, len(body), body))


def body_of(sock):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(sock, 1)
    return exactly(sock, int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))


def model(port, count):
    with socket.create_server(("0.0.0.0", int(port))) as server:
        agent, _ = server.accept()
        for _ in range(int(count)):
            body_of(agent)
            time.sleep(0.6)
            text = random.randbytes(random.randrange(200, 2000)).hex().encode()
            agent.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


def agent(address, port, service, count):
    with socket.create_connection((address, int(port))) as talk:
        said = b"You are an agent."
        for _ in range(int(count)):
            request(talk, b"/v1/completions", said)
            text = body_of(talk)
            with socket.create_connection(("127.0.0.1", int(service))) as local:
                send(local, b"INSERT '%s'" % text)
                receive(local)
                send(local, b"SELECT '%s'" % text[:20])
                said += text + receive(local)


def proxy(port, address, backend):
    server = socket.create_server(("0.0.0.0", int(port)))
    while True:
        client, _ = server.accept()
        threading.Thread(target=serve_client, args=(client, address, int(backend)), daemon=True).start()


def serve_client(client, address, backend):
    to = {client: (other := socket.create_connection((address, backend))), other: client}
    while True:
        for side in select.select(list(to), [], [])[0]:
            data = side.recv(65536)
            if not data:
                client.close()
                other.close()
                return
            to[side].sendall(data)


PEERS = 29400


def rank(place, count, *addresses):
    """Everybody connects to everybody at the start, as Gloo and NCCL do; then it is only data."""
    me = addresses.index(place)
    server = socket.create_server((place, PEERS))
    peers = {}
    for number, address in enumerate(addresses[:me]):
        peers[number] = patient(address, place)
        send(peers[number], b"%d" % me)
    while len(peers) < len(addresses) - 1:
        peer, _ = server.accept()
        peers[int(receive(peer))] = peer
    size = len(addresses)
    for number in range(int(count)):
        chunk = random.randbytes(random.randrange(100, 60_000))
        for _ in range(size - 1):  # round the ring
            send(peers[(me + 1) % size], chunk)
            chunk = receive(peers[(me - 1) % size])
        up = me - 1 if number % 2 else me + 1  # along a chain, from either end
        down = 2 * me - up
        if up in peers:
            chunk = receive(peers[up])
        if down in peers:
            send(peers[down], chunk)


def patient(address, place):
    while True:
        try:
            return socket.create_connection((address, PEERS), source_address=(place, 0))
        except ConnectionRefusedError:
            time.sleep(0.02)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
