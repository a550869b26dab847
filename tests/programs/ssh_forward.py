"""A remote forward by Paramiko: ADDRESS PORT KEY LISTEN SERVICE."""

import select
import socket
import sys

import paramiko

address, port, key, listen, service = sys.argv[1:]
transport = paramiko.Transport((address, int(port)))
transport.connect(username="root", pkey=paramiko.Ed25519Key.from_private_key_file(key))
transport.request_port_forward("127.0.0.1", int(listen))
while transport.is_active():
    channel = transport.accept(1)
    if channel is None:
        continue
    inner = socket.create_connection(("127.0.0.1", int(service)))
    to = {channel: inner, inner: channel}
    while to:
        for side in select.select(list(to), [], [])[0]:
            data = side.recv(32768)
            if not data:
                to = {}
                break
            to[side].sendall(data)
