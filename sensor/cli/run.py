"""`hostbrake run`."""

from __future__ import annotations

import gc
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from sensor.kernel.core import Loading
from sensor.kernel.libbpf import BpfError

_PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is a fault like others


def _majors(_context: click.Context, _option: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(major) for major in value.split(",")]
    except ValueError:
        raise click.BadParameter("give numbers with commas between them, as 195,226") from None


@click.command("run")
@click.option("--config", "config_path", type=_PATH, metavar="FILE", help="instead of /etc/hostbrake/sensor.yml")
@click.option("--rules", type=_PATH, multiple=True, metavar="DIR", help="rules, instead of the configured; repeatable")
@click.option("--agents", type=_PATH, metavar="DIR", help="agents, instead of the configured")
@click.option("--alerts", metavar="FILE", help="append alerts to FILE; - is standard output")
@click.option(
    "--events", metavar="FILE", help="record every event in FILE, for `hostbrake replay`; - is standard output"
)
@click.option("--mode", type=click.Choice(["monitor", "enforce"]), help="enforce acts; monitor says what it would do")
@click.option("--backend", type=click.Choice(["auto", "core", "bcc"]), help="how the kernel programs are loaded")
@click.option(
    "--cgroup-root", type=_PATH, metavar="DIR", help="watch this cgroup v2 directory and all below it, no more"
)
@click.option("--state-dir", type=_PATH, metavar="DIR", help="where the sensor keeps its state")
@click.option("--control-socket", type=_PATH, metavar="PATH", help="where `hostbrake status` asks")
@click.option("--pin-dir", type=_PATH, metavar="DIR", help="where programs are pinned; nothing is, in this version")
@click.option("--no-pin", is_flag=True, help="pin nothing")
@click.option("--no-notify", is_flag=True, help="tell nobody, whatever agents' files and configuration say")
@click.option("--gpu-majors", callback=_majors, metavar="N,N", help="device majors that are GPUs, besides those known")
def run(config_path: Path | None, no_pin: bool, no_notify: bool, **given: Any) -> None:
    """Run the sensor in the foreground until SIGTERM or Ctrl-C; SIGHUP makes it read its files anew.

    What is given here wins over the configuration file. Logs go to standard error; `ready` there means that every
    program is attached. Exits 2 where configuration, agents or rules have a fault (every one is named), 1 where the
    node lacks something.
    """
    overrides = {name: value for name, value in given.items() if value not in (None, ())}
    if no_pin:
        overrides["pin_dir"] = None
    if no_notify:
        overrides["notify"] = None
    if "rules" in overrides:
        overrides["rules"] = list(overrides["rules"])
    gc.disable()  # until the sensor is ready: everything made until then stays
    _run(config_path, overrides, Loading())


def _run(config_path: Path | None, overrides: dict[str, Any], loading: Loading) -> None:
    # Imported only now, while the kernel verifies the programs: each takes about as long as the other.
    from sensor.control import ControlError
    from sensor.daemon import Daemon
    from sensor.node import NodeError
    from sensor.readiness import obstacle
    from sensor.record.audit.trail import AuditError
    from sensor.record.log import configure
    from sensor.startup import load_everything

    configure()
    load = partial(load_everything, config_path, overrides, cache_rules=True)
    loaded = load()
    config = loaded.config
    if config.backend == "bcc":
        _refuse("the bcc backend comes in a later version; use --backend core on a kernel with BTF")
    missing = obstacle(cgroup_root=Path(config.cgroup_root) if config.cgroup_root else None)
    if missing:
        _refuse(missing)
    try:
        daemon = Daemon(loaded, loading.programs(), load)
    except (AuditError, BpfError, ControlError, NodeError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or 'the sensor'}: {error.strerror}")
    daemon.run()


def _refuse(why: str) -> NoReturn:
    click.echo(f"hostbrake: {why}", err=True)
    sys.exit(1)
