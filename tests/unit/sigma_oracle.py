"""An independent Sigma engine: pySigma's SQLite backend, run on a table of events.

Of our own there are only the table's layout, REGEXP, which SQLite leaves to its user, and what a condition on a list
means (it holds if it holds for one element), of which neither Sigma nor SQLite say anything.
"""

from __future__ import annotations

import copy
import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection
from sigma.policy.profiles import TrustedPolicy
from sigma.rule import SigmaRule
from sigma.types import SigmaExists, SigmaNull

from sensor.events import CLASSES, AnyEvent, fields_of

SEPARATOR = "\x1e"
"""Between the texts of an event where keywords are looked for."""


def kind_of(category: str, attribute: str) -> type:
    """str, int, float, bool or list: what an event's attribute holds."""
    hint = get_type_hints(CLASSES[category]).get(attribute, str)
    kinds = {getattr(kind, "__origin__", kind) for kind in get_args(hint) or (hint,)} - {type(None)}
    (kind,) = kinds
    return kind


class _Backend(sqliteBackend):
    """Asks of each element of a list what the backend would ask of a column."""

    lists: frozenset[str] = frozenset()

    def convert_condition_field_eq_val(self, cond: Any, state: Any) -> Any:
        if cond.field not in self.lists or isinstance(cond.value, SigmaNull | SigmaExists):
            return super().convert_condition_field_eq_val(cond, state)
        of_one = copy.copy(cond)
        of_one.field = "element"
        one = super().convert_condition_field_eq_val(of_one, state)
        return f"EXISTS (SELECT 1 FROM (SELECT value AS element FROM json_each(events.{cond.field})) WHERE {one})"


_AFFINITY = {str: "TEXT", bool: "TEXT", list: "TEXT", int: "INTEGER", float: "REAL"}


class Oracle:
    """All events of one category in one table."""

    def __init__(self, category: str, events: Sequence[AnyEvent]) -> None:
        self._fields = fields_of(category)
        kinds = {name: kind_of(category, attribute) for name, attribute in self._fields.items()}
        self._texts = [name for name, kind in kinds.items() if kind in (str, list) and name != "Argv"]
        self._connection = sqlite3.connect(":memory:")
        self._connection.create_function("regexp", 2, _regexp, deterministic=True)
        self._backend = _Backend(fulltext_field="Everything", collate_nocase=True, table="events")
        self._backend.lists = frozenset(name for name, kind in kinds.items() if kind is list)
        columns = [f"{name} {_AFFINITY[kind]} COLLATE NOCASE" for name, kind in kinds.items()]
        self._connection.execute(f"CREATE TABLE events ({', '.join(columns)}, Everything TEXT)")
        row = f"INSERT INTO events VALUES ({', '.join('?' * (len(columns) + 1))})"
        self._connection.executemany(row, map(self._row, events))

    def _row(self, event: AnyEvent) -> list[Any]:
        values = {name: getattr(event, attribute) for name, attribute in self._fields.items()}
        texts: list[str] = []
        for name in self._texts:
            value = values[name]
            texts += value if isinstance(value, list) else [value or ""]
        return [*map(_stored, values.values()), SEPARATOR.join(texts)]

    def matches(self, rule: SigmaRule) -> set[int]:
        """The positions of the events that match; raises SigmaError or sqlite3.Error for a rule beyond the engine."""
        found: set[int] = set()
        known = {column[1].lower() for column in self._connection.execute("PRAGMA table_info(events)")}
        for field in self._backend.required_fields(rule):
            if field.lower() not in known:
                self._connection.execute(f"ALTER TABLE events ADD COLUMN `{field}` TEXT COLLATE NOCASE")
        for query in self._backend.convert_rule(rule):
            positions = self._connection.execute(query.replace("SELECT *", "SELECT rowid", 1))
            found.update(position - 1 for (position,) in positions)
        return found


def _stored(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _regexp(pattern: str, value: str | float | None) -> bool | None:
    return None if value is None else _compiled(pattern).search(str(value)) is not None


def rules_of(texts: Iterable[str]) -> list[SigmaRule]:
    """The detection rules of rule files as pySigma reads them, regular expressions as Python does."""
    collections = [SigmaCollection.from_yaml(text, policy=TrustedPolicy) for text in texts]
    return [rule for collection in collections for rule in collection.rules if isinstance(rule, SigmaRule)]
