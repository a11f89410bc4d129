"""The number of messages that a channel's consumer can take now.

With `worker_disable_prefetch` Celery only says whether there is a free slot (it replaces
`can_consume`). Claiming several messages at once needs the number, so the consumers of this
process are registered by Celery's signal `worker_ready`.
"""

import weakref
from typing import Any

from celery.signals import worker_ready

# Process-wide, filled by a signal that is connected at import: a channel has no reference to the
# consumer that reads from it. `_idle_slots` picks the consumer by its channel, so workers in one
# process do not mix; the weak references end with each consumer.
_consumers: "weakref.WeakSet[Any]" = weakref.WeakSet()


@worker_ready.connect(weak=False)
def _register(sender: Any, **_: Any) -> None:
    _consumers.add(sender)


def free_slots(channel: Any, most: int) -> int:
    """Return how many messages the channel may claim, at most `most`; 0 without a free slot."""
    qos = channel.qos
    if not qos.can_consume():
        return 0
    by_prefetch = qos.can_consume_max_estimate()
    if by_prefetch is not None:
        most = min(most, by_prefetch)
    if "can_consume" in vars(qos):
        most = min(most, _idle_slots(channel))
    return max(most, 0)


def _idle_slots(channel: Any) -> int:
    """Return the worker's idle slots; 1 for an unknown worker, which has reported a free slot."""
    for consumer in _consumers:
        tasks = consumer.task_consumer
        if tasks is not None and tasks.channel is channel:
            controller = consumer.controller
            limit = getattr(controller, "max_concurrency", None) or consumer.pool.num_processes
            return int(limit) - len(controller.state.reserved_requests)
    return 1
