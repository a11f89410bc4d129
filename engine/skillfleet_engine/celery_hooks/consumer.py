"""Celery's consumer, without blocking the event loop.

Select it with `worker_consumer = "skillfleet_engine:LoopConsumer"`. Under
`LoopPool` the loop keeps running while the consumer connects, loses its connection, waits for the
broker to return, starts and stops its steps, and sends events. Under any other pool it is
Celery's own.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import Evloop
from kombu.common import ignore_errors

from skillfleet_engine.celery_hooks.outage import Outage
from skillfleet_engine.celery_hooks.pool import LoopPool
from skillfleet_engine.celery_hooks.unacknowledged import Unacknowledged
from skillfleet_engine.transport.redis_socket import RefusedError

logger = logging.getLogger(__name__)

CELERYS_STEPS = "celery.worker.consumer."
DISPATCHER = "skillfleet_engine.celery_hooks.events:BackgroundDispatcher"


class LoopConsumer(Consumer):
    """Celery's consumer; with `LoopPool` its blocking work is done in a thread."""

    controller: Any
    steps: list[Any]
    qos: Any
    task_consumer: Any
    connection: Any
    conninfo: Any
    timer: Any
    channel_errors: tuple[type[BaseException], ...]
    prefetch_multiplier: int
    initial_prefetch_count: int
    max_prefetch_count: int
    _maximum_prefetch_restored: bool

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unacknowledged = Unacknowledged()
        self._outage = Outage()
        self.loop_pool = self.pool if isinstance(self.pool, LoopPool) else None
        if self.loop_pool is not None:
            self.loop_pool.on_released = self._adjust_prefetch
            self._offload_steps(self.loop_pool)
            if self.conninfo.transport.driver_type == "redis":
                # Not with AMQP, whose connections belong to one thread.
                self.app.events.dispatcher_cls = DISPATCHER
            if self.controller is not None:
                self.controller.wait_for_soft_shutdown = partial(
                    self._soft_shutdown, self.loop_pool
                )

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Report a broker that refuses what the consumer needs before it consumes."""
        super().on_connection_error_before_connected(exc)
        self._pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Clean up after a lost connection, which may block on its dead sockets."""
        clean_up = super().on_connection_error_after_connected
        self._unacknowledged.collect(self.connection)
        self._pause(exc)
        self._offload(clean_up, exc)
        if self.conninfo.transport.driver_type == "redis":
            # The new connection counts the running tasks itself.
            self.initial_prefetch_count = self.max_prefetch_count
            self._maximum_prefetch_restored = True
        else:
            # The broker redelivers what the lost channel held: there is nothing to acknowledge.
            for request in tuple(state.active_requests):
                request.acknowledged = True

    def _pause(self, error: Exception) -> None:
        refused = isinstance(error, (*self.channel_errors, RefusedError))
        self._outage.failed(error, partial(self._offload, time.sleep), refused=refused)

    def on_ready(self) -> None:
        """Note that the consumer consumes; called by Celery."""
        super().on_ready()
        self._replace_killed_children()
        self._outage.ready(self.timer.call_after)

    def _replace_killed_children(self) -> None:
        """Replace children that were killed while the worker waited for its broker.

        Celery would take their pool for one that cannot start, and end the worker
        (celery/worker/loops.py, asynloop). It replaces those that are killed later.
        """
        pool: Any = getattr(self.pool, "_pool", None)
        if any((child.exitcode or 0) < 0 for child in getattr(pool, "_pool", ())):
            pool.maintain_pool()

    def shutdown(self) -> None:
        """Shut down; called by Celery."""
        super().shutdown()
        self._outage.close()

    def register_with_event_loop(self, hub: Any) -> None:
        """Move kept messages to the new connection; called by Celery before it consumes."""
        super().register_with_event_loop(hub)
        self._offload(self._unacknowledged.move_to, self.task_consumer.channel)

    def _offload(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.loop_pool is None:
            return function(*args)
        return self.loop_pool.offload(function, *args)

    def _offload_steps(self, pool: LoopPool) -> None:
        # A project's own steps stay on the loop's thread, so that they may use the loop.
        for step in self.steps:
            if type(step).__module__.startswith(CELERYS_STEPS) and not isinstance(step, Evloop):
                step.start = partial(pool.offload, step.start)
                step.stop = partial(pool.offload, step.stop)

    def _adjust_prefetch(self, by: int) -> None:
        if self.qos is not None:
            adjust = self.qos.increment_eventually if by > 0 else self.qos.decrement_eventually
            adjust(abs(by) * self.prefetch_multiplier)

    def _soft_shutdown(self, pool: LoopPool) -> None:
        """Wait for running tasks; Celery's own sleep would block the tasks it waits for."""
        seconds = self.app.conf.worker_soft_shutdown_timeout
        even_if_idle = self.app.conf.worker_enable_soft_shutdown_on_idle
        if seconds <= 0 or not (state.active_requests or even_if_idle):
            return
        logger.warning("Initiating Soft Shutdown, terminating in %s seconds", seconds)
        if self.task_consumer:
            ignore_errors(self, self.task_consumer.cancel)  # type: ignore[arg-type]
        pool.drain(seconds)
