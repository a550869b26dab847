"""An agent: asks a model on another host what to do, does it in a shell, notes it in a database on its own.

HOST PORT CERTIFICATE DATABASE_PORT SHELL. What each command prints goes to the model with the next question, over one
connection. SHELL is `each` for a new shell with pipes for each command, `terminal` for one shell in a terminal.
"""

import http.client
import json
import os
import pty
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable

from resp import Redis

HOST, PORT, CERTIFICATE, DATABASE_PORT, SHELL = (
    sys.argv[1],
    int(sys.argv[2]),
    sys.argv[3],
    int(sys.argv[4]),
    sys.argv[5],
)
END = "all-printed"


def in_a_new_shell(command: str) -> str:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout


def in_a_terminal() -> Callable[[str], str]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execlp("bash", "bash", "--norc", "-i")

    def run(command: str) -> str:
        os.write(terminal, f"{command}; echo {END[:3]}''{END[3:]}\n".encode())
        shown = ""
        while f"{END}\r\n" not in shown:
            shown += os.read(terminal, 65536).decode()
        return shown

    return run


run = in_a_new_shell if SHELL == "each" else in_a_terminal()
context = ssl.create_default_context(cafile=CERTIFICATE)
model = http.client.HTTPConnection(HOST, PORT)
model.sock = context.wrap_socket(socket.create_connection((HOST, PORT)), server_hostname="model.test")
turns = [{"role": "user", "text": "How much is there?"}]
for _ in range(3):
    model.request("POST", "/v1/messages", json.dumps(turns))
    with model.getresponse() as answer:
        command = "".join(json.loads(line)["text"] for line in answer)
    printed = run(command)
    with Redis("127.0.0.1", DATABASE_PORT) as database:
        database("RPUSH", "log", json.dumps([command, printed]))
    turns.append({"role": "tool", "text": printed})
sys.stdout.write(turns[-1]["text"])
