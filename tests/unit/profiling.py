"""Events of one agent, by hours since a start, and a profile that has been learned from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sensor.events import AnyEvent, DeviceOpen, NetworkConnection, NetworkFlow, ProcessCreation
from sensor.match.profile import HOUR, Profile
from sensor.match.profiles import Profiles
from sensor.verdict import Verdict

START = 1_790_000_400 * 1_000_000_000 // HOUR * HOUR
MIB = 1 << 20
WEEK = 7 * 24


def at(hours: float) -> int:
    return START + int(hours * HOUR)


def ran(hours: float, image: str = "/usr/bin/python3", **more: Any) -> ProcessCreation:
    return ProcessCreation(time=at(hours), image=image, **{"agent": "rome-rl"} | more)


def connected(hours: float, ip: str = "192.0.2.1", port: int = 443, **more: Any) -> NetworkConnection:
    given = {"agent": "rome-rl", "protocol": "tcp", "destination_scope": "external", "initiated": True}
    return NetworkConnection(time=at(hours), destination_ip=ip, destination_port=port, **given | more)


def flowed(hours: float, ip: str = "192.0.2.1", port: int = 443, out: int = 1000, **more: Any) -> NetworkFlow:
    given = {"agent": "rome-rl", "protocol": "tcp", "destination_scope": "external", "initiated": True}
    given |= {"bytes_out": out, "bytes_in": 2 * out, "flows": 1, "refused": False}
    return NetworkFlow(time=at(hours), destination_ip=ip, destination_port=port, **given | more)


def talked(hours: float, ip: str, port: int = 443, **more: Any) -> list[AnyEvent]:
    """A connection and its end."""
    return [connected(hours, ip, port, **more), flowed(hours + 0.01, ip, port, **more)]


def opened_gpu(hours: float) -> DeviceOpen:
    return DeviceOpen(time=at(hours), agent="rome-rl", device_class="nvidia", device_major=195, device_minor=0)


def habit(hours: Iterable[int] = range(WEEK + 2), out: int = MIB) -> Iterator[AnyEvent]:
    """What the agent does every hour."""
    for hour in hours:
        yield ran(hour)
        yield connected(hour + 0.1, destination_hostname="pypi.org")
        yield flowed(hour + 0.2, out=out)
        yield connected(hour + 0.3, "10.0.0.5", 2049, destination_scope="private")
        yield flowed(hour + 0.4, "10.0.0.5", 2049, out=10 * out, destination_scope="private")


def fed(profiles: Profiles, events: Iterable[AnyEvent]) -> list[Verdict]:
    return [verdict for event in events for verdict in profiles.match(event)]


def learned(events: Iterable[AnyEvent] = ()) -> Profiles:
    """Profiles that know the habit, and have nothing to tell of it."""
    profiles = Profiles()
    assert fed(profiles, sorted([*habit(), *events], key=lambda event: event.time)) == []
    assert profiles.summary()["learned"] == 1
    return profiles


def the_profile(profiles: Profiles) -> Profile:
    (profile,) = profiles._profiles.values()
    return profile
