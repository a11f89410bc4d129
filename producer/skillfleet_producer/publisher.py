"""Publishers: they put a run's message onto the broker to wake a worker.

The record in the ledger stays the truth.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.runs.records import Invocation
from skillfleet_producer.message import body, envelope, headers, plain_part

logger = logging.getLogger(__name__)


class Publisher(ABC):
    """A publisher of runs' messages to the broker. A repeated message is harmless."""

    @abstractmethod
    async def publish(self, invocation: Invocation, *, first: bool = False) -> None:
        """Publish the run's message; raises OSError when the broker is unreachable.

        `first`: ahead of the messages of its queue and priority, as a run that resumes, where the
        broker can do that.
        """

    @abstractmethod
    async def empty(self, queues: Sequence[str]) -> tuple[str, ...]:
        """Return those of the queues that hold no message, according to the broker.

        Raises OSError when the broker is unreachable.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release the connection."""


class LedgerPublisher(Publisher):
    """The publisher for a broker on the ledger's own Redis: one push, as kombu does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def publish(self, invocation: Invocation, *, first: bool = False) -> None:
        """Push the message onto the queue's list, which is read from the right."""
        queue = self._ledger.keys.broker_list(invocation.queue, invocation.priority)
        push = "RPUSH" if first else "LPUSH"
        await self._ledger.connection.execute(push, queue, envelope(invocation))

    async def empty(self, queues: Sequence[str]) -> tuple[str, ...]:
        """Return none: the reaper's script reads the lists itself."""
        del queues
        return ()

    async def close(self) -> None:
        """Do nothing: the connection belongs to the ledger."""


class CeleryPublisher(Publisher):
    """The publisher for all other brokers: Celery's client in a thread, with bounded retries.

    A message cannot go ahead of others there: AMQP keeps the order of a priority, and a higher
    priority would go ahead of other runs, too.
    """

    def __init__(self, settings: Settings) -> None:
        # This import takes half a second, which Redis users need not pay.
        from celery import Celery  # noqa: PLC0415
        from kombu.exceptions import OperationalError  # noqa: PLC0415

        timeout = self._timeout = settings.redis_timeout_seconds
        self._app = Celery(set_as_current=False, broker=settings.celery_broker_url)
        self._app.conf.update(
            broker_connection_timeout=timeout,
            task_publish_retry_policy={
                "max_retries": 2,
                "interval_start": 0,
                "interval_step": 0.2,
                "interval_max": 0.5,
            },
            broker_transport_options={
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
                "global_keyprefix": settings.keyspace.broker_prefix,
            },
        )

        with self._app.connection_for_write() as connection:
            self._broken: tuple[type[BaseException], ...] = (
                *connection.recoverable_connection_errors,
                OperationalError,
                OSError,
            )

    async def publish(self, invocation: Invocation, *, first: bool = False) -> None:
        """Send the message through Celery's producer, within the timeout."""
        del first
        # Celery's retries together may take longer than the caller can wait.
        async with asyncio.timeout(self._timeout):
            await asyncio.to_thread(self._send, invocation)

    async def empty(self, queues: Sequence[str]) -> tuple[str, ...]:
        """Ask the broker for the number of messages that are ready in each queue."""
        return await asyncio.to_thread(self._empty, tuple(queues))

    async def close(self) -> None:
        """Close Celery's connection pool."""
        await asyncio.to_thread(self._app.close)

    def _send(self, invocation: Invocation) -> None:
        try:
            with self._app.producer_pool.acquire(block=True) as producer:
                self._app.amqp.send_task_message(
                    producer,
                    invocation.task,
                    _message(invocation),
                    queue=invocation.queue,
                    priority=invocation.priority,
                )
        except self._broken as error:
            raise ConnectionError(f"the broker is unreachable: {error}") from error

    def _empty(self, queues: tuple[str, ...]) -> tuple[str, ...]:
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=int(self._timeout))
                return tuple(queue for queue in queues if not _ready(connection, queue))
        except self._broken as error:
            raise ConnectionError(f"the broker is unreachable: {error}") from error


def _message(invocation: Invocation) -> Any:
    """Return the message in the form that Celery's own sender takes."""
    from celery.app.amqp import task_message  # noqa: PLC0415 - Redis users need not pay for it

    properties = {"correlation_id": invocation.id, "reply_to": ""}
    properties |= plain_part(invocation).properties
    return task_message(headers(invocation), properties, body(invocation), None)


def _ready(connection: Any, queue: str) -> int:
    """Return the number of messages waiting in a queue; 0 when there is no such queue."""
    channel = connection.channel()
    try:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection.channel_errors:
        return 0
    finally:
        with contextlib.suppress(Exception):
            channel.close()


def publisher_for(ledger: Ledger) -> Publisher:
    """Return the publisher that fits the settings of the ledger."""
    if ledger.settings.broker_is_ledger:
        return LedgerPublisher(ledger)
    return CeleryPublisher(ledger.settings)


async def publish_or_leave(
    publisher: Publisher, invocation: Invocation, *, first: bool = False
) -> bool:
    """Publish; where the broker is unreachable, leave the run to the reaper, which finds it.

    Returns whether the message was published.
    """
    try:
        await publisher.publish(invocation, first=first)
    except OSError as error:
        reason = str(error) or type(error).__name__
        logger.warning("run %s is recorded but not published yet: %s", invocation.id, reason)
        return False
    return True


async def publish_woken(ledger: Ledger, publisher: Publisher, run_id: str) -> None:
    """Publish a parked run that has been queued again, ahead of new ones; the reaper's work if not.

    A run without a record any more needs no message.
    """
    invocation = await ledger.queries.invocation(run_id)
    if invocation is None or await publish_or_leave(publisher, invocation, first=True):
        await ledger.maintenance.published(ledger.keys.shard(run_id), [run_id])


def publish_woken_runs(ledger: Ledger, publisher: Publisher) -> None:
    """Have the runs that the ledger's scripts make ready published at once.

    Those that cannot be published are left to the reaper.
    """

    async def publish_one(run_id: str) -> None:
        try:
            await publish_woken(ledger, publisher, run_id)
        except OSError as error:
            logger.warning("run %s is ready but not published yet: %s", run_id, error)

    async def publish(run_ids: Sequence[str]) -> None:
        # Each goes ahead of those that were published before it.
        await asyncio.gather(*(publish_one(run_id) for run_id in reversed(run_ids)))

    ledger.woken.publish = publish
