"""Giving a run back to the queue at once, uncounted: at a drain, or when its process must end."""

from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.store import Lease, Write
from skillfleet_producer.message import envelope
from skillfleet_producer.publisher import Publisher, publish_or_leave


async def release(
    ledger: Ledger, publisher: Publisher, lease: Lease, seq: int, reason: str
) -> Write:
    """Give the run back and wake a worker for it.

    `seq` is the number of the attempt's last event. Where the broker is the ledger's Redis, state
    and message change together; elsewhere a crash between the two leaves the run to the reaper.
    Raises FleetUnavailableError.
    """
    invocation = await ledger.runs.invocation(lease.run_id)
    if invocation is None:
        return Write.LOST
    if ledger.settings.broker_is_ledger:
        queue = ledger.keys.broker_list(invocation.queue, invocation.priority)
        message = (queue, envelope(invocation))
        return await ledger.runs.requeue(
            lease, seq, outcome="released", reason=reason, message=message
        )
    written = await ledger.runs.requeue(lease, seq, outcome="released", reason=reason)
    if written is Write.REQUEUED:
        await publish_or_leave(publisher, invocation)
    return written
