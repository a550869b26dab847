"""Reload: what people wrote is read and compiled anew in a thread, and used between two events, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from sensor.config import Config
from sensor.context.agents import Agents
from sensor.faults import Fault, FaultsError
from sensor.match.early import denied_programs
from sensor.match.ir import RuleSet
from sensor.match.limits import Limits, LimitWatch, Programs, compile_limits
from sensor.match.matcher import Matcher
from sensor.startup import Loaded

log = structlog.get_logger()

CHANGEABLE = frozenset(
    {"mode", "rules", "agents", "protect", "kills_per_minute", "alert_window_s", "resolvers", "approve_within"}
)
"""The settings that a reload changes; each other one needs a restart."""


class Fresh(msgspec.Struct):
    """All that a reload brings, compiled."""

    loaded: Loaded
    agents: Agents
    watch: LimitWatch
    limits: dict[str, Limits]
    denied: Programs
    """What the rules deny everybody before its first instruction."""
    matcher: Matcher | None
    """None: the rules are those of before, and keep what they remember."""


class Result(msgspec.Struct):
    """How a reload ended."""

    number: int = 0
    """Reloads are counted from 1 since the sensor began; 0: there was none."""
    faults: list[Fault] = []
    """Why nothing was changed."""
    restart: list[str] = []
    """Settings that have changed in the file and wait for a restart."""
    summary: dict[str, Any] = {}


def compiled(loaded: Loaded, before: RuleSet | None) -> Fresh:
    """Everything in the form in which it is used."""
    files = loaded.agents
    same = before is not None and before.rules == loaded.rules.rules
    return Fresh(
        loaded,
        Agents(files),
        LimitWatch(files),
        {agent.agent: compile_limits(agent) for agent in files},
        denied_programs(loaded.rules.rules),
        None if same else Matcher(loaded.rules.rules),
    )


def needs_restart(before: Config, after: Config) -> list[str]:
    """Settings that differ and that only a restart changes."""
    names = [name for name in Config.__struct_fields__ if name not in CHANGEABLE]
    return [name for name in names if getattr(before, name) != getattr(after, name)]


class Reloader:
    """Reads in a thread. Whoever asks while it reads gets another reload after that: files may have changed."""

    def __init__(self, load: Callable[[], Loaded], tell: Callable[[Result], object]) -> None:
        """`load` raises FaultsError, and nothing else; `tell` is told how each reload ended."""
        self.result = Result()
        """Of the reload that ended last."""
        self._load = load
        self._tell = tell
        self._asked = 0
        self._begun = 0
        self._thread: threading.Thread | None = None
        self._found: Fresh | list[Fault] | None = None

    def ask(self) -> int:
        """Wants a reload; its number."""
        if self._asked == self._begun:
            self._asked += 1
        return self._asked

    def poll(self, rules: RuleSet) -> Fresh | None:
        """What is to be used from now on: then call `used`. `rules` are those in use. To be called all the time."""
        if self._thread is None:
            if self._asked > self._begun:
                self._begun = self._asked
                self._thread = threading.Thread(target=self._read, args=(rules,), name="reload", daemon=True)
                self._thread.start()
            return None
        if self._thread.is_alive():
            return None
        self._thread = None
        found, self._found = self._found, None
        if isinstance(found, Fresh):
            return found
        # A thread that died left its traceback on standard error.
        faults = [Fault("reload", 0, "ended without a result")] if found is None else found
        self.result = Result(self._begun, faults)
        for fault in faults:
            log.error("not reloaded: a file has a fault", place=f"{fault.path}:{fault.line}", fault=fault.what)
        self._tell(self.result)
        return None

    def used(self, restart: list[str], summary: dict[str, Any]) -> None:
        """What `poll` gave is in use."""
        self.result = Result(self._begun, [], restart, summary)
        log.info("reloaded", **summary)
        if restart:
            log.warning("needs a restart", settings=restart)
        self._tell(self.result)

    def _read(self, rules: RuleSet) -> None:
        try:
            self._found = compiled(self._load(), rules)
        except FaultsError as error:
            self._found = error.faults
