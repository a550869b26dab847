"""A word to the sensor from a command that must not depend on it: said if it answers at once, and else not at all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

SOCKET = Path("/run/hostbrake/control.sock")
PATIENCE_S = 0.05


def tell(path: Path, command: str, **arguments: Any) -> dict[str, Any] | None:
    """The sensor's reply; None where none runs, or none that answers within `PATIENCE_S` in all. Raises nothing."""
    if not path.is_socket():
        return None
    import json
    import socket

    until = time.monotonic() + PATIENCE_S
    reply = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(path))
            client.settimeout(max(0.001, until - time.monotonic()))
            client.sendall(json.dumps({**arguments, "command": command}).encode() + b"\n")
            while time.monotonic() < until:
                client.settimeout(max(0.001, until - time.monotonic()))
                chunk = client.recv(65536)
                if not chunk:
                    break
                reply += chunk
        answer = json.loads(reply)
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) and "error" not in answer else None
