"""What a profile learns, and which departures from it are told."""

from __future__ import annotations

from typing import Any

import pytest
from profiling import MIB, WEEK, at, connected, fed, flowed, habit, learned, opened_gpu, ran, talked, the_profile

from sensor.events import AnyEvent, DnsQuery, from_record, to_record
from sensor.match.profile import FOLD, KEEP_DAYS, LIMIT, NOVELTY, Hour, Profile, Volume
from sensor.match.profiles import AGENTS_LIMIT, DESTINATION_RULE, PROGRAM_RULE, VOLUME_RULE, Profiles

NOW = WEEK + 2


def titles(profiles: Profiles, events: list[AnyEvent]) -> list[str]:
    return [verdict.rule.title for verdict in fed(profiles, events)]


DEPARTURES: dict[str, tuple[AnyEvent, str]] = {
    "an address": (connected(NOW, "198.51.100.7", 22), DESTINATION_RULE.title),
    "a name": (connected(NOW, destination_hostname="evil.example"), DESTINATION_RULE.title),
    "another port of a known name": (connected(NOW, port=22, destination_hostname="pypi.org"), DESTINATION_RULE.title),
    "a private address": (connected(NOW, "10.0.0.6", 2049, destination_scope="private"), DESTINATION_RULE.title),
    "a metadata service": (connected(NOW, "169.254.169.254", 80, destination_scope="metadata"), DESTINATION_RULE.title),
    "datagrams": (connected(NOW, "192.0.2.1", 51820, protocol="udp"), DESTINATION_RULE.title),
    "a known address, now by another name": (
        connected(NOW, destination_hostname="other.example"),
        DESTINATION_RULE.title,
    ),
    "a name that claims to be a network": (
        connected(NOW, "198.51.100.1", destination_hostname="0.0.0.0/0"),
        DESTINATION_RULE.title,
    ),
    "a program": (ran(NOW, "/tmp/xmrig"), PROGRAM_RULE.title),
    "volume": (flowed(NOW, out=40 * MIB), VOLUME_RULE.title),
    "internal volume": (
        flowed(NOW, "10.0.0.5", 2049, out=100 * MIB, destination_scope="private"),
        VOLUME_RULE.title,
    ),
}


@pytest.mark.parametrize("name", DEPARTURES)
def test_a_departure_is_told_once(name: str) -> None:
    event, title = DEPARTURES[name]
    profiles = learned()
    assert titles(profiles, [event, event]) == [title]


@pytest.mark.parametrize("name", DEPARTURES)
def test_nothing_is_told_before_the_profile_is_learned(name: str) -> None:
    event, _ = DEPARTURES[name]
    profiles = Profiles()
    early = list(habit(range(3)))
    assert fed(profiles, [*early, from_record(to_record(event) | {"time": "2026-09-22T00:00:00Z"})]) == []


NEAR_MISSES: dict[str, AnyEvent] = {
    "known": connected(NOW, destination_hostname="pypi.org"),
    "known, another address": connected(NOW, "192.0.2.77", destination_hostname="PyPI.org."),
    "known, its name's time to live is over": connected(NOW, "192.0.2.1"),
    "nobody's": connected(NOW, "198.51.100.7", agent=None),
    "another agent's": connected(NOW, "198.51.100.7", agent="other"),
    "denied": connected(NOW, "198.51.100.7", denied=True),
    "loopback": connected(NOW, "127.0.0.1", 8080, destination_scope="loopback"),
    "this host": connected(NOW, "10.0.0.1", 8080, destination_scope="local"),
    "accepted": connected(NOW, "198.51.100.7", initiated=False),
    "a ping": connected(NOW, "198.51.100.7", 0, protocol="icmp"),
    "a question to DNS": DnsQuery(time=at(NOW), agent="rome-rl", query_name="evil.example"),
    "a flow that the peer opened, or older than the sensor": flowed(NOW, "198.51.100.7", 50123),
    "refused": flowed(NOW, "198.51.100.7", refused=True),
    "a known program": ran(NOW),
    "less than the floor": flowed(NOW, out=31 * MIB),
    "loopback volume": flowed(NOW, "127.0.0.1", out=9000 * MIB, destination_scope="loopback"),
    "volume in": flowed(NOW, out=0, bytes_in=9000 * MIB),
    "a GPU": opened_gpu(NOW),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_no_departure(name: str) -> None:
    assert titles(learned(), [NEAR_MISSES[name]]) == []


@pytest.mark.parametrize(
    ("hours", "is_learned"),
    [
        (range(WEEK + 1), True),
        (range(WEEK - 1), False),
        ([0, *range(WEEK + 1, WEEK + 9)], False),  # too few events
        ([*range(6), *([WEEK + 1] * 60)], False),  # too few hours
    ],
)
def test_when_a_profile_is_learned(hours: list[int], is_learned: bool) -> None:
    profiles = Profiles()
    assert fed(profiles, habit(hours)) == []
    assert bool(the_profile(profiles).learned) == is_learned


def test_the_alert_says_what_and_against_what() -> None:
    profiles = learned()
    (destination,) = profiles.match(connected(NOW, destination_hostname="evil.example"))
    assert destination.detail == "evil.example:443; known: 2, learned over 7 days"
    (volume,) = profiles.match(flowed(NOW, out=40 * MIB))
    assert volume.detail is not None and volume.detail.startswith("40.0 MiB to external destinations since ")
    assert volume.detail.endswith(":00 UTC; bound 32.0 MiB")
    levels = {rule: rule.level for rule in (DESTINATION_RULE, PROGRAM_RULE, VOLUME_RULE)}
    assert levels == {DESTINATION_RULE: "low", PROGRAM_RULE: "low", VOLUME_RULE: "medium"}
    assert {rule.action for rule in levels} == {"alert"}


def test_what_came_late_is_learned_and_marked() -> None:
    profiles = learned()
    fed(profiles, [connected(NOW, "198.51.100.7", 22), flowed(NOW + 0.1, "198.51.100.7", 22), ran(NOW, "/tmp/x")])
    profile = the_profile(profiles)
    assert profile.destinations.seen["198.51.100.7:22"].late and profile.programs.seen["/tmp/x"].late
    assert not profile.destinations.seen["pypi.org:443"].late
    assert titles(profiles, [connected(NOW + 30, "198.51.100.7", 22)]) == []


def test_who_always_meets_new_ones_is_told_of_a_few_a_day() -> None:
    profiles = learned()
    crawl = [connected(NOW + n / 100, f"198.{n >> 8}.{n & 255}.7", 443) for n in range(500)]
    assert titles(profiles, crawl) == [DESTINATION_RULE.title] * NOVELTY
    assert profiles.summary()["unjudged"] == 500 - NOVELTY
    later = [connected(NOW + 48, "203.0.113.9")]
    assert titles(profiles, later) == [DESTINATION_RULE.title], "calm again"


def test_a_crawler_that_was_one_while_it_learned_is_told_nothing_of() -> None:
    crawl = [e for hour in range(NOW) for n in range(3) for e in talked(hour + n / 20, f"198.51.{hour % 250}.{n}")]
    profiles = learned(crawl)
    assert titles(profiles, [connected(NOW, "203.0.113.9")]) == []


def test_many_ports_and_addresses_become_hosts_and_networks() -> None:
    ports = [e for n in range(FOLD + 1) for e in talked(n, "10.0.0.9", 30_000 + n, destination_scope="private")]
    nodes = [e for n in range(FOLD + 1) for e in talked(n, f"10.7.0.{n}", 4791, destination_scope="private")]
    six = [e for n in range(FOLD + 1) for e in talked(n, f"2001:db8::{n:x}")]
    few = [e for n in range(FOLD) for e in talked(n, f"203.0.113.{n}")]
    profiles = learned([*ports, *nodes, *six, *few])
    seen = the_profile(profiles).destinations.seen
    assert {"10.0.0.9", "10.7.0.0/24:4791", "[2001:db8::/64]:443"} < seen.keys()
    assert len(seen) == 2 + 3 + FOLD
    assert seen["10.0.0.9"].times == FOLD + 1 and seen["10.0.0.9"].bytes_out == 1000 * (FOLD + 1)
    covered = [("10.0.0.9", 9), ("10.7.0.200", 4791), ("2001:db8::ffff", 443)]
    assert titles(profiles, [connected(NOW, ip, port) for ip, port in covered]) == []
    others = [("10.7.0.200", 22), ("10.7.1.1", 4791), ("2001:db8:0:1::1", 443), ("203.0.113.99", 443)]
    assert len(titles(profiles, [connected(NOW, ip, port) for ip, port in others])) == 4


def test_the_bound_follows_the_hour_of_day() -> None:
    """A nightly upload of 2 GiB is no departure in its hour; at noon it is."""
    night = [flowed(day * 24 + 3.5, out=2048 * MIB) for day in range(KEEP_DAYS)]
    profiles = Profiles()
    fed(profiles, sorted([*habit(range(KEEP_DAYS * 24)), *night], key=lambda event: event.time))
    base = KEEP_DAYS * 24
    assert titles(profiles, [flowed(base + 3, out=2100 * MIB)]) == []
    assert titles(profiles, [flowed(base + 12, out=2048 * MIB)]) == [VOLUME_RULE.title]


def volume_of(sizes: list[int]) -> Volume:
    return Volume(hours=[Hour(number, external_out=size * MIB) for number, size in enumerate(sizes)])


@pytest.mark.parametrize(
    ("sizes", "bound"),
    [
        ([0] * 11, None),
        ([0] * 12, 32),
        ([100] * 100, 200),
        ([100] * 95 + [100_000] * 5, 200),  # five hours of theft move nothing
        ([0] * 8 + [0, 1000] * 2, 2000),  # one hour of six is an upload: no hour of day has enough
        ([0, 100] * 10, 100 + 6 * 1.4826 * 100),
    ],
)
def test_the_bound(sizes: list[int], bound: float | None) -> None:
    found = volume_of(sizes).bound("external", 10_000)
    assert found == (None if bound is None else pytest.approx(bound * MIB))


def test_an_hour_beyond_its_bound_counts_as_the_bound() -> None:
    profiles = learned()
    fed(profiles, [flowed(NOW, out=9000 * MIB), *habit([NOW + 1])])
    assert max(hour.external_out for hour in the_profile(profiles).volume.hours) == 32 * MIB


def test_volume_adds_up_over_flows_and_once_an_hour() -> None:
    profiles = learned()
    assert titles(profiles, [flowed(NOW + n / 100, out=5 * MIB) for n in range(20)]) == [VOLUME_RULE.title]
    assert titles(profiles, [flowed(NOW + 1, out=40 * MIB)]) == [VOLUME_RULE.title]


def test_what_is_not_seen_is_forgotten() -> None:
    once = [*talked(1, "203.0.113.1"), ran(1, "/bin/once")]
    profiles = learned(once)
    assert titles(profiles, [connected(NOW, "203.0.113.1"), ran(NOW, "/bin/once")]) == []
    profiles = learned(once)
    late = KEEP_DAYS * 24 + 3
    fed(profiles, habit(range(NOW, late)))
    expected = [DESTINATION_RULE.title, PROGRAM_RULE.title]
    assert titles(profiles, [connected(late, "203.0.113.1"), ran(late, "/bin/once")]) == expected


def test_a_clock_set_back_does_not_gather_days_in_an_hour() -> None:
    profiles = learned()
    assert fed(profiles, habit(range(5, 60), out=20 * MIB)) == []
    assert fed(profiles, habit(range(5, 60), out=20 * MIB)) == []


def test_bounds_hold_whatever_comes() -> None:
    profiles = Profiles()
    for n in range(20_000):
        more: dict[str, Any] = {"destination_hostname": f"h{n}.example", "protocol": ("tcp", "udp")[n % 2]}
        ip = f"198.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
        fed(profiles, [connected(n / 1e6, ip, n % 60_000 + 1, **more), ran(n / 1e6, f"/tmp/{n}" + "x" * 5000)])
    profile = the_profile(profiles)
    assert len(profile.destinations.seen) <= LIMIT and len(profile.programs.seen) <= LIMIT
    assert len(profile.names) <= LIMIT and len(profile.destinations.told) <= 256
    assert max(map(len, profile.programs.seen)) == 1024
    assert profiles.summary()["refused"] > 20_000
    for n in [*range(AGENTS_LIMIT + 5)] * 2:
        profiles.match(ran(1, agent=f"agent-{n}"))
    assert profiles.summary()["agents"] == AGENTS_LIMIT and profiles.losses() == {"agents_refused": 6}


def test_a_replay_decides_alike() -> None:
    events = [*habit(), *(event for event, _ in DEPARTURES.values())]
    live, again = Profiles(), Profiles()
    first = [(v.rule.id, v.detail) for v in fed(live, events)]
    assert first == [(v.rule.id, v.detail) for v in fed(again, (from_record(to_record(event)) for event in events))]
    assert len(first) >= 10
    assert isinstance(the_profile(live), Profile) and the_profile(live) == the_profile(again)
