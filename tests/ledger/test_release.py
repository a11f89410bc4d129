"""A run that is given back gets its message atomically."""

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import WriteResult
from tests.ledger.durable import entry, recorded
from tests.ledger.helpers import claimed, running


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


async def test_a_released_run_with_a_journal_goes_ahead_of_new_ones(ledger: Ledger) -> None:
    queue = ledger.keys.broker_list("celery", 0)
    await ledger.connection.execute("RPUSH", queue, b"new")
    plain, resumed = await running(ledger), await running(ledger)
    await recorded(ledger, resumed, entry())
    for lease, name in ((plain, b"plain"), (resumed, b"resumed")):
        written = await ledger.leases.requeue(
            lease, lease.seq, outcome="released", reason="drain", message=(queue, name)
        )
        assert written is WriteResult.REQUEUED
    # kombu reads the list from the right.
    messages = await ledger.connection.execute("LRANGE", queue, 0, -1)
    assert messages == [b"plain", b"new", b"resumed"]


async def test_a_claim_returns_the_version_of_the_agent_that_recorded_last(ledger: Ledger) -> None:
    first = await running(ledger)
    assert first.version == ""
    for version, expected in (("1.0", "1.0"), ("", "1.0"), ("2.0", "2.0")):
        lease = first if version == "1.0" else await claimed(ledger, first.run_id)
        name = f"step of {version}"
        await ledger.journals.record(lease, entry(name), {}, version=version, clears_step=False)
        await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="drain")
        again = await claimed(ledger, first.run_id)
        assert again.version == expected
        await ledger.leases.requeue(again, again.seq, outcome="released", reason="drain")
