"""Celery's events, sent from a thread: a broker that does not answer holds up no event loop."""

import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from celery.events.dispatcher import EventDispatcher

_MOST_WAITING = 10_000
"""Events (batches of a task group count as one) that wait for a broker at the most."""
_OFFLINE_SECONDS = 1.0
_OFFLINE = "worker.offline"


class BackgroundDispatcher(EventDispatcher):
    """Sends in order, in a thread of its own.

    Celery's own sends where it is called, which under `LoopPool` is the loop's thread: every two
    seconds a heartbeat, which it tries again until the broker answers.
    """

    channel: Any
    connection: Any
    producer: Any
    _closed: bool

    def __init__(self, *args: Any, **options: Any) -> None:
        self._queue: SimpleQueue[tuple[Any, ...] | threading.Event | None] = SimpleQueue()
        self._sender: threading.Thread | None = None
        super().__init__(*args, **options)

    def _publish(
        self, event: Any, producer: Any, routing_key: str, *args: Any, **options: Any
    ) -> None:
        if producer is None or producer is not self.producer:
            # Somebody else's producer, who takes it back when this returns.
            self._publish_here(event, producer, routing_key, *args, **options)
            return
        if self._queue.qsize() >= _MOST_WAITING:
            return
        self._queue.put((event, producer, routing_key, args, options))
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_all, name="events", daemon=True)
            self._sender.start()
        if routing_key == _OFFLINE:
            # The connection is closed right after it.
            said = threading.Event()
            self._queue.put(said)
            said.wait(_OFFLINE_SECONDS)

    def _send_all(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            event, producer, routing_key, args, options = item
            if not self._closed:
                self._publish_here(event, producer, routing_key, *args, **options)
        if self.channel is None and self.connection is not None:
            # Its own, which a heartbeat that was tried for long has perhaps opened again.
            with suppress(Exception):
                self.connection.release()

    def _publish_here(self, *args: Any, **options: Any) -> None:
        super()._publish(*args, **options)  # type: ignore[misc]  # not in the stubs

    def close(self) -> None:
        """Send no more; what waits for a broker that does not answer is forgotten with it."""
        super().close()
        if self._sender is not None:
            self._queue.put(None)
            self._sender = None
