"""`hostbrake drill`: a harmless canary does what the rules forbid, and is timed until it was known and stopped."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson

from sensor.cli.canary import Seen, act, behaviours, switch_off
from sensor.cli.staging import Sensor, StageError, orderly_interrupts, throwaway_cgroup
from sensor.cli.targets import PATH
from sensor.config import Config, load_config
from sensor.control import ControlError, NoSensorError, ask
from sensor.drills import DRILL_CGROUP, Result
from sensor.node import NodeError, cgroup2_mount

SECONDS = click.FloatRange(min=0, min_open=True)


class Drilled(msgspec.Struct):
    """How an agent's drill went."""

    agent: str
    owner: str
    mode: str
    results: list[Result] = []

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(result.passed for result in self.results)


@click.command("drill")
@click.argument("agent", required=False)
@click.option(
    "--kill-limit", type=SECONDS, default=60.0, show_default=True, metavar="SECONDS", help="for the kill switch"
)
@click.option("--auto-limit", type=SECONDS, default=1.0, show_default=True, metavar="S", help="for all automatic")
@click.option("--page", is_flag=True, help="tell the owners of the canary's alerts as of any other")
@click.option("--config", type=PATH, help="instead of /etc/hostbrake/sensor.yml")
@click.option("--control-socket", type=PATH, help="where the sensor listens, instead of the configured path")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
def drill(
    *,
    agent: str | None,
    kill_limit: float,
    auto_limit: float,
    page: bool,
    config: Path | None,
    control_socket: Path | None,
    as_json: bool,
) -> None:
    """Prove that what AGENT must not do is known and stopped, and how fast; without AGENT, for every agent in turn.

    A canary in a cgroup of its own, judged as if it were the agent, opens a reverse tunnel to an sshd on loopback, runs
    a program with a miner's name and arguments (it sleeps), opens a GPU's device number and connects where the agent
    must not, as far as its file forbids these; then the kill switch is used on it. No process of the agent is touched,
    and nobody is paged unless --page.

    Exits 1 if anything was missed, was not stopped, or took longer than its limit. In monitor mode nothing is stopped.
    """
    loaded = load_config(config, {})
    socket = control_socket or Path(loaded.control_socket)
    limits = (auto_limit, kill_limit)
    try:
        with orderly_interrupts(), _sensor(socket, loaded, config) as (own, where):
            if own and not as_json:
                click.echo("No sensor runs: the drill starts its own, and proves nothing of the service.", err=True)
            known = ask(where, "drill-agents")
            chosen = [each for each in known["agents"] if agent in (None, each["agent"])]
            if not chosen:
                names = ", ".join(each["agent"] for each in known["agents"]) or "none"
                _give_up(f"no agent {agent!r}; known: {names}" if agent else "there are no agents to drill", 2)
            drilled = [_drill(where, known, each, limits, page) for each in chosen]
    except (StageError, NodeError, ControlError) as error:
        _give_up(str(error), 1)
    except OSError as error:
        _give_up(f"{error.filename or 'the drill cannot be staged'}: {error.strerror}", 1)
    _tell(drilled, own, as_json)
    sys.exit(0 if all(each.passed for each in drilled) else 1)


def _give_up(why: str, code: int) -> None:
    click.echo(f"hostbrake: {why}", err=True)
    sys.exit(code)


@contextlib.contextmanager
def _sensor(socket: Path, config: Config, file: Path | None) -> Iterator[tuple[bool, Path]]:
    """Whether it is one of our own, and where it listens."""
    try:
        ask(socket, "drill-agents")
    except NoSensorError:
        pass
    else:
        yield False, socket
        return
    with contextlib.ExitStack() as stage:
        directory = Path(stage.enter_context(tempfile.TemporaryDirectory(prefix="hostbrake-drill")))
        cgroup = stage.enter_context(throwaway_cgroup(directory.name))
        kept = {"agents": config.agents, "state-dir": config.state_dir, "mode": config.mode}
        if config.alerts != "-":
            kept["alerts"] = config.alerts
        options = [f"--{name}={value}" for name, value in kept.items()]
        options += [f"--rules={rules}" for rules in config.rules]
        sensor = Sensor(directory, cgroup, *options, *([f"--config={file}"] if file else []))
        stage.callback(sensor.stop)
        sensor.wait_ready()
        yield True, sensor.socket


def _drill(
    socket: Path, known: dict[str, Any], agent: dict[str, Any], limits: tuple[float, float], page: bool
) -> Drilled:
    drilled = Drilled(agent["agent"], agent["owner"], known["mode"])
    with contextlib.ExitStack() as stage:
        directory = Path(stage.enter_context(tempfile.TemporaryDirectory(prefix=DRILL_CGROUP)))
        place = f"{known['scope'].rstrip('/')}/{directory.name}"
        cgroup = stage.enter_context(throwaway_cgroup(place.lstrip("/")))
        begun = ask(socket, "drill-begin", agent=agent["agent"], cgroup=place, page=page)
        try:
            _try_all(drilled, socket, begun["id"], agent, directory, cgroup, limits)
        except BaseException:
            drilled.results.append(_result("drill", limits[0], "broken off"))
            raise
        finally:
            results = [msgspec.to_builtins(result) for result in drilled.results]
            ask(socket, "drill-end", id=begun["id"], results=results)
    return drilled


def _try_all(  # noqa: PLR0917 (where, who and how)
    drilled: Drilled,
    socket: Path,
    number: str,
    agent: dict[str, Any],
    directory: Path,
    cgroup: Path,
    limits: tuple[float, float],
) -> None:
    for each in behaviours(directory, agent):
        here = cgroup / each.name.replace(" ", "-").lower()
        try:
            with each.stage() as command:
                seen = act(here, command, limits[0], partial(_alerts, socket, number, here))
            result = _judged(each.name, seen, limits[0], drilled.mode)
        except (StageError, OSError) as error:
            result = _result(each.name, limits[0], f"could not be staged: {error}")
        drilled.results.append(result)
    drilled.results.append(_switched(cgroup / "kill-switch", limits[1]))


def _alerts(socket: Path, number: str, cgroup: Path) -> list[dict[str, Any]]:
    path = "/" + str(cgroup.relative_to(cgroup2_mount()))
    return [alert for alert in ask(socket, "drill-alerts", id=number)["alerts"] if alert["cgroup"] == path]


def _judged(name: str, seen: Seen, limit_s: float, mode: str) -> Result:
    return _result(name, limit_s, _fault(seen, limit_s * 1000, mode), seen.known_ms, seen.stopped_ms)


def _fault(seen: Seen, limit_ms: float, mode: str) -> str | None:
    """What is wrong with it, in one sentence; None: nothing."""
    response = seen.response
    if seen.known_ms is None:
        return "missed: no alert came"
    if not response:
        return "not stopped: no rule asks for more than an alert"
    if mode == "monitor":
        return f"only known: monitor mode stops nothing ({response['action']} in enforce mode)"
    if seen.stopped_ms is None:
        why = f" ({response['reason']})" if response.get("reason") else ""
        return f"not stopped: {response['action']} {response['outcome']}{why}"
    slowest = max(seen.known_ms, seen.stopped_ms)
    return f"too late: {slowest:.0f} ms" if slowest > limit_ms else None


def _switched(cgroup: Path, limit_s: float) -> Result:
    try:
        seen = switch_off(cgroup, limit_s)
    except (StageError, OSError) as error:
        return _result("kill switch", limit_s, f"could not be staged: {error}")
    fault = None
    if seen.stopped_ms is None:
        fault = "the kill switch left something alive, or failed"
    elif seen.stopped_ms > limit_s * 1000:
        fault = f"too late: {seen.stopped_ms:.0f} ms"
    return _result("kill switch", limit_s, fault, stopped_ms=seen.stopped_ms)


def _result(
    name: str, limit_s: float, fault: str | None, known_ms: float | None = None, stopped_ms: float | None = None
) -> Result:
    return Result(
        behaviour=name,
        passed=fault is None,
        limit_ms=limit_s * 1000,
        known_ms=known_ms,
        stopped_ms=stopped_ms,
        error=fault,
    )


def _tell(drilled: list[Drilled], own: bool, as_json: bool) -> None:
    if as_json:
        said = [{**msgspec.to_builtins(each), "passed": each.passed} for each in drilled]
        sys.stdout.buffer.write(orjson.dumps({"own_sensor": own, "drills": said}) + b"\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for each in drilled:
        table = Table(box=None, pad_edge=False, title=f"{each.agent}, owner {each.owner}, {each.mode} mode")
        table.title_justify = "left"
        for heading in ("behaviour", "known after", "stopped after", "limit", ""):
            table.add_column(heading, justify="left" if heading in ("behaviour", "") else "right", overflow="fold")
        for result in each.results:
            verdict = Text("passed", "green") if result.passed else Text(f"FAILED: {result.error}", "bold red")
            times = (_ms(result.known_ms), _ms(result.stopped_ms), _ms(result.limit_ms))
            table.add_row(result.behaviour, *times, verdict)
        console.print(table)
        failed = [result.behaviour for result in each.results if not result.passed]
        if failed:
            console.print(Text(f"NOT PASSED: {', '.join(failed)}\n", "bold red"), soft_wrap=True)
        else:
            console.print(Text("passed\n", "bold green"))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"
