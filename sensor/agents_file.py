"""`agents.d/*.yml`: who runs here, who owns it, what it may do. Files -> checked structs; no behaviour."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from sensor.address import Address, Escalate, address_faults
from sensor.agents_clash import Claim, find_clashes
from sensor.duration import seconds
from sensor.faults import Fault, FaultsError
from sensor.structure import convert, near
from sensor.verdict import Action
from sensor.yamlfile import Document, read

DEFAULT_AGENTS_DIR = "/etc/hostbrake/agents.d"
DRILLED = "~"
"""Stands in the name of an agent's double in a drill, and in no other name."""

_AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)


class Destination(msgspec.Struct, frozen=True):
    """One entry of `egress.allow`: a network or a host name ("*.x": all names below x), and maybe a port."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    host: str | None = None
    port: int | None = None


def parse_destination(text: str) -> Destination:
    """`cidr`, `cidr:port`, `host` or `host:port`; IPv6 with a port as `[2001:db8::/32]:443`.

    Raises ValueError with what is wrong.
    """
    if text.startswith("["):
        name, closed, port = text[1:].partition("]")
        if not closed or (port and not port[1:]) or port[:1] not in ("", ":"):
            raise ValueError(f"{text!r}: brackets are for an IPv6 address or prefix, as in [2001:db8::/32]:443")
        port = port[1:]
    elif text.count(":") > 1:
        name, port = text, ""
    else:
        name, colon, port = text.partition(":")
        if colon and not port:
            raise ValueError(f"{text!r}: nothing after the colon")
    number = _port(text, port) if port else None
    if "/" in name or ":" in name or re.fullmatch(r"[0-9.]+", name):
        try:
            return Destination(network=ipaddress.ip_network(name), port=number)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    if len(name) > 253 or not _HOST_NAME.fullmatch(name):
        raise ValueError(f"{text!r} is no CIDR prefix, address or host name")
    return Destination(host=name.rstrip(".").lower(), port=number)


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535, not {port!r}")
    return int(port)


def _not_blank(text: str) -> None:
    if not text.strip():
        raise ValueError("must not be empty")


def _not_empty(items: list[object]) -> None:
    if not items:
        raise ValueError("needs at least one entry")


def _agent_name(text: str) -> None:
    if not _AGENT_NAME.fullmatch(text):
        raise ValueError(f"{text!r}: a name is lower-case letters, digits, '.', '_' and '-', first a letter or digit")


def _cgroup_glob(glob: str) -> None:
    if not glob.startswith("/"):
        raise ValueError(f"{glob!r} must start with /: it is matched from the root of cgroup v2")
    if any(part in ("", ".", "..") for part in glob[1:].split("/")):
        raise ValueError(f"{glob!r} has an empty, '.' or '..' part; a cgroup path has none")


def _container_id(text: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{12,64}", text):
        raise ValueError(f"{text!r} is no container id: 12 to 64 digits, 0-9 and a-f")


def _label(text: str) -> None:
    if not text.partition("=")[0].strip():
        raise ValueError(f"{text!r} names no label, as in agent=rome or agent")


def _one_form(match: Match) -> None:
    given = [name for name in MATCH_FORMS if getattr(match, name) is not None]
    if len(given) != 1:
        raise ValueError(f"each entry says one thing, this one says {len(given)}: {', '.join(given) or 'nothing'}")


def _another_one(owner: Owner) -> None:
    if owner.escalate is not None and set(owner.escalate.notify) & set(owner.notify):
        raise ValueError("escalate.notify: names an address of the owner, who did not answer there")


Text = Annotated[str, _not_blank]


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to recognise the agent's workloads; exactly one field is set."""

    cgroup: Annotated[str, _cgroup_glob] | None = None
    """A glob over cgroup v2 paths from the root; `**` crosses slashes."""
    systemd: Text | None = None
    """A glob over the names of units of the system's manager."""
    slurm_user: Text | None = None
    slurm_account: Text | None = None
    slurm_job_name: Text | None = None
    container_id: Annotated[str, _container_id] | None = None
    """The whole id, or at least its first 12 digits."""
    container_name: Text | None = None
    container_image: Text | None = None
    """As the runtime was told, with or without docker.io/library/ and :latest."""
    container_label: Annotated[str, _label] | None = None
    """`key=value`, or `key` for any value."""
    user: Text | None = None
    """By name or number."""

    @property
    def form(self) -> str:
        """The name of the field that is set."""
        return next(name for name in MATCH_FORMS if getattr(self, name) is not None)

    @property
    def pattern(self) -> str:
        """Its value."""
        return str(getattr(self, self.form))


MATCH_FORMS: tuple[str, ...] = Match.__struct_fields__


class Owner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one person or team that answers for the agent."""

    name: Text
    notify: Annotated[list[Address], _not_empty]
    """Where to reach them; see `sensor.address`."""
    escalate: Escalate | None = None


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    allow: bool


class Egress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default: Literal["allow", "deny"]
    allow: list[Annotated[str, parse_destination]] = []
    """See `parse_destination`."""


class Exec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Globs over the paths of programs."""

    deny: list[Text] = []
    allow: list[Text] = []


class Response(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    action: Action


class AgentFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One agent, as its file says; a limit that the file does not name is None: no limit is stated."""

    agent: Annotated[str, _agent_name]
    purpose: Text
    owner: Annotated[Owner, _another_one]
    match: Annotated[list[Annotated[Match, _one_form]], _not_empty]
    gpu: Gpu | None = None
    egress: Egress | None = None
    exec: Exec | None = None
    approve: list[Text] = []
    """Kinds of rules (`RuleInfo.kinds`) of which a match freezes the workload and asks."""
    approve_within: Annotated[str, seconds] | None = None
    """How long to wait for the answer; None: what the configuration says."""
    response: Response | None = None
    """What to do where this agent breaks its limits; None: what the rule says."""


def load_agents(directory: str | Path = DEFAULT_AGENTS_DIR, kinds: Collection[str] | None = None) -> list[AgentFile]:
    """Every agent of `directory`/*.yml and *.yaml, in the order of their file names.

    The default directory may be missing. `kinds`: what `approve` may name; None: anything. Raises FaultsError with
    every fault of every file, and wherever two agents would claim the same workload with equal right.
    """
    sources, faults = _read(directory, kinds)
    faults += find_clashes(_claims(sources))
    if faults:
        raise FaultsError(faults)
    return [source.agent for source in sources]


def read_agents(directory: str | Path, kinds: Collection[str] | None = None) -> tuple[list[AgentFile], list[Fault]]:
    """As `load_agents`, but gives those agents, too, whose own files are in order where others are not."""
    sources, faults = _read(directory, kinds)
    return [source.agent for source in sources], faults


class _Source(NamedTuple):
    agent: AgentFile
    path: str
    document: Document


def _read(directory: str | Path, kinds: Collection[str] | None) -> tuple[list[_Source], list[Fault]]:
    root = Path(directory)
    if not root.is_dir():
        if str(root) == DEFAULT_AGENTS_DIR and not root.exists():
            return [], []
        return [], [Fault(str(root), 0, "is no directory")]
    faults: list[Fault] = []
    sources: list[_Source] = []
    names: dict[str, list[tuple[str, int]]] = {}
    for file in sorted(p for p in root.iterdir() if p.suffix in (".yml", ".yaml") and p.name[0] != "."):
        document = _only_document(str(file), faults)
        if document is None:
            continue
        agent = convert(document, AgentFile, str(file), faults)
        if agent is not None:
            sources.append(_Source(agent, str(file), document))
            faults += _unknown_kinds(agent, document, str(file), kinds)
            faults += address_faults(_addresses(agent.owner), document, str(file))
        if isinstance(document.data, dict) and isinstance(document.data.get("agent"), str):
            names.setdefault(document.data["agent"], []).append((str(file), document.line_of(("agent",))))
    return sources, faults + _duplicates(names)


def _claims(sources: list[_Source]) -> Iterator[Claim]:
    for agent, path, document in sources:
        for place, match in enumerate(agent.match):
            yield Claim(agent.agent, match.form, match.pattern, path, document.line_of(("match", place)))


def _unknown_kinds(agent: AgentFile, document: Document, path: str, kinds: Collection[str] | None) -> Iterator[Fault]:
    for place, kind in enumerate(agent.approve if kinds is not None else ()):
        if kind not in (kinds or ()):
            says = f"approve[{place}]: no rule is of kind {kind!r}{near(kind, sorted(kinds or ()))}"
            yield Fault(path, document.line_of(("approve", place)), says)


def _addresses(owner: Owner) -> list[tuple[tuple[str, ...], list[str]]]:
    found: list[tuple[tuple[str, ...], list[str]]] = [(("owner", "notify"), owner.notify)]
    if owner.escalate is not None:
        found.append((("owner", "escalate", "notify"), owner.escalate.notify))
    return found


def _only_document(path: str, faults: list[Fault]) -> Document | None:
    documents, found = read(path)
    faults += found
    if len(documents) == 1:
        return documents[0]
    if not found:
        what = f"holds {len(documents)} documents; one agent a file" if documents else "is empty"
        faults.append(Fault(path, 0, what))
    return None


def _duplicates(names: dict[str, list[tuple[str, int]]]) -> list[Fault]:
    faults = []
    for name, places in names.items():
        for path, line in places if len(places) > 1 else []:
            others = ", ".join(f"{other}:{at}" for other, at in places if other != path)
            faults.append(Fault(path, line, f"agent {name!r} is also defined in {others}"))
    return faults
