"""`hostbrake learn`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from sensor.agents_file import AgentFile

_PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is told in one sentence below


@click.command("learn")
@click.argument("agent")
@click.option("--config", "config_path", type=_PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml")
@click.option("--agents", type=_PATH, metavar="DIR", help="agents, instead of the configured")
@click.option("--state-dir", type=_PATH, metavar="DIR", help="where the sensor keeps its state, if not as configured")
@click.option("--output", type=_PATH, metavar="FILE", help="a new file, instead of standard output")
def learn(
    agent: str, config_path: Path | None, agents: Path | None, state_dir: Path | None, output: Path | None
) -> None:
    """Write what AGENT was seen to do as an agents file.

    Read it, edit it, put it in the place of the agent's file, and turn it into default-deny. Owner, purpose and match
    are those of the agent's own file. A running sensor writes profiles down once a minute.
    """
    from sensor.cli.learned_file import render
    from sensor.config import load_config
    from sensor.match.profile_store import PROFILES_DIR, DamagedError, path_of, read

    given = {"agents": agents, "state_dir": state_dir}
    config = load_config(config_path, {name: value for name, value in given.items() if value is not None})
    declared = _declared(agent, config.agents)
    directory = Path(config.state_dir) / PROFILES_DIR
    path = path_of(directory, agent)
    assert path is not None  # else no file could declare it
    try:
        profile = read(path, agent)
    except DamagedError as error:
        _refuse(f"{path} cannot be used, {error}; the sensor sets it aside and learns anew")
    except OSError as error:
        _refuse(f"{path}: {error.strerror}")
    if profile is None:
        _refuse(f"there is no profile of {agent} in {directory} yet; the sensor begins one when it sees the agent run")
    _write(render(profile, declared), output)


def _declared(agent: str, directory: str) -> AgentFile:
    from sensor.agents_file import read_agents
    from sensor.faults import FaultsError

    found, faults = read_agents(directory)
    declared = next((file for file in found if file.agent == agent), None)
    if declared is not None:
        return declared
    if faults:
        raise FaultsError(faults)
    known = ", ".join(sorted(file.agent for file in found)) or "none"
    return _refuse(f"no agent {agent!r} in {directory}; known: {known}", 2)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        # Owners' addresses may be keys.
        with open(output, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text)
    except FileExistsError:
        _refuse(f"{output} is there already; name a new file")
    except OSError as error:
        _refuse(f"{output}: {error.strerror}")


def _refuse(why: str, status: int = 1) -> NoReturn:
    click.echo(f"hostbrake: {why}", err=True)
    sys.exit(status)
