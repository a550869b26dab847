"""Equal alerts become one with a count: nothing is dropped, nothing is softened, nothing grows without end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.events import AnyEvent, DeviceOpen, NetworkConnection, ProcessCreation
from sensor.record import noise
from sensor.record.noise import Noise
from sensor.verdict import SEVERITY, Outcome, RuleInfo, Verdict

SECOND = 1_000_000_000
RULE = RuleInfo(id="1", title="Rule", level="high")
NONE = Outcome(mode="monitor", action="alert", outcome="none")


class Written(list[dict[str, Any]]):
    """What a Noise with this window wrote."""

    def __init__(self, window_s: float = 60) -> None:
        self.noise = Noise(self.append, window_s)

    def tell(self, event: AnyEvent, rule: RuleInfo = RULE, outcome: Outcome = NONE) -> None:
        self.noise.tell(Verdict(rule=rule, event=event), outcome)

    def counts(self) -> list[int | None]:
        return [alert["event"].get("count") for alert in self]


def connect(second: float, **fields: Any) -> NetworkConnection:
    given = {"image": "/bin/x", "cgroup_path": "/c", "destination_ip": "192.0.2.1", "destination_port": 22} | fields
    return NetworkConnection(time=int(second * SECOND), **given)


def test_the_first_is_written_at_once_and_the_rest_once_the_window_is_over() -> None:
    written = Written()
    for second in (100, 101, 130, 159.9):
        written.tell(connect(second, process_id=int(second)))
    assert written.counts() == [None] and written.noise.merged == 3
    written.noise.advance(160 * SECOND)
    assert len(written) == 1
    written.noise.advance(162 * SECOND)
    summary = written[1]
    assert written.counts() == [None, 3]
    assert (summary["event"]["start"], summary["event"]["end"]) == (
        "1970-01-01T00:01:41.000000Z",
        "1970-01-01T00:02:39.900000Z",
    )
    assert summary["@timestamp"] == summary["event"]["end"] and summary["process"]["pid"] == 159
    assert summary["event"]["severity"] == written[0]["event"]["severity"] == SEVERITY["high"]
    assert summary["event"]["reason"].startswith("3 times more: ")
    assert len({alert["event"]["id"] for alert in written}) == 2
    written.noise.advance(10**18)
    assert len(written) == 2


def test_what_was_told_once_has_no_summary_and_a_new_window_begins_at_once() -> None:
    written = Written(10)
    for second in (1, 11, 12, 21):
        written.tell(connect(second))
    assert written.counts() == [None, None, 1, None]
    written.noise.close()
    assert written.counts() == [None, None, 1, None]


def test_no_window_merges_nothing() -> None:
    written = Written(0)
    for _ in range(3):
        written.tell(connect(1))
    written.noise.close()
    assert written.counts() == [None] * 3 and written.noise.merged == 0


FIRST = connect(1)
OTHERS: list[tuple[AnyEvent, RuleInfo, Outcome]] = [
    (connect(2, image="/bin/y"), RULE, NONE),
    (connect(2, cgroup_path="/d"), RULE, NONE),
    (connect(2, agent="a"), RULE, NONE),
    (connect(2, destination_ip="192.0.2.2"), RULE, NONE),
    (connect(2, destination_port=23), RULE, NONE),
    (connect(2, protocol="udp"), RULE, NONE),
    (connect(2, destination_hostname="example.org"), RULE, NONE),
    (connect(2, denied=True), RULE, NONE),
    (connect(2), RuleInfo(id="2", title="Rule", level="high"), NONE),
    (connect(2), RuleInfo(id="1", title="Rule", level="critical"), NONE),
    (connect(2), RULE, Outcome(mode="enforce", action="kill", outcome="done")),
    (connect(2), RULE, Outcome(mode="enforce", action="alert", outcome="failed")),
    (ProcessCreation(time=2, image="/bin/x", cgroup_path="/c"), RULE, NONE),
    (DeviceOpen(time=2, image="/bin/x", cgroup_path="/c", device_major=195, device_minor=0), RULE, NONE),
    (DeviceOpen(time=2, image="/bin/x", cgroup_path="/c", device_major=195, device_minor=1), RULE, NONE),
]


@pytest.mark.parametrize("other", OTHERS)
def test_what_differs_is_not_equal(other: tuple[AnyEvent, RuleInfo, Outcome]) -> None:
    written = Written()
    for event, rule, outcome in [(FIRST, RULE, NONE), *[each for each in OTHERS if each is not other], other]:
        written.tell(event, rule, outcome)
    assert len(written) == len(OTHERS) + 1


def test_an_agents_cgroups_are_one_workload_and_the_process_does_not_matter() -> None:
    written = Written()
    for number in range(5):
        written.tell(connect(number, agent="a", cgroup_path=f"/job{number}", process_id=number, source_port=number))
    written.noise.close()
    assert written.counts() == [None, 4]


def test_memory_is_bounded_and_what_must_end_early_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "WINDOWS", 10)
    written = Written()
    for number in range(1000):
        for _ in range(2):
            written.tell(connect(number / 100, image=f"/bin/{number}"))
        assert len(written.noise._windows) <= 10
    written.noise.close()
    assert Counter(written.counts()) == {None: 1000, 1: 1000}


def test_hostile_names_cost_no_more_than_others() -> None:
    written = Written()
    for number in range(50):
        written.tell(connect(1, image="/" + "\n\x00\udcff" * 1000 + str(number % 2)))
    assert all(len(key) == 16 for key in written.noise._windows) and len(written) == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 2), st.booleans()), max_size=60),
    st.sampled_from([0, 0.5, 5, 60]),
)
def test_every_alert_is_written_or_counted(told: list[tuple[int, int, bool]], window_s: float) -> None:
    written = Written(window_s)
    for milliseconds, which, is_ticked in told:
        if is_ticked:
            written.noise.advance(milliseconds * 1_000_000)
        written.tell(connect(milliseconds / 1000, image=f"/bin/{which}"))
    written.noise.close()
    total: Counter[str] = Counter()
    for alert in written:
        total[alert["process"]["executable"]] += alert["event"].get("count", 1)
    assert total == Counter(f"/bin/{which}" for _, which, _ in told)
    assert len(written) + written.noise.merged - sum(count is not None for count in written.counts()) == len(told)
    assert len({alert["event"]["severity"] for alert in written}) <= 1


def test_live_and_replayed_alike() -> None:
    """Live the clock ticks every two seconds and counts from the boot; in a replay each event moves it."""
    seconds = [1, 1.5, 2, 30, 60.9, 61, 61.5, 90, 200]
    live, replayed = Written(), Written()
    for number, second in enumerate(seconds):
        event = connect(1_000_000 + second, destination_port=number % 2)
        replayed.noise.advance(event.time)
        replayed.tell(event)
        live.noise.advance(int((7 + second) * SECOND) // (2 * SECOND) * 2 * SECOND)
        live.tell(connect(1_000_000 + second, destination_port=number % 2, boottime=int((7 + second) * SECOND)))
    for written in (live, replayed):
        written.noise.close()
    assert live == replayed and None in live.counts() and any(live.counts())
