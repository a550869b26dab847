"""All open cases and the approvals that hold, kept on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import structlog

from sensor.node import boot_id
from sensor.respond import cases as store
from sensor.respond.cases import Case, Grant, now

log = structlog.get_logger()


class Casebook:
    """Whoever changes what is in it calls `save`."""

    def __init__(self, path: Path) -> None:
        """Takes in what `path` holds. Where that is damaged it is set aside, which is a loss, and all is empty."""
        self.path = path
        self.cases: dict[str, Case] = {}
        self.grants: dict[tuple[str, str], Grant] = {}
        """By rule id and whom it was decided for."""
        self.losses: Counter[str] = Counter()
        self.is_written = True
        self._load()

    @property
    def pending(self) -> list[Case]:
        """The cases that wait for an answer, the oldest first."""
        return [case for case in self.cases.values() if case.decision is None]

    def grant_of(self, rule: str, whom: str) -> Grant | None:
        grant = self.grants.get((rule, whom))
        return grant if grant is not None and now() < grant.until else None

    def forget_old_grants(self) -> bool:
        """Whether there were any."""
        before = len(self.grants)
        self.grants = {key: grant for key, grant in self.grants.items() if now() < grant.until}
        return len(self.grants) < before

    def save(self) -> bool:
        """False where it cannot be written, which is counted and logged."""
        state = store.State(cases=list(self.cases.values()), grants=list(self.grants.values()))
        try:
            store.write(self.path, msgspec.json.encode(state))
        except OSError as error:
            self.losses["not_written"] += 1
            if self.is_written:
                log.error("approvals cannot be written", path=str(self.path), reason=str(error))
            self.is_written = False
        else:
            self.is_written = True
        return self.is_written

    def _load(self) -> None:
        try:
            state = store.read(self.path)
        except (store.DamagedError, OSError) as error:
            self.losses["damaged"] += 1
            log.error("approvals are damaged; what is frozen stays so", path=str(self.path), reason=str(error))
            self._set_aside()
            return
        if state.boot != boot_id():
            for case in state.cases:
                log.warning("case ended by a reboot", case=case.id, rule=case.rule.title, agent=case.agent)
            return
        self.cases = {case.id: case for case in state.cases}
        self.grants = {(grant.rule, grant.whom): grant for grant in state.grants}

    def _set_aside(self) -> None:
        try:
            store.set_aside(self.path)
        except OSError as error:
            log.error("damaged approvals cannot be set aside", path=str(self.path), reason=str(error))
