"""Configuration, agents and rules together, as `run` and `check` need them: the faults of all in one go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sensor.agents_file import AgentFile, load_agents
from sensor.config import DEFAULT_CONFIG, Config, load_config, usable_config
from sensor.control import ControlError, group_id
from sensor.faults import Fault, FaultsError
from sensor.match.load import RuleSet, load_rules

RULES_CACHE = "rules.cache"
"""Its name in the state directory."""


class Loaded(msgspec.Struct, frozen=True):
    """Everything that people wrote, checked."""

    config: Config
    agents: list[AgentFile]
    rules: RuleSet


def load_everything(path: str | Path | None, overrides: Mapping[str, Any], cache_rules: bool = False) -> Loaded:
    """See `load_config`, `load_agents` and `load_rules`; raises FaultsError with the faults of all three.

    With `cache_rules` compiled rules are kept in, and taken from, the state directory.
    """
    faults: list[Fault] = []
    agents: list[AgentFile] = []
    rules: RuleSet | None = None
    try:
        config = load_config(path, overrides)
    except FaultsError as error:
        faults += error.faults
        config = usable_config(path, overrides)  # still says where agents and rules are
    try:
        group_id(config.operators)
    except ControlError as error:
        faults.append(Fault(str(path or DEFAULT_CONFIG), 0, f"operators: {error}"))
    try:
        cache = Path(config.state_dir) / RULES_CACHE if cache_rules else None
        rules = load_rules(config.rules, cache=cache)
    except FaultsError as error:
        faults += error.faults
    kinds = None if rules is None else {kind for rule in rules for kind in rule.info.kinds}
    try:
        agents = load_agents(config.agents, kinds)
    except FaultsError as error:
        faults += error.faults
    if faults or rules is None:
        raise FaultsError(faults)
    return Loaded(config, agents, rules)
