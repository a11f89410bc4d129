"""Per-broker state that survives reconnects: unconfirmed acks, lost claims, messages to requeue.

Celery replaces a broken connection together with its channels. What has to survive that is kept
here: acknowledgements that the broker has not confirmed, claims whose reply was lost, and
messages that could not be requeued.
"""

import os
from collections.abc import Hashable
from dataclasses import dataclass, field

# More at once would block the server, and Lua's stack is limited to some thousands.
MOST_TAGS = 1000


@dataclass(eq=False)
class PendingAcks:
    """Acknowledgements and requests that are still to be sent to one broker.

    Any thread may call `acknowledge`; the rest belongs to the consuming thread.
    """

    acknowledged: set[str] = field(default_factory=set)
    """Tags to remove from the unacknowledged messages."""
    unconfirmed_claims: set[float] = field(default_factory=set)
    """Times of claims whose reply was lost, although their messages may have moved."""
    to_requeue: set[str] = field(default_factory=set)
    """Tags of messages to put back into their queues."""

    def acknowledge(self, tag: str) -> None:
        """Note that a message is done: remove it, and never requeue it."""
        self.to_requeue.discard(tag)
        self.acknowledged.add(tag)

    def take_acknowledged(self) -> list[str]:
        """Take the tags to send now; pass them to `acknowledge` again if sending fails."""
        taken: list[str] = []
        while self.acknowledged and len(taken) < MOST_TAGS:
            taken.append(self.acknowledged.pop())
        return taken


# Process-wide, because it has to outlive every connection, channel and Celery app: a tag that is
# acknowledged in one of them must not be requeued by the next. Keyed by broker, so that apps with
# different brokers do not mix.
_of_brokers: dict[Hashable, PendingAcks] = {}


def pending_acks_of(broker: Hashable) -> PendingAcks:
    """Return the state of this process for a broker, identified by any hashable value."""
    return _of_brokers.setdefault(broker, PendingAcks())


# The parent sends what is pending, not a forked child.
os.register_at_fork(after_in_child=_of_brokers.clear)
