"""What one agent is used to do: destinations, programs, GPUs and volume by hour. How departures are judged.

Counted, for events that belong to the agent:

- Destinations: TCP and UDP, outside this host, as "name:port" where the workload's own DNS gave the name and as
  "address:port" where not. A name from TLS or HTTP is not used: the workload chooses it. Of TCP only what was answered
  is learned, and only what was connected to: flows that the peer opened, or that are older than the sensor, give no
  destination. More than `FOLD` ports of one host become the host, more than `FOLD` addresses of one /24 (/64) become
  that network.
- Programs, by image, and whether GPUs were opened.
- Bytes by hour, out and in, to external and to internal (private) destinations apart: gigabytes between nodes must not
  hide a gigabyte that leaves.

Learned: `LEARN_DAYS` after the first event, with at least `LEARN_EVENTS` events in `LEARN_HOURS` different hours. A
week holds a week's rhythm; the two counts keep a short burst, or a clock that jumped, from being taken for habit.

First seen: a destination or program that a learned profile lacks. It is then learned, too, and marked as late. Where
the last `NOVELTY` new ones came within a day the agent has no fixed set of them (a crawler, builds under random
names): nothing is said until that calms. So an agent raises at most `NOVELTY` such alerts a day and kind.

Volume: the hour's bytes out pass the bound max(`FLOOR`, median + 6 * 1.4826 * MAD, 2 * the 90th percentile) of the same
hour of day and its neighbours over `KEEP_DAYS`, or of all hours where those are fewer than `LEARN_HOURS`. Median and
MAD, and not mean or EWMA, because one hour of theft among a hundred honest ones must not lift the bound; 1.4826 makes
MAD a standard deviation where there is a normal one. The percentile is for agents that upload in one hour of ten, whose
MAD is nothing. An hour beyond its bound is taken in as the bound itself: what is new for good is learned slowly, and
not without an alert each time.

Forgotten: what was not seen for `KEEP_DAYS`, and hours older than that. All times are the events' own, so that a
replay decides as the live run did.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

import msgspec

from sensor.agents_file import parse_destination

LEARN_DAYS = 7
LEARN_EVENTS = 200
LEARN_HOURS = 12
KEEP_DAYS = 28
NOVELTY = 8
FOLD = 16
FLOOR = 32 << 20
LIMIT = 1024
"""Destinations, programs and addresses with names, each; what a full profile can't take is counted."""
TOLD_LIMIT = 256

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
_NORMAL = 1.4826


class Seen(msgspec.Struct):
    """How often and when, nanoseconds since the epoch."""

    times: int
    first: int
    last: int
    late: bool = False
    """First seen when the profile was learned already."""
    host: str = ""
    """Of a destination: a name, an address or a network."""
    port: int = 0
    """0: any."""
    bytes_out: int = 0
    bytes_in: int = 0


class Facet(msgspec.Struct):
    """The destinations, or the programs."""

    seen: dict[str, Seen] = {}
    new: list[int] = []
    """When the last `NOVELTY` new ones came."""
    told: dict[str, int] = {}
    """Those that were met but may not be learned yet, and when; told of once where the profile is learned."""
    unjudged: int = 0
    """New ones that no alert was raised for, see "First seen" above."""
    refused: int = 0
    """New ones that a full profile could not take."""

    def is_open(self, now: int) -> bool:
        """There is no fixed set: new ones come all the time."""
        return len(self.new) >= NOVELTY and now - self.new[0] < DAY

    def is_departure(self, key: str, now: int, learned: bool) -> bool:
        """A key that is not in `seen` was met; whether to tell."""
        if key in self.told:
            return False
        is_open = self.is_open(now)
        self.new = [*self.new[1 - NOVELTY :], now]
        if len(self.told) >= TOLD_LIMIT:
            del self.told[next(iter(self.told))]
        self.told[key] = now
        if not learned:
            return False
        self.unjudged += is_open
        return not is_open

    def forget(self, now: int) -> None:
        """Drop what is old; what lies in the future, by a clock that was set back since, is of now."""
        self.seen = {key: seen for key, seen in self.seen.items() if now - seen.last <= KEEP_DAYS * DAY}
        for seen in self.seen.values():
            seen.last = min(seen.last, now)
        self.told = {key: min(at, now) for key, at in self.told.items() if now - at <= DAY}
        self.new = [min(at, now) for at in self.new]


class Hour(msgspec.Struct, array_like=True):
    """Bytes in one hour in which the agent did anything."""

    number: int
    """Hours since the epoch."""
    external_out: int = 0
    external_in: int = 0
    internal_out: int = 0
    internal_in: int = 0


class Volume(msgspec.Struct):
    """Bytes by hour; `told` are the series of the current hour that an alert was raised for."""

    hours: list[Hour] = []
    current: Hour = msgspec.field(default_factory=lambda: Hour(-1))
    told: list[str] = []

    def bound(self, series: str, number: int) -> int | None:
        """Bytes out that the hour may have; None where too little is known. `series`: external or internal."""
        near = [hour for hour in self.hours if (hour.number - number) % 24 in (23, 0, 1)]
        used = near if len(near) >= LEARN_HOURS else self.hours
        if len(used) < LEARN_HOURS:
            return None
        sizes: list[int] = sorted(getattr(hour, f"{series}_out") for hour in used)
        middle = _median(sizes)
        spread = _median(sorted(abs(size - middle) for size in sizes))
        high = sizes[len(sizes) * 9 // 10]
        return round(max(FLOOR, middle + 6 * _NORMAL * spread, 2 * high))


class Profile(msgspec.Struct, forbid_unknown_fields=True):
    """One agent's; `version` is that of the file's form."""

    agent: str
    began: int
    version: int = 1
    events: int = 0
    learned: int = 0
    """When it was, nanoseconds since the epoch; 0: not yet."""
    last: int = 0
    destinations: Facet = msgspec.field(default_factory=Facet)
    programs: Facet = msgspec.field(default_factory=Facet)
    gpu: Seen | None = None
    volume: Volume = msgspec.field(default_factory=Volume)
    names: dict[str, str] = {}
    """Address -> the name by which it was last known, which outlives DNS's own time to live."""

    def tick(self, now: int) -> None:
        """An event came: the hour may be over, and the profile learned."""
        self.events += 1
        self.last = max(self.last, now)
        number = now // HOUR
        current = self.volume.current
        # Events of several CPUs are milliseconds out of order; a clock that was set back is hours.
        if number > current.number or number < current.number - 1:
            self._end_hour(current, now)
            self.volume.current = Hour(number)
            self.volume.told = []
        if not self.learned and self.events >= LEARN_EVENTS and now - self.began >= LEARN_DAYS * DAY:
            self.learned = now if len(self.volume.hours) >= LEARN_HOURS else 0

    def _end_hour(self, hour: Hour, now: int) -> None:
        volume = self.volume
        if hour.number >= 0:
            for series in ("external", "internal") if self.learned else ():
                bound = volume.bound(series, hour.number)
                if bound is not None and getattr(hour, f"{series}_out") > bound:
                    setattr(hour, f"{series}_out", bound)
            volume.hours.append(hour)
        self.began = min(self.began, now)
        oldest, newest = now // HOUR - KEEP_DAYS * 24, now // HOUR
        volume.hours = [past for past in volume.hours if oldest <= past.number <= newest][-KEEP_DAYS * 24 :]
        self.destinations.forget(now)
        self.programs.forget(now)

    def find_destination(self, host: str, port: int) -> Seen | None:
        """The entry that covers it."""
        seen = self.destinations.seen
        found = seen.get(destination_key(host, port)) or seen.get(host)
        if found is None and (network := network_of(host)):
            found = seen.get(destination_key(network, port)) or seen.get(network)
        return found

    def learn_destination(self, host: str, port: int, now: int, times: int) -> Seen | None:
        """Count `times` more; None where the profile is full."""
        found = self.find_destination(host, port)
        if found is not None:
            found.times += times
            found.last = max(found.last, now)
            return found
        fresh = Seen(times=times, first=now, last=now, late=bool(self.learned), host=host, port=port)
        if not self._take(self.destinations, destination_key(host, port), fresh):
            return None
        self._fold(fresh, [s for s in self.destinations.seen.values() if s.host == host], host, 0)
        network = network_of(host)
        if network and destination_key(host, port) in self.destinations.seen:
            near = [s for s in self.destinations.seen.values() if s.port == port and network_of(s.host) == network]
            self._fold(fresh, near, network, port)
        return self.find_destination(host, port)

    def _fold(self, fresh: Seen, alike: list[Seen], host: str, port: int) -> None:
        """Make one of many; those that came late stay apart, so that they cannot hide among the old."""
        alike = [seen for seen in alike if seen.late == fresh.late]
        if len(alike) <= FOLD:
            return
        for seen in alike:
            del self.destinations.seen[destination_key(seen.host, seen.port)]
        self.destinations.seen[destination_key(host, port)] = Seen(
            times=sum(seen.times for seen in alike),
            first=min(seen.first for seen in alike),
            last=max(seen.last for seen in alike),
            late=fresh.late,
            host=host,
            port=port,
            bytes_out=sum(seen.bytes_out for seen in alike),
            bytes_in=sum(seen.bytes_in for seen in alike),
        )

    def learn_program(self, image: str, now: int) -> None:
        """Count it once more, where there is room."""
        found = self.programs.seen.get(image)
        if found is None:
            self._take(self.programs, image, Seen(times=1, first=now, last=now, late=bool(self.learned)))
        else:
            found.times += 1
            found.last = max(found.last, now)

    @staticmethod
    def _take(facet: Facet, key: str, fresh: Seen) -> bool:
        if len(facet.seen) >= LIMIT:
            facet.refused += 1
            return False
        facet.seen[key] = fresh
        return True

    def name_of(self, address: str, name: str | None) -> str:
        """The host of a destination: the name that DNS gave, now or when the address was last used, or the address."""
        known = self.names.get(address)
        if name == known and known is not None:
            return known
        if name is not None and is_name(name):
            name = name.lower().rstrip(".")
            self.names.pop(address, None)
            self.names[address] = name
            if len(self.names) > LIMIT:
                del self.names[next(iter(self.names))]
            return name
        return known or address


def _median(ordered: list[int]) -> int:
    """As statistics.median_high, which costs a slow import."""
    return ordered[len(ordered) // 2]


def destination_key(host: str, port: int) -> str:
    """As `egress.allow` writes it; `port` 0: any."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@lru_cache(maxsize=4096)
def network_of(host: str) -> str | None:
    """The /24 or /64 that an address lies in; None for a name or a network."""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Network((host, 64), strict=False))
        except ValueError:
            return None
    above, _, last = host.rpartition(".")
    is_address = above.count(".") == 2 and f"{above}.{last}".replace(".", "").isdigit()
    return f"{above}.0/24" if is_address else None


@lru_cache(maxsize=4096)
def is_name(text: str) -> bool:
    """A host name, and nothing that an agents file reads as an address, a network or a pattern."""
    try:
        found = parse_destination(text)
    except ValueError:
        return False
    return found.host is not None and found.port is None and not text.startswith("*")
