"""When a schedule is due: changes of the clocks, outages, clocks that jump."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillfleet.errors import InvalidArgumentsError
from skillfleet_producer.timing import Timing, due_of

BERLIN = ZoneInfo("Europe/Berlin")
GRACE_MS = 300_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def ms(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    """The time in milliseconds, given as people write it."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp() * 1000)


def local(moments: list[int]) -> list[str]:
    """Times as people in Berlin write them, with the offset."""
    return [datetime.fromtimestamp(m / 1000, BERLIN).strftime("%d %H:%M%z") for m in moments]


def all_after(timing: Timing, moment: int, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        following = timing.after(found[-1] if found else moment)
        assert following is not None
        found.append(following)
    return found


def berlin(cron: str) -> Timing:
    return Timing(cron=cron, timezone="Europe/Berlin")


def test_a_job_at_a_fixed_time_runs_right_after_the_gap_that_skips_it() -> None:
    found = all_after(berlin("30 2 * * *"), ms("2026-03-28 12:00"), 2)
    assert local(found) == ["29 03:00+0200", "30 02:30+0200"]


def test_a_job_at_a_fixed_time_runs_once_where_its_time_comes_twice() -> None:
    found = all_after(berlin("30 2 * * *"), ms("2026-10-24 12:00"), 2)
    assert local(found) == ["25 02:30+0200", "26 02:30+0100"]


def test_it_does_not_run_again_when_it_is_asked_between_the_two() -> None:
    again = ms("2026-10-25 02:10", fold=1)
    assert local(all_after(berlin("30 2 * * *"), again, 1)) == ["26 02:30+0100"]


def test_a_job_of_each_half_hour_follows_the_real_time_through_both_changes() -> None:
    for start in ("2026-03-29 00:10", "2026-10-25 00:10"):
        found = all_after(berlin("*/30 * * * *"), ms(start), 10)
        assert {b - a for a, b in pairwise(found)} == {HOUR_MS // 2}


def test_no_time_comes_twice_where_a_gap_pushes_several_jobs_together() -> None:
    found = all_after(berlin("0,30 2,3 * * *"), ms("2026-03-29 00:00"), 3)
    assert local(found) == ["29 03:00+0200", "29 03:30+0200", "30 02:00+0200"]


@settings(deadline=None, max_examples=60)
@given(
    cron=st.sampled_from(
        ["*/7 * * * *", "15 */5 * * *", "30 2 * * *", "0 0 1 * *", "59 1-3 * * SUN", "0 2 29 2 *"]
    ),
    start=st.integers(ms("2026-03-20 00:00"), ms("2026-11-05 00:00")),
    spans=st.lists(st.integers(0, 2 * DAY_MS), min_size=1, max_size=6),
    most=st.integers(1, 40),
)
def test_what_is_due_in_pieces_is_what_is_due_at_once(
    cron: str, start: int, spans: list[int], most: int
) -> None:
    timing, pieces, moment = berlin(cron), [], start
    for span in spans:
        pieces += timing.latest(moment, moment + span, 10_000)
        moment += span
    assert timing.latest(start, moment, 10_000) == pieces
    assert timing.latest(start, moment, most) == pieces[-most:]
    assert pieces == sorted(set(pieces))


@given(
    anchor=st.integers(0, 10**13),
    every=st.floats(1, 10**6),
    moment=st.integers(0, 2 * 10**13),
    span=st.integers(0, 10**8),
)
def test_intervals_count_from_the_anchor(anchor: int, every: float, moment: int, span: int) -> None:
    timing = Timing(every=every, anchor_ms=anchor)
    step = int(every * 1000)
    following = timing.after(moment)
    assert following is not None
    assert following > max(moment, anchor)
    assert (following - anchor) % step == 0
    assert following - step <= max(moment, anchor)
    found = timing.latest(moment, moment + span, 7)
    assert len(found) <= 7
    assert all(moment < each <= moment + span and (each - anchor) % step == 0 for each in found)
    assert found[-1:] == ([] if following > moment + span else [max(found)])


NOON = ms("2026-06-01 12:00")
EACH_MINUTE = berlin("* * * * *")


def test_on_time_is_started_and_the_next_one_awaited() -> None:
    assert due_of(EACH_MINUTE, NOON, NOON + 900, GRACE_MS, 0) == ([NOON], NOON + 60_000, False)


def test_before_its_time_nothing_is_due() -> None:
    assert due_of(EACH_MINUTE, NOON, NOON - 1, GRACE_MS, 5) == ([], NOON, False)


def test_what_is_within_the_grace_loses_nothing() -> None:
    start, following, dropped = due_of(EACH_MINUTE, NOON, NOON + 150_000, GRACE_MS, 0)
    assert start == [NOON, NOON + 60_000, NOON + 120_000]
    assert (following, dropped) == (NOON + 180_000, False)


@pytest.mark.parametrize("catch_up", [0, 1, 3])
def test_after_an_outage_the_latest_missed_ones_are_made_up_for(catch_up: int) -> None:
    timing = berlin("0 2 * * *")
    down, up = ms("2026-06-01 02:00"), ms("2026-06-11 12:00")
    start, following, dropped = due_of(timing, down, up, GRACE_MS, catch_up)
    days = [f"{day:02} 02:00+0200" for day in range(11 - catch_up + 1, 12)]
    assert local(start) == days
    assert (following, dropped) == (ms("2026-06-12 02:00"), True)


def test_the_one_that_is_on_time_starts_even_after_an_outage() -> None:
    timing = berlin("0 2 * * *")
    down, up = ms("2026-06-01 02:00"), ms("2026-06-11 02:01")
    assert due_of(timing, down, up, GRACE_MS, 0).start == [ms("2026-06-11 02:00")]
    assert len(due_of(timing, down, up, GRACE_MS, 2).start) == 3


def test_an_outage_of_a_decade_costs_no_walk_through_it() -> None:
    now = NOON + 3652 * DAY_MS
    start, following, dropped = due_of(EACH_MINUTE, NOON, now, 60_000, 3)
    assert (len(start), following, dropped) == (4, now + 60_000, True)
    each_second = Timing(every=1, anchor_ms=NOON)
    assert len(due_of(each_second, NOON + 1000, now, 10_000, 100).start) == 110


def test_a_clock_that_is_set_back_silences_nothing() -> None:
    """A year ahead by mistake, and back: the next time is the one after now."""
    wrong = due_of(EACH_MINUTE, NOON, NOON + 365 * DAY_MS, GRACE_MS, 0)
    assert wrong.next_ms is not None
    again = due_of(EACH_MINUTE, wrong.next_ms, NOON + 5000, GRACE_MS, 0)
    assert again == ([], NOON + 60_000, False)


def test_a_clock_that_is_set_back_a_little_starts_nothing_twice() -> None:
    moved_on = due_of(EACH_MINUTE, NOON, NOON + 500, GRACE_MS, 0).next_ms
    assert moved_on == NOON + 60_000
    # The time that comes again is the same occurrence, and so the same run.
    assert due_of(EACH_MINUTE, moved_on, NOON - 100, GRACE_MS, 0) == ([], NOON, False)


def test_a_clock_that_is_set_forward_skips_what_lies_between() -> None:
    start, following, _ = due_of(berlin("0 * * * *"), NOON, NOON + 5 * HOUR_MS + 1000, GRACE_MS, 0)
    assert local(start) == ["01 17:00+0200"]
    assert following == NOON + 6 * HOUR_MS


def test_the_last_time_of_a_schedule_is_its_last() -> None:
    timing = Timing(every=10**8, anchor_ms=252_950_000_000_000)
    assert timing.after(252_990_000_000_000) is None
    assert due_of(timing, NOON, 252_990_000_000_000, GRACE_MS, 0).next_ms is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "either cron or every"),
        ({"cron": "* * * * *", "every": 5}, "either cron or every"),
        ({"cron": "* * * *"}, "cron: .* five fields"),
        ({"cron": "* * * * * *"}, "cron: .* five fields"),
        ({"cron": 5}, "cron: 5 must have five fields"),
        ({"cron": "61 * * * *"}, "cron: .*Bad minute"),
        ({"cron": "0 0 30 2 *"}, "cron: "),
        ({"cron": "0 0 */31 * MON#5"}, "cron: .* is never due"),
        ({"cron": "x y z a b"}, "cron: .*Bad minute"),
        ({"every": 0}, "every must be more than 0"),
        ({"every": 0.5}, "every must be at least 1 second"),
        ({"every": float("nan")}, "every must be more than 0"),
        ({"every": "daily"}, "every must be a number"),
        ({"every": 10**12}, "every must be at most"),
        ({"cron": "* * * * *", "timezone": "Europe/Nowhere"}, "timezone: 'Europe/Nowhere'"),
        ({"cron": "* * * * *", "timezone": "../etc/passwd"}, "timezone: "),
        ({"cron": "* * * * *", "timezone": ""}, "timezone: ''"),
        ({"cron": "* * * * *", "timezone": 5}, "timezone: 5"),
        ({"every": 60, "timezone": "Mars"}, "timezone: 'Mars'"),
    ],
)
def test_invalid_times_are_refused_by_name(given: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidArgumentsError, match=problem):
        Timing(**given)  # type: ignore[arg-type]


def test_times_are_the_same_in_utc() -> None:
    found = all_after(Timing(cron="0 12 * * MON-FRI"), ms("2026-06-05 14:00"), 2)
    assert [datetime.fromtimestamp(each / 1000, UTC) for each in found] == [
        datetime(2026, 6, 8, 12, tzinfo=UTC) + timedelta(days=day) for day in (0, 1)
    ]
