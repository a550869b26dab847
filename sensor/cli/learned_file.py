"""A profile -> the text of an agents file. What a person has stated stays as it is; what was seen is added.

Names and paths in a profile are a workload's choice: each is written as a quoted scalar, in comments too, so that
none can end a line and become a statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import yaml

from sensor.address import Escalate
from sensor.agents_file import AgentFile, parse_destination
from sensor.events import rfc3339
from sensor.match.profile import DAY, LEARN_DAYS, LEARN_EVENTS, LEARN_HOURS, Profile, Seen


def render(profile: Profile, declared: AgentFile) -> str:
    """The file; `sensor.agents_file.load_agents` takes it as it is."""
    lines = [
        *_head(profile),
        f"agent: {quoted(declared.agent)}",
        f"purpose: {quoted(declared.purpose)}",
        "owner:",
        f"  name: {quoted(declared.owner.name)}",
        *_list("  notify", declared.owner.notify),
        *_escalate(declared.owner.escalate),
        "match:",
        *(f"  - {match.form}: {quoted(match.pattern)}" for match in declared.match),
        *_gpu(profile.gpu, declared),
        *_egress(profile, declared),
        *_exec(profile, declared),
        *_list("approve", declared.approve),
    ]
    if declared.approve_within is not None:
        lines.append(f"approve_within: {declared.approve_within}")
    if declared.response is not None:
        lines += ["response:", f"  action: {declared.response.action}"]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A YAML scalar on one line, printable ASCII alone."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=False, width=1 << 30).rstrip("\n")


def _escalate(escalate: Escalate | None) -> Iterator[str]:
    if escalate is not None:
        yield "  escalate:"
        yield f"    after: {quoted(escalate.after)}"
        yield from _list("    notify", escalate.notify)


def _head(profile: Profile) -> Iterator[str]:
    yield "# What this agent was seen to do, by `hostbrake learn`."
    span = f"{_when(profile.began)} to {_when(profile.last)}, {profile.events} events"
    if profile.learned:
        yield f"# Learned: {span}."
    else:
        days = max(0, profile.last - profile.began) / DAY
        yield f"# NOT LEARNED YET: {span}, {days:.1f} days, {len(profile.volume.hours)} hours with anything in them."
        yield f"# It takes {LEARN_DAYS} days, {LEARN_EVENTS} events and {LEARN_HOURS} such hours: much may be missing."
    yield "# Read every line, take out what should not be there, then write `default: deny` below."
    yield "# What came only after the profile was learned has a # before it: take that away where it is meant."
    hours = profile.volume.hours
    for series in ("external", "internal") if hours else ():
        sizes = sorted(getattr(hour, f"{series}_out") for hour in hours)
        middle, largest = (_size(size) for size in (sizes[len(sizes) // 2], sizes[-1]))
        yield f"# Out to {series} destinations in an hour: {middle} in the median hour, {largest} at most."
    if profile.destinations.refused or profile.programs.refused:
        yield "# There were more destinations or programs than a profile holds: this list is not all of them."
    yield ""


def _gpu(seen: Seen | None, declared: AgentFile) -> Iterator[str]:
    note = f"  # opened {_seen(seen)}" if seen else "  # was never seen to open one"
    if declared.gpu is not None:
        yield f"gpu: {{allow: {'true' if declared.gpu.allow else 'false'}}}{note}"
    elif seen and not seen.late:
        yield f"gpu: {{allow: true}}{note}"
    else:
        yield f"# gpu: {{allow: {'true' if seen else 'false'}}}{note}"


def _egress(profile: Profile, declared: AgentFile) -> Iterator[str]:
    stated = declared.egress.allow if declared.egress else []
    yield "egress:"
    yield f"  default: {declared.egress.default if declared.egress else 'allow'}"
    found = dict(_ranked(profile.destinations.seen))
    allowed = [f"    - {quoted(key)}  # stated before{_maybe(found.get(key))}" for key in stated]
    for key, seen in found.items():
        if key not in stated:
            usable = not seen.late and _is_destination(key)
            allowed.append(f"    {'' if usable else '# '}- {quoted(key)}  # {_seen(seen)}")
    has_entries = any(not line.lstrip().startswith("#") for line in allowed)
    yield "  allow:" if has_entries else "  allow: []"
    yield from allowed


def _exec(profile: Profile, declared: AgentFile) -> Iterator[str]:
    """Programs seen are comments: a list of programs allowed means that no other one is."""
    stated = declared.exec
    if stated is not None and not stated.deny and not stated.allow:
        stated = None
    seen = _ranked(profile.programs.seen)
    if stated is not None:
        yield "exec:"
        yield from _list("  deny", stated.deny)
        yield from _list("  allow", stated.allow)
    if not seen:
        return
    if stated is None:
        yield "# To allow these programs and no others, take the # from here on away."
        yield "# exec:"
    if stated is None or not stated.allow:
        yield "#   allow:"
    for image, found in seen:
        if stated is None or image not in stated.allow:
            late = "; first seen after the profile was learned" if found.late else ""
            glob = "; its wildcards would stand for others, too" if any(c in image for c in "*?[") else ""
            yield f"#     - {quoted(image)}  # {_seen(found, late=False)}{late}{glob}"


def _list(name: str, items: Iterable[str]) -> Iterator[str]:
    indent = " " * (len(name) - len(name.lstrip()) + 2)
    for number, item in enumerate(items):
        if number == 0:
            yield f"{name}:"
        yield f"{indent}- {quoted(item)}"


def _ranked(seen: dict[str, Seen]) -> list[tuple[str, Seen]]:
    return sorted(seen.items(), key=lambda item: (item[1].late, -item[1].times, item[0]))


def _is_destination(key: str) -> bool:
    try:
        parse_destination(key)
    except ValueError:
        return False
    return True


def _maybe(seen: Seen | None) -> str:
    return f"; {_seen(seen)}" if seen else ", not seen"


def _seen(seen: Seen, late: bool = True) -> str:
    times = "once" if seen.times == 1 else f"{seen.times} times"
    size = f", {_size(seen.bytes_out)} out, {_size(seen.bytes_in)} in" if seen.host else ""
    first = f", first seen late: {_when(seen.first)}" if late and seen.late else ""
    return f"{times}, last {_when(seen.last)}{size}{first}"


def _when(time_ns: int) -> str:
    return rfc3339(time_ns)[:16].replace("T", " ") + " UTC"


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
