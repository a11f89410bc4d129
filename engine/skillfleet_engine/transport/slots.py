"""How many messages a channel's consumer can take now.

With `worker_disable_prefetch` Celery answers that only with yes or no (it replaces
`can_consume`). To claim several messages at once the number is needed, so the workers of this
process are remembered by Celery's signal `worker_ready`.
"""

import weakref
from typing import Any

from celery.signals import worker_ready

_consumers: "weakref.WeakSet[Any]" = weakref.WeakSet()


@worker_ready.connect(weak=False)
def _remember(sender: Any, **_: Any) -> None:
    _consumers.add(sender)


def free_places(channel: Any, most: int) -> int:
    """How many messages the channel may claim, at most `most`; 0 when its consumer is full."""
    qos = channel.qos
    if not qos.can_consume():
        return 0
    by_prefetch = qos.can_consume_max_estimate()
    if by_prefetch is not None:
        most = min(most, by_prefetch)
    if "can_consume" in vars(qos):
        most = min(most, _free_slots(channel))
    return max(most, 0)


def _free_slots(channel: Any) -> int:
    """The worker's idle slots; 1 where the worker is not known, as a yes was heard before."""
    for consumer in _consumers:
        tasks = consumer.task_consumer
        if tasks is not None and tasks.channel is channel:
            controller = consumer.controller
            limit = getattr(controller, "max_concurrency", None) or consumer.pool.num_processes
            return int(limit) - len(controller.state.reserved_requests)
    return 1
