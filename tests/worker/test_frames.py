"""The way from received bytes to the handler is short enough to read."""

from skillfleet_producer import Fleet
from tests.worker.shared import StartWorker

MOST = 16
RECEIVE = "MessageFetcher.receive"
LOOP = "run_until_stopped"
"""The event loop itself, below every task."""


def test_from_received_bytes_to_the_handler_there_are_at_most_16_frames_of_ours(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker("tests.worker.frames", pool="loop", concurrency=2)
    stack: list[str] = own_fleet.enqueue("frames.stack").result(timeout=30)
    spine = [frame for frame in stack[stack.index(RECEIVE) :] if frame != LOOP]
    assert "SkillTask.execute" in spine
    assert "Executor.run" in spine
    assert len(spine) <= MOST, "\n".join(spine)
