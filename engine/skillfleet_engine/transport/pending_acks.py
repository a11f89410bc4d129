"""What this process still owes a broker: it outlives channels and connections.

Celery replaces its connection when it breaks, with everything that hangs on it. Here is what
must not go with it: acknowledgements that the broker has not confirmed, claims whose reply was
lost, and messages that could not be given back.
"""

import os
from collections.abc import Hashable
from dataclasses import dataclass, field

# More at once would hold the server up, and Lua's stack ends at some thousands.
MOST_TAGS = 1000


@dataclass(eq=False)
class Unsettled:
    """Any thread may call `acknowledge`; the rest belongs to the thread that consumes."""

    acknowledged: set[str] = field(default_factory=set)
    """Tags to remove from the unacknowledged messages."""
    unseen_claims: set[float] = field(default_factory=set)
    """Times of claims whose messages may have moved without anybody having seen them."""
    abandoned: set[str] = field(default_factory=set)
    """Tags of messages to put back into their queues."""

    def acknowledge(self, tag: str) -> None:
        """A message is done with: it must be removed, and never be put back."""
        self.abandoned.discard(tag)
        self.acknowledged.add(tag)

    def take_acknowledged(self) -> list[str]:
        """Tags to send now; give them to `acknowledge` again if they do not arrive."""
        taken: list[str] = []
        while self.acknowledged and len(taken) < MOST_TAGS:
            taken.append(self.acknowledged.pop())
        return taken


_of_brokers: dict[Hashable, Unsettled] = {}


def unsettled_with(broker: Hashable) -> Unsettled:
    """The one of this process for a broker (whatever tells one broker from another)."""
    return _of_brokers.setdefault(broker, Unsettled())


# A forked child owes nothing: its parent settles.
os.register_at_fork(after_in_child=_of_brokers.clear)
