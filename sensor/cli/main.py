"""The command line's top: names, and what happens to errors that a person can mend."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module

if sys.argv[1:2] == ["kill"]:
    with contextlib.suppress(OSError):  # not root
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # before the imports: a fork bomb leaves little time for them

import click

from sensor import __version__
from sensor.faults import FaultsError

COMMANDS = {
    "run": "run the sensor",
    "check": "is this node ready, and are configuration, agents and rules valid?",
    "rules": "list, validate and test rules; show what they cover",
    "replay": "run recorded events through the rules; needs no root",
    "status": "what the running sensor sees, drops and enforces",
    "ack": "acknowledge an incident, or list them",
    "notify": "send an agent's owner a test message",
    "agents": "who owns what on this node",
    "reload": "make the running sensor read agents, rules and configuration anew",
    "learn": "what an agent was seen to do, as an agents file",
    "kill": "stop an agent or a cgroup now; exits 0 only when nothing is left alive",
    "release": "undo `kill --hold` and `isolate`",
    "freeze": "stop an agent or a cgroup where it is; nothing of it runs until it is thawed",
    "thaw": "let what was frozen go on",
    "isolate": "cut an agent or a cgroup off from the network and from GPUs",
    "pending": "what was frozen and waits for an answer, and what it wanted to do",
    "approve": "let a frozen workload go on",
    "deny": "kill a frozen workload",
    "audit": "verify, show and export the record of what the sensor saw and did",
    "drill": "prove on a canary that detection and the kill switch work, and how fast",
    "report": "how long until we knew, and until it was stopped: by agent, owner and rule; drills, incidents",
    "demo": "the incident, staged in throwaway cgroups against a live sensor",
}
"""Command -> its line in --help. `sensor.cli.NAME` holds it, and is imported only when it is called: `kill` has to
start fast, and with the rest broken."""


class Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"sensor.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command '{args[0]}'." + "".join(f" Did you mean {name}?" for name in close))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hostbrake")
def cli() -> None:
    """Brakes for AI agents on GPU nodes: see what a workload does, stop it, and prove it.

    New here? `hostbrake check` says whether this node is ready, `hostbrake demo` shows what the sensor does.

    Exit codes: 0 done, 1 the answer is no, 2 bad usage or configuration.
    """


def main() -> None:
    try:
        cli.main(prog_name="hostbrake")
    except FaultsError as error:
        for fault in error.faults:
            click.echo(str(fault), err=True)
        sys.exit(2)
