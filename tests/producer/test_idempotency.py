"""One idempotency key, one run."""

import asyncio
import time

import pytest

from skillfleet.errors import IdempotencyConflictError
from skillfleet_producer import AsyncFleet, Fleet
from tests.support.valkey import ValkeyServer
from tests.worker.shared import Shared


def test_the_same_key_is_the_same_run(shared: Shared) -> None:
    first = shared.fleet.enqueue("kit.add", {"x": 1, "y": 2}, idempotency_key="same")
    with Fleet(shared.server.producer_url) as other:
        again = other.enqueue("kit.add", {"y": 2, "x": 1}, idempotency_key="same")
    assert again.id == first.id
    assert first.result(timeout=20) == 3
    assert shared.fleet.enqueue("kit.add", {"x": 1, "y": 2}, idempotency_key="same").id == first.id
    assert first.status().attempt == 1


def test_the_same_key_with_other_arguments_is_refused(fleet: Fleet) -> None:
    fleet.enqueue("kit.add", {"x": 1}, idempotency_key="other arguments")
    with pytest.raises(IdempotencyConflictError, match="use a new key"):
        fleet.enqueue("kit.add", {"x": 2}, idempotency_key="other arguments")


def test_the_same_key_for_another_skill_is_another_run(fleet: Fleet) -> None:
    first = fleet.enqueue("kit.same", idempotency_key="other skill")
    assert fleet.enqueue("kit.process_id", idempotency_key="other skill").id != first.id


def test_enqueue_many_repeated_with_a_key_makes_no_new_runs(fleet: Fleet) -> None:
    arguments = [{"x": n} for n in range(5)]
    first = fleet.enqueue_many("kit.add", arguments, idempotency_key="many")
    again = fleet.enqueue_many("kit.add", arguments, idempotency_key="many")
    assert [run.id for run in first] == [run.id for run in again]
    assert len({run.id for run in first}) == 5


def test_enqueue_many_raises_the_error_of_a_batch_that_was_written_long_ago(fleet: Fleet) -> None:
    fleet.enqueue("kit.add", {"x": -1}, idempotency_key="early/0")
    arguments = [{"x": n} for n in range(3000)]
    with pytest.raises(IdempotencyConflictError):
        fleet.enqueue_many("kit.add", arguments, idempotency_key="early")


def test_when_enqueue_many_raises_nothing_is_still_being_written(
    own_fleet: Fleet, valkey: ValkeyServer
) -> None:
    own_fleet.enqueue("kit.add", {"x": -1}, idempotency_key="early/0", queue="waiting")
    # Large ones, of which some are still on their way when the first batch is refused.
    arguments = [{"x": n, "large": "x" * 20_000} for n in range(2000)]
    with pytest.raises(IdempotencyConflictError):
        own_fleet.enqueue_many("kit.add", arguments, idempotency_key="early", queue="waiting")
    with valkey.client() as client:
        then = client.dbsize()
        # A write that is still under way needs a moment to be seen.
        time.sleep(0.3)
        assert client.dbsize() == then


async def test_fifty_enqueues_at_once_with_one_key_make_one_run(shared: Shared) -> None:
    fleets = [AsyncFleet(shared.server.producer_url) for _ in range(5)]
    try:
        # No other test of this fleet runs that skill: the ledger is all theirs.
        runs = await asyncio.gather(
            *(
                fleet.enqueue("kit.total", {"values": [1, 1]}, idempotency_key="at once")
                for fleet in fleets
                for _ in range(10)
            )
        )
        assert len({run.id for run in runs}) == 1
        assert await runs[0].result(timeout=20) == 2
        made = [run.id for run in await fleets[0].runs(limit=10_000) if run.skill == "total"]
        assert made == [runs[0].id]
        assert (await runs[0].status()).attempt == 1
    finally:
        for fleet in fleets:
            await fleet.close()
