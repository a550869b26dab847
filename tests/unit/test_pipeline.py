"""The pipeline: what is judged, what is let be, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matching import event_of, parse, rule_of

from sensor import wire
from sensor.context.agents import Agents
from sensor.context.enrich import Context
from sensor.events import from_record
from sensor.match.matcher import Matcher
from sensor.pipeline import Pipeline
from sensor.record.sink import Sink
from sensor.respond.rehearsal import rehearsal

MATCHER = Matcher(
    [
        rule_of("a: {Image|endswith: /miner}\ncondition: a"),
        rule_of("a: {DestinationPort: 1}\ncondition: a", "network_connection"),
        rule_of("a: {DeviceMajor: 1}\ncondition: a", "device_open"),
    ]
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def pipeline(place: Path, scope: str = "/", context: Context | None = None) -> Pipeline:
    return Pipeline(
        matcher=MATCHER,
        executor=rehearsal(),
        alerts=Sink(str(place / "alerts")),
        events=Sink(str(place / "events")),
        context=context,
        scope=scope,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("scope", "path", "inside"),
    [
        ("/", "/", True),
        ("/", "/a/b", True),
        ("/", None, True),
        ("/", "no path at all", True),
        ("/a", "/a", True),
        ("/a", "/a/b", True),
        ("/a", "/ab", False),
        ("/a", "/", False),
        ("/a", "/b/a", False),
        ("/a", "", False),
        ("/a", None, False),
    ],
)
def test_events_outside_the_scope_are_let_be(place: Path, scope: str, path: str | None, inside: bool) -> None:
    line = pipeline(place, scope)
    line.judge(event_of(image="/bin/miner", cgroup_path=path))
    assert len(lines(place / "alerts")) == len(lines(place / "events")) == inside
    assert line.seen.total() == line.outcomes.total() == inside


@pytest.mark.parametrize(
    ("category", "fields"), [("network_connection", {"destination_port": 1}), ("device_open", {"device_major": 1})]
)
def test_what_only_the_watched_cgroup_can_do_is_inside_whatever_its_path(
    place: Path, category: str, fields: dict[str, int]
) -> None:
    line = pipeline(place, "/a")
    line.judge(event_of(category, **fields))
    assert line.seen == {category: 1} and len(lines(place / "alerts")) == 1


def test_every_event_is_recorded_and_counted_also_where_no_rule_matches(place: Path) -> None:
    line = pipeline(place)
    for image in ("/bin/true", "/bin/miner", "/bin/true"):
        line.judge(event_of(image=image))
    assert [from_record(record).image for record in lines(place / "events")] == ["/bin/true", "/bin/miner", "/bin/true"]
    assert line.seen == {"process_creation": 3} and line.outcomes == {"none": 1}


@pytest.fixture
def context(tmp_path: Path) -> Any:
    found = Context(cgroup_root=tmp_path, agents=Agents())
    yield found
    found.close()


def test_what_is_no_record_is_counted_by_kind(place: Path, context: Context) -> None:
    line = pipeline(place, context=context)
    unknown = wire.HEADER.pack(*[0] * 5, 999, 0, 0)
    for data in (b"", b"\0", unknown, unknown):
        line.feed(data)
    assert line.undecodable == {"short_buffer": 2, "unknown_kind": 2}
    assert not line.seen


@settings(deadline=None)
@given(data=st.data())
def test_no_bytes_make_it_raise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = tmp_path_factory.mktemp("pipeline")
    context = Context(cgroup_root=place, agents=Agents())
    try:
        line = pipeline(place, "/a", context)
        for _ in range(20):
            kind = data.draw(st.sampled_from([*wire.KINDS, 0, 99]))
            body = data.draw(st.binary(max_size=600))
            line.feed(body[:32] + kind.to_bytes(2, "little") + body[34:])
    finally:
        context.close()


def test_descriptors_cut_short_are_counted_and_strange_ones_harmless(place: Path, context: Context) -> None:
    feed = pipeline(place, context=context)
    feed.looked(b"x" * (wire.HELD_END.size + 1), 10**9, 1)
    assert feed.undecodable == {"short_buffer": 1}
    feed.looked(bytes(range(wire.HELD_END.size)) * 100, 10**9, 1)
    assert feed.undecodable == {"short_buffer": 1} and not feed.seen


def test_equal_alerts_are_counted_and_the_summary_comes_with_time_or_at_the_end(place: Path) -> None:
    def line() -> Pipeline:
        return Pipeline(matcher=MATCHER, executor=rehearsal(), alerts=Sink(str(place / "alerts")), alert_window_s=60)

    def judge(judging: Pipeline) -> None:
        for second in range(4):
            event = event_of(image="/bin/miner")
            event.time = (1000 + second) * 10**9
            judging.judge(event)

    counts = [None, 3]
    for end in (lambda p: p.advance(1100 * 10**9), lambda p: p.finish(), lambda p: p.close()):
        judging = line()
        judge(judging)
        assert judging.outcomes == {"none": 4} and judging.merged == 3
        end(judging)
        assert [alert["event"].get("count") for alert in lines(place / "alerts")] == counts
        counts += [None, 3]


def test_correlations_speak_with_time_and_at_the_end(place: Path) -> None:
    rules, _ = parse(
        "title: few\nname: few\nlogsource: {category: process_creation}\n"
        "detection: {s: {Image: /x}, condition: s}\n---\ntitle: quiet\ncorrelation: "
        "{type: event_count, rules: [few], timespan: 10s, condition: {lt: 3}}\n"
    )
    for end in (lambda p: p.advance(), lambda p: p.advance(111 * 10**9), lambda p: p.finish()):
        judging = Pipeline(matcher=Matcher(rules), executor=rehearsal(), alerts=Sink(str(place / "alerts")))
        for second, image in ((100, "/x"), (111, "/y")):
            event = event_of(image=image)
            event.time = second * 10**9
            judging.judge(event)
            assert not judging.outcomes
        end(judging)
        assert judging.outcomes == {"none": 1} and judging.losses() == {"late": 0, "evicted": 0}
