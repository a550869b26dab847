"""The learned profiles of all agents: fed with every event, asked for departures, kept in the state directory.

`sensor.match.profile` says what is counted and how it is judged. An event without an agent belongs to no profile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import structlog

from sensor.agents_file import DRILLED
from sensor.events import AnyEvent, DeviceOpen, FlowEvent, NetworkConnection, NetworkFlow, ProcessCreation
from sensor.match import profile_store as store
from sensor.match.profile import FLOOR, HOUR, Profile, Seen, destination_key
from sensor.verdict import RuleInfo, Verdict

log = structlog.get_logger()

DESTINATION_RULE = RuleInfo(
    id="3d1c64e0-8a3e-4b0c-9a57-2c8f1e6a4b11",
    title="Destination that this agent was never seen to use",
    level="low",
)
PROGRAM_RULE = RuleInfo(
    id="75a7d5c8-2f4d-4a06-8f0a-6d4b9f5f2e32",
    title="Program that this agent was never seen to run",
    level="low",
)
VOLUME_RULE = RuleInfo(
    id="e2b8f6a4-1d7c-4f59-b3a6-90c5d2e7f843",
    title="More bytes out in an hour than this agent is used to send",
    level="medium",
    techniques=("T1048",),
)

AGENTS_LIMIT = 256
SAVE_S = 60.0
_PORTED = {"tcp", "udp", "mptcp", "sctp", "dccp", "udplite"}
_SERIES = {"external": "external", "metadata": "external", "private": "internal"}
_IMAGE_LENGTH = 1024


class Profiles:
    """`match` gives departures and never raises; only `save`, and an agent's first event, touch the disk."""

    def __init__(self, directory: Path | None = None, keeps: bool = True) -> None:
        """`directory`: where profiles are kept; None: nowhere. Without `keeps` they are only read there."""
        self._directory = directory
        self._keeps = keeps
        self._profiles: dict[str, Profile] = {}
        self._refused: set[str] = set()
        self._changed: set[str] = set()
        self._queue: list[str] = []
        self._losses: Counter[str] = Counter()
        self._due = time.monotonic() + SAVE_S

    def match(self, event: AnyEvent) -> Sequence[Verdict]:
        """Learn from the event; the departures that it is."""
        if event.agent is None or DRILLED in event.agent:
            return ()
        profile = self._profiles.get(event.agent) or self._open(event.agent, event.time)
        if profile is None:
            return ()
        self._changed.add(event.agent)
        profile.tick(event.time)
        if isinstance(event, ProcessCreation):
            return _program(profile, event)
        if isinstance(event, NetworkConnection):
            return _connection(profile, event)
        if isinstance(event, NetworkFlow):
            return _flow(profile, event)
        if isinstance(event, DeviceOpen) and not event.denied:
            _gpu(profile, event)
        return ()

    def save(self, at_once: bool = False) -> None:
        """Write one of the profiles that changed, each about once in `SAVE_S`; `at_once`: all of them."""
        if self._directory is None or not self._keeps:
            return
        if not self._queue and (at_once or time.monotonic() >= self._due):
            self._queue = sorted(self._changed)
            self._changed.clear()
            self._due = time.monotonic() + SAVE_S
        while self._queue:
            self._write(self._queue.pop())
            if not at_once:
                return

    def losses(self) -> dict[str, int]:
        """Profiles that could not be read, written or kept at all."""
        return dict(self._losses)

    def summary(self) -> dict[str, int]:
        """For `status`: profiles, those learned, and what was new but not told or not kept (see `Facet`)."""
        facets = [facet for p in self._profiles.values() for facet in (p.destinations, p.programs)]
        return {
            "agents": len(self._profiles),
            "learned": sum(bool(profile.learned) for profile in self._profiles.values()),
            "unjudged": sum(facet.unjudged for facet in facets),
            "refused": sum(facet.refused for facet in facets),
        }

    def _open(self, agent: str, now: int) -> Profile | None:
        if len(self._profiles) >= AGENTS_LIMIT:
            if agent not in self._refused and len(self._refused) < AGENTS_LIMIT:
                self._refused.add(agent)
                self._losses["agents_refused"] += 1
            return None
        profile = self._read(agent) or Profile(agent=agent, began=now)
        self._profiles[agent] = profile
        return profile

    def _read(self, agent: str) -> Profile | None:
        path = store.path_of(self._directory, agent) if self._directory else None
        if path is None:
            return None
        try:
            return store.read(path, agent)
        except (store.DamagedError, OSError) as error:
            self._losses["damaged"] += 1
            log.error("profile cannot be used; it is learned anew", path=str(path), why=str(error))
        if self._keeps:
            try:
                store.set_aside(path)
            except OSError as error:
                log.error("damaged profile cannot be set aside", path=str(path), why=error.strerror)
        return None

    def _write(self, agent: str) -> None:
        path = store.path_of(self._directory, agent) if self._directory else None
        if path is None:
            return
        try:
            store.write(path, self._profiles[agent])
        except OSError as error:
            self._losses["unwritten"] += 1
            log.error("profile cannot be written", path=str(path), why=error.strerror)


def _program(profile: Profile, event: ProcessCreation) -> Sequence[Verdict]:
    if event.image is None:
        return ()
    image = event.image[:_IMAGE_LENGTH]
    facet = profile.programs
    is_departure = image not in facet.seen and facet.is_departure(image, event.time, bool(profile.learned))
    profile.learn_program(image, event.time)
    if not is_departure:
        return ()
    return (Verdict(rule=PROGRAM_RULE, event=event, detail=_known(profile, event.time, len(facet.seen) - 1)),)


def _connection(profile: Profile, event: NetworkConnection) -> Sequence[Verdict]:
    if event.denied or (end := _end(profile, event, event.destination_hostname)) is None:
        return ()
    verdicts = _departure(profile, event, *end)
    if event.protocol == "udp":  # whether it was answered nobody says
        profile.learn_destination(*end, event.time, 1 + (event.repeats or 0))
    return verdicts


def _flow(profile: Profile, event: NetworkFlow) -> Sequence[Verdict]:
    # By the name that the connection had: the flow's own may have passed its time to live since.
    if event.refused or (end := _end(profile, event, None)) is None:
        return ()
    bytes_out, bytes_in = event.bytes_out or 0, event.bytes_in or 0
    key = destination_key(*end)
    # A flow that somebody else opened looks alike, so only what was seen to be connected to is a destination.
    if profile.find_destination(*end) is not None or key in profile.destinations.told:
        found = profile.learn_destination(*end, event.time, 0 if event.protocol == "udp" else event.flows or 0)
        if found is not None:
            profile.destinations.told.pop(key, None)
            found.times = max(found.times, 1)
            found.bytes_out += bytes_out
            found.bytes_in += bytes_in
    return _volume(profile, event, bytes_out, bytes_in)


def _end(profile: Profile, event: FlowEvent, name: str | None) -> tuple[str, int] | None:
    """The destination, where it is one that profiles hold."""
    address, port = event.destination_ip, event.destination_port
    if address is None or not port or event.protocol not in _PORTED or event.initiated is False:
        return None
    return (profile.name_of(address, name), port) if event.destination_scope in _SERIES else None


def _departure(profile: Profile, event: NetworkConnection, host: str, port: int) -> Sequence[Verdict]:
    facet = profile.destinations
    if profile.find_destination(host, port) is not None:
        return ()
    key = destination_key(host, port)
    if not facet.is_departure(key, event.time, bool(profile.learned)):
        return ()
    detail = f"{key}; {_known(profile, event.time, len(facet.seen))}"
    return (Verdict(rule=DESTINATION_RULE, event=event, detail=detail),)


def _known(profile: Profile, now: int, count: int) -> str:
    return f"known: {count}, learned over {max(0, now - profile.began) // (24 * HOUR)} days"


def _volume(profile: Profile, event: NetworkFlow, bytes_out: int, bytes_in: int) -> Sequence[Verdict]:
    volume, series = profile.volume, _SERIES[event.destination_scope or ""]
    hour = volume.current
    sent = getattr(hour, f"{series}_out") + bytes_out
    setattr(hour, f"{series}_out", sent)
    setattr(hour, f"{series}_in", getattr(hour, f"{series}_in") + bytes_in)
    if sent <= FLOOR or not profile.learned or series in volume.told:
        return ()
    bound = volume.bound(series, hour.number)
    if bound is None or sent <= bound:
        return ()
    volume.told.append(series)
    detail = f"{_mib(sent)} to {series} destinations since {hour.number % 24:02}:00 UTC; bound {_mib(bound)}"
    return (Verdict(rule=VOLUME_RULE, event=event, detail=detail),)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _gpu(profile: Profile, event: DeviceOpen) -> None:
    if profile.gpu is None:
        profile.gpu = Seen(times=0, first=event.time, last=event.time, late=bool(profile.learned))
    profile.gpu.times += 1
    profile.gpu.last = max(profile.gpu.last, event.time)
