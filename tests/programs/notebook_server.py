"""A notebook server in miniature: a WebSocket (RFC 6455) from the browser, TCP on loopback to a kernel process: PORT.

Each cell that comes in over the WebSocket goes to the kernel, and what the kernel prints goes back.
"""

import base64
import hashlib
import socket
import socketserver
import subprocess
import sys

PORT = int(sys.argv[1])
KERNEL = """
import contextlib, io, socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        with server.accept()[0] as shell:
            while cell := shell.recv(65536):
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    exec(cell.decode())
                shell.sendall(out.getvalue().encode() or b"\\n")
"""
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Browser(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        headers = {}
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.strip().partition(b": ")
            headers[name.lower()] = value
        if b"sec-websocket-key" not in headers:
            return
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + GUID).digest())
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wfile.write(upgrade + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        with socket.create_connection(("127.0.0.1", kernel_port)) as shell:
            while cell := self.frame():
                shell.sendall(cell)
                said = shell.recv(65536)
                self.wfile.write(bytes([0x81, len(said)]) + said)

    def frame(self) -> bytes:
        """The text of one short, masked frame; nothing at the end."""
        head = self.rfile.read(2)
        if len(head) < 2 or head[0] != 0x81:
            return b""
        mask = self.rfile.read(4)
        masked = self.rfile.read(head[1] & 0x7F)
        return bytes(byte ^ mask[n % 4] for n, byte in enumerate(masked))


kernel = subprocess.Popen([sys.executable, "-c", KERNEL], stdout=subprocess.PIPE)
kernel_port = int(kernel.stdout.readline())
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", PORT), Browser).serve_forever()
