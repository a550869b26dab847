from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from sensor.context.identity import TICK, guid, parse_guid, start_ticks
from sensor.node import boot_id


def test_guid_round_trip_loses_only_what_is_below_a_tick() -> None:
    start = 123_456 * TICK + TICK - 1
    assert parse_guid(guid(77, start)) == (77, 123_456)


def test_guid_of_another_boot_is_not_ours() -> None:
    assert parse_guid(guid(77, TICK).replace(boot_id(), "0" * 32)) is None


@given(st.text() | st.text().map(lambda tail: f"{boot_id()}-{tail}"))
def test_hostile_text_is_no_guid(text: str) -> None:
    parsed = parse_guid(text)
    assert parsed is None or text == f"{boot_id()}-{text.split('-')[1]}-{text.split('-')[2]}"


def test_start_of_a_live_process_and_of_none() -> None:
    own = start_ticks(os.getpid())
    assert own is not None
    assert own >= (start_ticks(1) or 0)
    assert start_ticks(0) is None
