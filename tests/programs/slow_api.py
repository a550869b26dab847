"""A model behind HTTPS that thinks before it answers and then answers word by word: PORT CERTIFICATE."""

import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, CERTIFICATE = int(sys.argv[1]), sys.argv[2]
COMMANDS = [
    "ls -la /usr/lib | sort -k5 -n | tail -5",
    "cat /etc/passwd | cut -d: -f1 | wc -l; id",
    "for n in 1 2 3; do echo $n; done | tee numbers | md5sum",
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        turns = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.3)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in COMMANDS[len(turns) - 1].split(" "):
            chunk = json.dumps({"text": word + " "}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            time.sleep(0.01)
        self.wfile.write(b"0\r\n\r\n")


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(CERTIFICATE)
server = ThreadingHTTPServer(("", PORT), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
