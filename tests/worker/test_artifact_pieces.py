"""An artifact may come out of the handler's own generator, in every pool."""

import pytest

from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS
from tests.worker.shared import StartWorker


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_an_async_generator_of_the_handler_is_stored_piece_by_piece(
    pool: str, start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker("tests.worker.blocking", pool=pool, concurrency=2)
    run = own_fleet.enqueue("blocking.write_pieces", {"pieces": 300, "size": 7000})
    assert run.result(timeout=30) == 300 * 7000
    expected = b"".join(bytes([number % 256]) * 7000 for number in range(300))
    assert run.read_artifact("pieces.bin") == expected
    assert b"".join(run.stream_artifact("pieces.bin")) == expected
