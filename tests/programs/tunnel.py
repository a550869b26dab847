"""A reverse tunnel in a few lines, the service behind it, and who uses it.

near HOW ADDRESS PORT HOST SERVICE   connect there; once something comes, connect to HOST's SERVICE and pass all on
far PORT USERS [CERTIFICATE]         accept `near`; who connects to USERS is passed on to it
listener ADDRESS PORT USERS          connect there; who connects to USERS here is passed on to it
serve PORT                           answer "COUNT ...\\n" with that many bytes
ask PORT COUNT                       ask it that often for various amounts
"""

import os
import random
import select
import socket
import ssl
import sys


def pass_on(one, other):
    """Both ways, until either ends."""
    to = {one: other, other: one}
    while True:
        waiting = [sock for sock in to if isinstance(sock, ssl.SSLSocket) and sock.pending()]
        for sock in waiting or select.select(list(to), [], [])[0]:
            data = sock.recv(65536)
            if not data:
                return
            to[sock].sendall(data)


def has_spoken(sock):
    return select.select([sock], [], [])[0]


def near(how, address, port, host, service):
    outer = socket.create_connection((address, int(port)))
    if how in ("tls", "named"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        outer = context.wrap_socket(outer, server_hostname="relay.example" if how == "named" else None)
    if how == "child" and os.fork():
        os.wait()
        return
    if how == "sibling":
        ours, theirs = socket.socketpair()
        if os.fork():
            pass_on(outer, ours)
            return
        outer.close()
        outer = theirs
    if how != "both":
        has_spoken(outer)
    pass_on(outer, socket.create_connection((host, int(service))))


def far(port, users, certificate=None):
    with socket.create_server(("0.0.0.0", int(port))) as server:
        outer, _ = server.accept()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        outer = context.wrap_socket(outer, server_side=True)
    with socket.create_server(("127.0.0.1", int(users))) as server:
        user, _ = server.accept()
    pass_on(outer, user)


def listener(address, port, users):
    outer = socket.create_connection((address, int(port)))
    with socket.create_server(("127.0.0.1", int(users))) as server:
        user, _ = server.accept()
    pass_on(outer, user)


def serve(port):
    server = socket.create_server(("0.0.0.0", int(port)))
    while True:
        user, _ = server.accept()
        if os.fork():
            user.close()
            continue
        for line in user.makefile("rb"):
            user.sendall(os.urandom(int(line.split()[0])))
        os._exit(0)


def ask(port, count):
    with socket.create_connection(("127.0.0.1", int(port))) as service:
        for _ in range(int(count)):
            amount = random.randrange(10, 20_000)
            service.sendall(b"%d %s\n" % (amount, b"x" * random.randrange(20, 1000)))
            while amount:
                data = service.recv(amount)
                assert data
                amount -= len(data)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
