"""Alerts, agents and a web server of our own, for the tests of notifications."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sensor.address import Escalate
from sensor.agents_file import AgentFile, Match, Owner

DAY = 86_400.0


def agent(name: str, *notify: str, owner: str = "Ada", escalate: Escalate | None = None) -> AgentFile:
    return AgentFile(
        agent=name, purpose="tests", owner=Owner(owner, list(notify), escalate), match=[Match(cgroup=f"/{name}")]
    )


def alert(
    name: str | None = "rome",
    *,
    severity: int = 99,
    action: str = "kill",
    outcome: str = "done",
    number: int = 1,
    **changes: Any,
) -> dict[str, Any]:
    """As the alerts file has them; `name` of None is of no agent."""
    level = {99: "critical", 73: "high", 47: "medium", 21: "low"}[severity]
    found: dict[str, Any] = {
        "@timestamp": "2026-11-23T15:51:02.118274Z",
        "event": {"kind": "alert", "id": f"{number:032x}"[::-1], "severity": severity, "reason": "xmrig ran `xmrig`"},
        "rule": {"id": "1", "name": "Cryptocurrency miner by its name", "level": level},
        "cgroup": {"id": 7, "path": f"/{name or 'stray'}/job"},
        "response": {"mode": "enforce", "action": action, "outcome": outcome},
    }
    if name is not None:
        found["workload"] = {"agent": name, "owner": "Ada"}
    return found | changes


class Phone:
    """An HTTP server on loopback that answers as told and keeps what it was sent."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.answer: int | str = 200
        """A status, or "hang" or "drop"."""
        self.gate = threading.Event()
        phone = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                phone.got.append((self.path, body))
                if phone.answer == "hang":
                    phone.gate.wait(60)
                if isinstance(phone.answer, int):
                    self.send_response(phone.answer)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                return  # the other side went away

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"json://127.0.0.1:{self._server.server_port}/{path}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.got]

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)
    return value
