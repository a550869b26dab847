"""A web server that forks its workers before it accepts, each of which asks a database: PORT DATABASE_PORT."""

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from resp import Redis

PORT, DATABASE_PORT = int(sys.argv[1]), int(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with Redis("127.0.0.1", DATABASE_PORT) as database:
            count = database("INCR", "visits")
        time.sleep(0.005)
        answer = f"worker {os.getpid()}, visit {count}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


server = HTTPServer(("", PORT), Handler)
server.socket.listen(200)
for _ in range(3):
    if os.fork() == 0:
        break
server.serve_forever()
