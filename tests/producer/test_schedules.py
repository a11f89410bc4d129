"""Schedules as producers make and change them, and what workers make of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skillfleet.contracts import Budget, Overlap, RunState
from skillfleet.errors import (
    ArgumentsTooLargeError,
    InvalidArgumentsError,
    UnknownScheduleError,
    UnknownSkillError,
)
from skillfleet_producer import AsyncFleet, Fleet
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker


def test_a_schedule_is_made_listed_changed_and_removed(fleet: Fleet) -> None:
    made = fleet.schedule(
        *("life.nightly-1", "kit.add", {"x": 1}),
        cron="30 2 * * *",
        timezone="Europe/Berlin",
        overlap="queue",
        catch_up=3,
        budget=Budget(calls=2, seconds=9),
        tags={"team": "red"},
        session="chat",
    )
    assert (made.tags, made.session) == ({"team": "red"}, "chat")
    assert (made.skill, made.args, made.queue) == ("kit.add", {"x": 1}, "celery")
    assert (made.cron, made.every, made.timezone) == ("30 2 * * *", None, "Europe/Berlin")
    assert (made.overlap, made.catch_up, made.paused) == (Overlap.QUEUE, 3, False)
    assert made.next_at is not None
    assert made.next_at > datetime.now(UTC)
    assert made in fleet.schedules()
    times = fleet.schedule_times(made.name)
    assert (len(times), times[0]) == (5, made.next_at)
    assert times == sorted(set(times))
    assert len(fleet.schedule_times(made.name, 2)) == 2
    assert fleet.pause_schedule(made.name).paused
    assert fleet.schedule_times(made.name) == times
    assert fleet.resume_schedule(made.name) == made
    assert fleet.resume_schedule(made.name) == made
    changed = fleet.schedule(made.name, "kit.add", {"x": 2}, every=timedelta(hours=2))
    assert (changed.every, changed.cron, changed.args) == (7200, None, {"x": 2})
    assert (changed.created_at, changed.overlap) == (made.created_at, Overlap.SKIP)
    assert fleet.unschedule(made.name)
    assert not fleet.unschedule(made.name)
    assert not fleet.unschedule("no such \x00 name")
    assert made.name not in {each.name for each in fleet.schedules()}


async def test_it_is_the_same_without_blocking(async_fleet: AsyncFleet) -> None:
    made = await async_fleet.schedule("async", "kit.add", {"x": 1}, every=3600)
    assert made in await async_fleet.schedules()
    assert await async_fleet.schedule_times("async", 1) == [made.next_at]
    run = await async_fleet.run_schedule("async")
    assert await run.result(timeout=20) == 2
    assert await async_fleet.unschedule("async")


@pytest.mark.parametrize(
    ("given", "error", "problem"),
    [
        ({"name": ""}, InvalidArgumentsError, "name: ''"),
        ({"name": "a b"}, InvalidArgumentsError, "name: 'a b' must have"),
        ({"name": "x" * 129}, InvalidArgumentsError, "name: "),
        ({"name": None}, InvalidArgumentsError, "name: None"),
        ({"skill": "nothing"}, InvalidArgumentsError, "a skill is named"),
        ({"skill": "kit.nothing"}, UnknownSkillError, r"kit\.nothing"),
        ({"args": {"x": "one"}}, InvalidArgumentsError, "x"),
        ({"args": {}}, InvalidArgumentsError, "x"),
        ({"args": {"x": 1, "y": "z" * 400_000}}, ArgumentsTooLargeError, "bytes"),
        ({"cron": "61 * * * *"}, InvalidArgumentsError, "cron: '61"),
        ({"cron": "* * * * *", "every": 5}, InvalidArgumentsError, "either cron or every"),
        ({"every": None}, InvalidArgumentsError, "either cron or every"),
        ({"timezone": "Mars/Olympus"}, InvalidArgumentsError, "timezone: 'Mars/Olympus'"),
        ({"overlap": "maybe"}, InvalidArgumentsError, "overlap must be one of 'skip'"),
        ({"overlap": ["skip"]}, InvalidArgumentsError, "overlap must be"),
        ({"catch_up": -1}, InvalidArgumentsError, "catch_up must be 0 to 100"),
        ({"catch_up": 101}, InvalidArgumentsError, "catch_up must be 0 to 100"),
        ({"catch_up": True}, InvalidArgumentsError, "catch_up must be 0 to 100"),
        ({"timeout": 0}, InvalidArgumentsError, "timeout must be"),
        ({"priority": 12}, InvalidArgumentsError, "priority must be"),
        ({"queue": ""}, InvalidArgumentsError, "queue must be"),
        ({"auth": 5}, InvalidArgumentsError, "auth must be"),
        ({"budget": 5}, InvalidArgumentsError, "budget must be"),
        ({"tags": {"team": 5}}, InvalidArgumentsError, "tags: the value of 'team'"),
        ({"session": ""}, InvalidArgumentsError, "session must be"),
    ],
    ids=repr,
)
def test_what_is_invalid_is_refused_at_the_call(
    fleet: Fleet, given: dict[str, Any], error: type[Exception], problem: str
) -> None:
    more = {"name": "wrong", "skill": "kit.add", "args": {"x": 1}} | given
    if "cron" not in more:
        more = {"every": 60} | more
    with pytest.raises(error, match=problem):
        fleet.schedule(**more)
    assert "wrong" not in {each.name for each in fleet.schedules()}


def test_options_that_make_no_sense_for_a_schedule_are_refused(fleet: Fleet) -> None:
    for option in ({"delay": 5}, {"idempotency_key": "k"}, {"colour": "red"}):
        with pytest.raises(TypeError, match=next(iter(option))):
            fleet.schedule("wrong", "kit.add", {"x": 1}, every=60, **option)


def test_an_unknown_name_is_reported(fleet: Fleet) -> None:
    for name in ("missing", "no such \x00 name"):
        for ask in (
            fleet.pause_schedule,
            fleet.resume_schedule,
            fleet.run_schedule,
            fleet.schedule_times,
        ):
            with pytest.raises(UnknownScheduleError, match="there is no schedule"):
                ask(name)
    for count in (0, 1001):
        with pytest.raises(InvalidArgumentsError, match="count must be"):
            fleet.schedule_times("missing", count)


def test_workers_run_what_is_due_once_each_also_while_they_are_killed(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    options = {"reap_seconds": 0.2, "lease_seconds": 1}
    workers = [start_worker("tests.worker.kit", **options) for _ in range(2)]
    made = own_fleet.schedule("pulse", "kit.add", {"x": 1}, every=1, overlap="allow")

    def ran(count: int) -> bool:
        ended = own_fleet.runs(RunState.SUCCEEDED, limit=100)
        return len(ended) >= count

    wait_until(lambda: ran(2), 30, "the first runs")
    workers[0].kill()
    workers[0].start()
    workers[1].kill()
    wait_until(lambda: ran(7), 60, "runs after both workers were killed in turn")
    own_fleet.pause_schedule("pulse")
    last = next(each for each in own_fleet.schedules() if each.name == "pulse").last_at
    assert last is not None
    occurrences = round((last - made.created_at).total_seconds())
    assert len(own_fleet.runs(limit=1000)) == occurrences


def test_a_run_in_between_counts_as_the_last_one(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.worker.kit", reap_seconds=0.1)
    own_fleet.schedule("polling", "kit.polls", every=1)
    run = own_fleet.run_schedule("polling")
    wait_until(lambda: _next(own_fleet, "polling") > 2, 30, "times that are left out")
    assert [each.id for each in own_fleet.runs()] == [run.id]
    run.cancel()
    wait_until(lambda: len(own_fleet.runs()) == 2, 30, "the next run")
    own_fleet.unschedule("polling")


def _next(fleet: Fleet, name: str) -> float:
    """The seconds from when a schedule was made to when it is due next."""
    shown = next(each for each in fleet.schedules() if each.name == name)
    assert shown.next_at is not None
    return (shown.next_at - shown.created_at).total_seconds()
