"""Sending of Celery's events from a thread, so that a slow broker does not block the loop."""

import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from celery.events.dispatcher import EventDispatcher

_MAX_QUEUED = 10_000
"""The maximum number of queued events; a batch of a group counts as one."""
_OFFLINE_SECONDS = 1.0
_OFFLINE = "worker.offline"


class BackgroundDispatcher(EventDispatcher):
    """An event dispatcher that sends in order, in a separate thread.

    Celery's own sends in the calling thread, which under `LoopPool` is the loop's: every two
    seconds a heartbeat, which it retries until the broker answers.
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
            # Another producer, whose owner reuses it after this call.
            self._publish_here(event, producer, routing_key, *args, **options)
            return
        if self._queue.qsize() >= _MAX_QUEUED:
            return
        self._queue.put((event, producer, routing_key, args, options))
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_all, name="events", daemon=True)
            self._sender.start()
        if routing_key == _OFFLINE:
            # Celery closes the connection right after this event.
            sent = threading.Event()
            self._queue.put(sent)
            sent.wait(_OFFLINE_SECONDS)

    def _send_all(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            event, producer, routing_key, args, options = item
            if not self._closed:
                self._publish_here(event, producer, routing_key, *args, **options)
        if self.channel is None and self.connection is not None:
            # Its own connection, which a retried heartbeat may have opened again.
            with suppress(Exception):
                self.connection.release()

    def _publish_here(self, *args: Any, **options: Any) -> None:
        super()._publish(*args, **options)  # type: ignore[misc]  # not in the stubs

    def close(self) -> None:
        """Stop sending and drop queued events."""
        super().close()
        if self._sender is not None:
            self._queue.put(None)
            self._sender = None
