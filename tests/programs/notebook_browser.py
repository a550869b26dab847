"""Runs three cells in a notebook_server.py: HOST PORT."""

import os
import socket
import sys
import time

HOST, PORT = sys.argv[1], int(sys.argv[2])

with socket.create_connection((HOST, PORT), 30) as sock:
    request = "GET /api/kernels/1/channels HTTP/1.1\r\nHost: notebook\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    sock.sendall(f"{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer, answer
    for cell in (b"x = 6", b"print(x * 7)", b"import subprocess; print(subprocess.getoutput('uname | tr A-Z a-z'))"):
        mask = os.urandom(4)
        sock.sendall(bytes([0x81, 0x80 | len(cell)]) + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(cell)))
        head = sock.recv(2)
        sys.stdout.write(sock.recv(head[1]).decode())
        time.sleep(0.2)
