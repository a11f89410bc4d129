"""Many runs at once in one process."""

from hypothesis import given, settings
from hypothesis import strategies as st

from skillfleet.contracts import RunEvent
from skillfleet_producer import Fleet
from tests.worker.shared import Shared, StartWorker


def test_five_hundred_runs_that_wait_overlap_in_one_process(loop: Shared) -> None:
    runs = loop.fleet.enqueue_many("kit.together", [{"count": 500}] * 500)
    assert {run.result(timeout=60) for run in runs} == {500}


def test_two_hundred_parents_that_call_children_finish_with_ten_slots(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker("tests.worker.kit", concurrency=10)
    runs = own_fleet.enqueue_many("kit.parent", [{"n": 3}] * 200)
    assert [run.result(timeout=90) for run in runs] == [3] * 200


def test_a_reader_that_disconnects_after_any_event_resumes_with_exactly_the_rest(
    loop: Shared,
) -> None:
    live = loop.fleet.enqueue("kit.stream", {"n": 60, "pause": 0.01})

    @settings(max_examples=15, deadline=None)
    @given(st.integers(min_value=1, max_value=63))
    def resumed(cut: int) -> None:
        run = loop.fleet.run(live.id)
        first: list[RunEvent] = []
        for event in run.events(timeout=20):
            first.append(event)
            if len(first) == cut:
                break
        rest = list(run.events(after=first[-1].id, timeout=20))
        numbers = [int(event.id.partition("-")[0]) for event in first + rest]
        assert numbers == list(range(1, 63))

    resumed()
    assert live.status().events == 62
