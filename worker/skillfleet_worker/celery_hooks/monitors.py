"""Runs in the eyes of Celery's monitors, where Celery itself reports nothing or not the last word.

A run that waits is `RETRY`, with what it waits for as the reason. An attempt that ends in a parked
run is reported by Celery's tracer, as a retry; here are the runs that wait in the memory of their
worker, and the ends of runs that no worker executes.
"""

import logging
import threading
from contextlib import suppress
from queue import Full, Queue
from typing import Any

from celery.utils.collections import LimitedSet
from celery.worker import state

from skillfleet.contracts import RunState
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_worker.services.node import Node

logger = logging.getLogger(__name__)

_MAX_QUEUED = 1000
_MAX_REVOKED = 10_000
_REVOKED_SECONDS = 600.0


class RevokedRuns:
    """The runs that have ended because of a revoke: a retry is not the last event of theirs.

    The ledger ends a parked run, or one that waits for its next attempt, at once; the worker may
    report that attempt only afterwards. Any thread.
    """

    def __init__(self) -> None:
        self._ids = LimitedSet(maxlen=_MAX_REVOKED, expires=_REVOKED_SECONDS)

    def show(self, run_id: str, name: str, dispatcher: Any) -> None:
        """Report a run as revoked."""
        # Noted first: `show_again` looks after its retry is sent.
        self._ids.add(run_id)
        if dispatcher:
            dispatcher.send("task-revoked", uuid=run_id, name=name, **revoked_fields())

    def show_again(self, request: Any) -> None:
        """Report the run of a request as revoked, after its retry, if it is."""
        if request.id in self._ids:
            request.send_event("task-revoked", **revoked_fields())


def revoked_fields() -> dict[str, Any]:
    """Return the fields of the event for a cancelled run."""
    return {"terminated": True, "signum": "SIGTERM", "expired": False}


def show_waiting(run_id: str, reason: str) -> None:
    """Report that a run of this process waits for something, or, without a reason, goes on.

    In the process that consumes messages, on the handler's loop. That of the event-loop pool is in
    the thread of Celery's connection for events; in a threads pool Celery itself sends from all.
    """
    request = state.requests.get(run_id)
    if request is None:
        return
    if reason:
        request.send_event("task-retried", exception=reason, traceback="")
    else:
        request.send_event("task-started")


class EndEvents:
    """The sender of events for the ends of runs that no worker executes: from a thread of its own.

    A broker that is away neither stops the caller nor keeps the process from ending.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._queue: Queue[tuple[str, dict[str, Any]]] = Queue(_MAX_QUEUED)
        self._sender: threading.Thread | None = None

    def show(self, run_id: str, name: str, end: RunEnd) -> None:
        """Report the end of a run; on the home loop."""
        event = ("task-failed", {"exception": end.message, "traceback": ""})
        if end.state is RunState.CANCELLED:
            event = ("task-revoked", revoked_fields())
        event[1].update(uuid=run_id, name=name)
        with suppress(Full):
            self._queue.put_nowait(event)
        if self._sender is None:
            self._sender = threading.Thread(
                target=self._send_all, name="skillfleet-end-events", daemon=True
            )
            self._sender.start()

    def _send_all(self) -> None:
        while True:
            kind, fields = self._queue.get()
            try:
                self._send(kind, fields)
            except Exception as error:  # noqa: BLE001 - the run has ended all the same
                logger.warning("run %s: monitors do not see its end: %r", fields["uuid"], error)

    def _send(self, kind: str, fields: dict[str, Any]) -> None:
        node = self._node
        if node.in_child:
            # The main process's connection is not a child's to use.
            with node.app.events.default_dispatcher(node.hostname) as dispatcher:
                dispatcher.send(kind, **fields)
        elif node.consumer is not None and node.consumer.event_dispatcher:
            node.consumer.event_dispatcher.send(kind, **fields)
