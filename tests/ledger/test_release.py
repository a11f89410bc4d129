"""A run that is given back gets its message atomically."""

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import WriteResult
from tests.ledger.helpers import running


async def test_state_and_message_change_together(ledger: Ledger) -> None:
    lease = await running(ledger)
    queue = ledger.keys.broker_list("celery", 0)
    for _ in range(2):
        written = await ledger.leases.requeue(
            lease, lease.seq, outcome="released", reason="drain", message=(queue, b"message")
        )
        assert written is WriteResult.REQUEUED
    assert (await ledger.queries.status(lease.run_id)).state is RunState.QUEUED
    assert await ledger.connection.execute("LRANGE", queue, 0, -1) == [b"message"]
