"""The far end of connections: `far_end.py ADDRESS CERTIFICATE`, ports by what is spoken on them.

Whoever connects to a shell's port is told commands, as a person would type them; "queue" speaks as Redis does, and the
others answer each request after a while with a command to run.
"""

import socket
import ssl
import sys
import threading
import time

COMMANDS = (b"id\n", b"ls /dev/null\n", b"export STAGE=2\n", b"uname -a\n")
SHELL, SHELL_TLS, BINARY, QUEUE, MODEL_TLS, MODEL_HTTP = range(4001, 4007)


def steer(connection: socket.socket) -> None:
    threading.Thread(target=swallow, args=(connection,), daemon=True).start()
    for number in range(600):
        time.sleep(0.4)
        connection.sendall(COMMANDS[number % len(COMMANDS)])


def swallow(connection: socket.socket) -> None:
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass


def scrambled(connection: socket.socket) -> None:
    while connection.recv(4096):
        time.sleep(0.3)
        connection.sendall(bytes(range(128, 256, 7)))  # no control characters: a terminal would make signals of them


def queue(connection: socket.socket) -> None:
    while connection.recv(4096):
        time.sleep(0.3)
        connection.sendall(b"*2\r\n$4\r\njobs\r\n$5\r\nls -a\r\n")


def model(connection: socket.socket) -> None:
    while connection.recv(4096):
        time.sleep(0.3)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nls -a\n")


def serve(address: str, port: int, speak, context: ssl.SSLContext | None) -> None:
    with socket.create_server((address, port), family=socket.AF_INET, backlog=64) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=speak_to, args=(connection, speak, context), daemon=True).start()


def speak_to(connection: socket.socket, speak, context: ssl.SSLContext | None) -> None:
    try:
        with context.wrap_socket(connection, server_side=True) if context else connection as spoken:
            speak(spoken)
    except OSError:
        pass


secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
secure.load_cert_chain(sys.argv[2])
for port, speak, context in (
    (SHELL, steer, None),
    (SHELL_TLS, steer, secure),
    (BINARY, scrambled, None),
    (QUEUE, queue, None),
    (MODEL_TLS, model, secure),
    (MODEL_HTTP, model, None),
):
    threading.Thread(target=serve, args=(sys.argv[1], port, speak, context), daemon=True).start()
time.sleep(1000)
