"""`hostbrake demo`: the incident of March 2026 in small, against a live sensor in enforce mode."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console
from rich.text import Text

from sensor.cli.staging import (
    PATIENCE_S,
    Sensor,
    Sshd,
    StageError,
    orderly_interrupts,
    pause,
    start_in,
    throwaway_cgroup,
)
from sensor.config import shipped_rules_dir
from sensor.node import NodeError
from sensor.readiness import obstacle

AGENT = """\
agent: rome-demo
purpose: reinforcement learning on terminal tasks
owner: {{name: Ada Example, notify: ["mailto://ada@example.org"]}}
match: [{{cgroup: "/{cgroup}/**"}}]
gpu: {{allow: false}}
"""
NVIDIA_MAJOR = 195  # Documentation/admin-guide/devices.txt


class Act(msgspec.Struct, frozen=True):
    """One thing that the agent does and must not."""

    title: str
    says: str
    stage: Callable[[], list[str | Path]]
    """Prepares the deed and gives the command that does it."""


@click.command("demo")
def demo() -> None:
    """Stage the incident against a live sensor that enforces, and show how fast it is stopped.

    A reverse SSH tunnel, a miner (it only sleeps) and a GPU device open, in throwaway cgroups and on loopback only.
    Cleans up after itself. Exits 1 if any of the three was missed. Needs root.
    """
    console = Console(highlight=False)
    try:
        missing = obstacle()
        if missing:
            raise StageError(missing)
        with orderly_interrupts():
            missed = _play(console, shipped_rules_dir(), PATIENCE_S)
    except (StageError, NodeError) as error:
        _give_up(str(error))
    except OSError as error:
        _give_up(f"{error.filename or 'the stage cannot be set'}: {error.strerror}")
    sys.exit(1 if missed else 0)


def _give_up(why: str) -> NoReturn:
    click.echo(f"hostbrake: {why}", err=True)
    sys.exit(1)


def _play(console: Console, rules: str, patience_s: float) -> int:
    """How many of the acts were missed by a sensor with these rules, each within `patience_s`."""
    name = f"hostbrake-demo-{os.getpid()}"
    with contextlib.ExitStack() as stage:
        directory = Path(stage.enter_context(tempfile.TemporaryDirectory(prefix=name)))
        cgroup = stage.enter_context(throwaway_cgroup(name))
        sshd = Sshd(directory)
        stage.callback(sshd.stop)
        agents = directory / "agents.d"
        agents.mkdir()
        (agents / "rome.yml").write_text(AGENT.format(cgroup=name))
        began = time.monotonic()
        sensor = Sensor(directory, cgroup, "--mode", "enforce", "--rules", rules)
        stage.callback(sensor.stop)
        status = sensor.wait_ready()
        ready_ms = (time.monotonic() - began) * 1000
        loaded = sum(status["rules"].values())
        console.print(
            f"A sensor in enforce mode watches {cgroup}: {loaded} rules, ready in {ready_ms:.0f} ms.\n", soft_wrap=True
        )
        node = Path("/dev") / f"{name}-notes.txt"
        stage.callback(node.unlink, missing_ok=True)
        acts = _acts(directory, sshd, node)
        missed = [act.title for act in acts if not _perform(console, sensor, cgroup, act, patience_s)]
    console.print("Cleaned up: cgroups, processes and files of the demo are gone.")
    if missed:
        console.print(Text(f"MISSED: {', '.join(missed)}", "bold red"))
    return len(missed)


def _acts(directory: Path, sshd: Sshd, node: Path) -> list[Act]:
    def tunnel() -> list[str | Path]:
        return sshd.client("-N", "-R", f"0:127.0.0.1:{sshd.port}")

    def miner() -> list[str | Path]:
        program = directory / "xmrig"
        shutil.copy(os.path.realpath("/bin/sh"), program)
        return [program, "-c", "sleep 300; :", "xmrig", "-o", "stratum+tcp://127.0.0.1:3333", "-u", "wallet", "-k"]

    def gpu() -> list[str | Path]:
        os.mknod(node, 0o20600, os.makedev(NVIDIA_MAJOR, 0))
        return ["/bin/cat", node]

    return [
        Act("reverse tunnel", "the agent opens a reverse SSH tunnel out", tunnel),
        Act("miner", "it starts a miner on the training node", miner),
        Act("GPU open", f"it opens a GPU it was not given, through {node}", gpu),
    ]


def _perform(console: Console, sensor: Sensor, parent: Path, act: Act, patience_s: float) -> bool:
    """Stage one act among three innocent workers; True if the sensor killed them all in time."""
    cgroup = parent / act.title.replace(" ", "-").lower()
    cgroup.mkdir()
    console.print(Text.assemble((f"{act.title}: ", "bold"), act.says), soft_wrap=True)
    command = act.stage()
    console.print(Text("  $ " + " ".join(map(str, command)), "dim"), soft_wrap=True)
    workers = [start_in(cgroup, ["/bin/sleep", "300"]) for _ in range(3)]
    until = time.monotonic() + PATIENCE_S
    while _count(cgroup) < len(workers) and time.monotonic() < until:
        pause()
    deed = start_in(cgroup, command)
    alert = sensor.wait_alert(cgroup, patience_s)
    stopped = alert is not None and alert["response"]["outcome"] == "done" and not _count(cgroup)
    if stopped:
        for process in (*workers, deed):
            process.wait(PATIENCE_S)
    _tell(console, alert, stopped)
    return stopped


def _count(cgroup: Path) -> int:
    return len((cgroup / "cgroup.procs").read_text().split())


def _tell(console: Console, alert: dict[str, Any] | None, stopped: bool) -> None:
    if alert is None:
        console.print(Text("  no alert came\n", "bold red"))
        return
    response, rule = alert["response"], alert["rule"]
    console.print(Text.assemble("  ", (f"{rule['level'].upper()} ", "bold red"), rule["name"]), soft_wrap=True)
    console.print(Text(f"  {alert['event']['reason']}", "dim"), soft_wrap=True)
    workload = alert.get("workload", {})
    if workload:
        console.print(f"  agent {workload.get('agent')}, owner {workload.get('owner')}")
    if stopped:
        said = f"  killed: {response['processes']} processes, "
        timing = f"known after {response['detect_ms']:.1f} ms, verified dead after {response['respond_ms']:.1f} ms\n"
        console.print(Text(said + timing, "bold green"))
    else:
        why = response.get("reason", "")
        console.print(Text(f"  NOT stopped: {response['action']} {response['outcome']} {why}\n", "bold red"))
