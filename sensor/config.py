"""`/etc/hostbrake/sensor.yml` and the command line -> one checked `Config`."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from sensor.address import Address, Escalate, address_faults
from sensor.agents_file import DEFAULT_AGENTS_DIR, parse_destination
from sensor.duration import seconds
from sensor.faults import Fault, FaultsError
from sensor.structure import convert
from sensor.verdict import Level, Mode
from sensor.yamlfile import Document, read

DEFAULT_CONFIG = "/etc/hostbrake/sensor.yml"
LOCAL_RULES_DIR = "/etc/hostbrake/rules.d"
INSTALLED_RULES_DIR = "/usr/share/hostbrake/rules"


def _absolute(path: str) -> None:
    if not path.startswith("/"):
        raise ValueError(f"{path!r} must be an absolute path")
    if "\0" in path:
        raise ValueError(f"{path!r} holds a NUL, which no path can")


def _directory(path: str) -> None:
    _absolute(path)
    if not Path(path).is_dir():
        raise ValueError(f"{path!r} is no directory")


def _absolute_or_dash(path: str) -> None:
    if path != "-":
        _absolute(path)


def _positive(number: int) -> None:
    if number < 1:
        raise ValueError(f"must be at least 1, not {number}")


def _window(number: int) -> None:
    if not 0 <= number <= 86_400:
        raise ValueError(f"must be between 0 and 86400, not {number}")


def _days(number: int) -> None:
    if not 0 <= number <= 3650:
        raise ValueError(f"must be between 0 and 3650, not {number}")


def _network(text: str) -> None:
    if parse_destination(text).network is None:
        raise ValueError(f"{text!r}: what is cut off can be let go to networks and addresses, not to names")


def _address(text: str) -> None:
    ipaddress.ip_address(text)


def _major(number: int) -> None:
    if not 1 <= number < 1 << 12:  # include/linux/kdev_t.h: 12 bits of major
        raise ValueError(f"a device major is 1 to 4095, not {number}")


def _group_name(name: str) -> None:
    if not name.strip():
        raise ValueError("must name a group, or be left out")


def _protect_glob(glob: str) -> None:
    if not glob.strip("/ \t"):
        raise ValueError(f"{glob!r} names no cgroup or unit")


AbsolutePath = Annotated[str, _absolute]


def shipped_rules_dir() -> str:
    """The rules that ship: the checkout's where the sensor runs from one, else the installation's."""
    checkout = Path(__file__).resolve().parent.parent / "rules"
    beside_venv = Path(sys.prefix).parent.parent / "share/hostbrake/rules"  # PREFIX/lib/hostbrake is the venv
    return str(next((path for path in (checkout, beside_venv) if path.is_dir()), INSTALLED_RULES_DIR))


def default_rules() -> list[str]:
    """The shipped rules, and the site's own where that directory exists."""
    return [shipped_rules_dir(), *([LOCAL_RULES_DIR] if Path(LOCAL_RULES_DIR).is_dir() else [])]


class Notify(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told besides the agents' owners, and how often anybody is."""

    operators: list[Address] = []
    """Who is told of what belongs to no agent."""
    escalate: Escalate | None = None
    """Who is told where the operators do not acknowledge."""
    level: Level = "high"
    """Alerts below it notify nobody, unless something was done."""
    incident_s: Annotated[int, _positive] = 600
    """Alerts of a workload are one incident until none has come for so long."""
    repeat_s: Annotated[int, _positive] = 600
    """An incident that goes on is told again at most so often."""
    owner_per_hour: Annotated[int, _positive] = 20
    """Messages to each address of an owner."""
    total_per_hour: Annotated[int, _positive] = 120


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that `hostbrake run` can be told."""

    mode: Mode = "monitor"
    isolation_allow: list[Annotated[str, _network]] = []
    """Where what is cut off may still go, and nowhere else: see `sensor.agents_file.parse_destination`."""
    resolvers: list[Annotated[str, _address]] | None = None
    """DNS servers whose answers say where a host is that an agent may reach by name; None: /etc/resolv.conf's."""
    rules: list[Annotated[str, _directory]] = msgspec.field(default_factory=default_rules)
    agents: AbsolutePath = DEFAULT_AGENTS_DIR
    alerts: Annotated[str, _absolute_or_dash] = "/var/log/hostbrake/alerts.jsonl"
    """A file that alerts are appended to, or "-" for standard output."""
    events: Annotated[str, _absolute_or_dash] | None = None
    """Where to record every event; None: nowhere."""
    backend: Literal["auto", "core", "bcc"] = "auto"
    cgroup_root: Annotated[str, _directory] | None = None
    """The cgroup v2 directory whose subtree is watched; None: where cgroup v2 is mounted."""
    state_dir: AbsolutePath = "/var/lib/hostbrake"
    control_socket: AbsolutePath = "/run/hostbrake/control.sock"
    operators: Annotated[str, _group_name] | None = None
    """The group whose members may ask the sensor and answer for agents, besides root; None: root alone."""
    pin_dir: AbsolutePath | None = "/sys/fs/bpf/hostbrake"
    """Where programs and maps are pinned; None: nowhere. Not used yet: a run behaves as with None."""
    gpu_majors: list[Annotated[int, _major]] = []
    """Device majors that count as GPUs, besides those that the sensor knows or finds in /proc/devices."""
    protect: list[Annotated[str, _protect_glob]] = []
    """Globs of cgroup paths or unit names that are never killed as a whole, besides the built-in list."""
    kills_per_minute: Annotated[int, _positive] = 30
    """Past this many automatic kills in a minute the sensor freezes instead."""
    drill_every_days: Annotated[int, _days] = 35
    """An agent whose last passed drill is longer ago is an alert, once a day; 0: never."""
    approve_within: Annotated[str, seconds] = "15m"
    """How long a frozen workload waits for an answer, after which it is denied; an agent's file may say otherwise."""
    alert_window_s: Annotated[int, _window] = 60
    """For so many seconds after an alert equal ones are counted, and then written as one; 0: each is written."""
    notify: Notify | None = Notify()
    """None: nobody is told anything."""


_PATHS = ("alerts", "events", "agents", "cgroup_root", "state_dir", "control_socket", "pin_dir")


def load_config(path: str | Path | None, overrides: Mapping[str, Any]) -> Config:
    """The configuration of `path` (None: the default file, which may be missing), then `overrides`.

    `overrides` holds the fields that the command line gave, None included; a relative path there counts from
    the working directory. Raises FaultsError with every fault of the file and of the overrides.
    """
    faults: list[Fault] = []
    config: Config | None = Config()
    if path is not None or Path(DEFAULT_CONFIG).exists():
        config = _from_file(str(path or DEFAULT_CONFIG), faults)
    given = convert(Document(_plain(overrides), {(): 0}), Config, "command line", faults)
    if config is None or given is None or faults:
        raise FaultsError(faults)
    return msgspec.structs.replace(config, **{name: getattr(given, name) for name in overrides})


def usable_config(path: str | Path | None, overrides: Mapping[str, Any]) -> Config:
    """What can be used of a configuration that `load_config` refuses: each faulty field has its default."""
    given: dict[str, Any] = {}
    documents, _ = read(path or DEFAULT_CONFIG)
    data = documents[0].data if documents else None
    for source in (data if isinstance(data, dict) else {}, _plain(overrides)):
        for name, value in source.items():
            alone = convert(Document({name: value}, {}), Config, "", [])
            if alone is not None:
                given[name] = getattr(alone, name)
    return Config(**given)


def _from_file(path: str, faults: list[Fault]) -> Config | None:
    documents, found = read(path)
    faults += found
    if len(documents) > 1:
        faults.append(Fault(path, 0, f"holds {len(documents)} documents; the configuration is one"))
        return None
    document = documents[0] if documents else Document({}, {})
    if document.data is None:  # only comments
        document.data = {}
    config = convert(document, Config, path, faults)
    if config is not None and config.notify is not None:
        faults += address_faults(_addresses(config.notify), document, path)
    return config


def _addresses(notify: Notify) -> list[tuple[tuple[str, ...], list[str]]]:
    found: list[tuple[tuple[str, ...], list[str]]] = [(("notify", "operators"), notify.operators)]
    if notify.escalate is not None:
        found.append((("notify", "escalate", "notify"), notify.escalate.notify))
    return found


def _plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(overrides)
    for name in _PATHS:
        if isinstance(plain.get(name), str | Path) and str(plain[name]) != "-":
            plain[name] = str(Path(plain[name]).absolute())
    if plain.get("rules") is not None:
        plain["rules"] = [str(Path(rules).absolute()) for rules in plain["rules"]]
    return plain
