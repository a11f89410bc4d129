"""Celery's `Task.Strategy` for skills: the handler of a skill's messages.

In the event-loop pool a message becomes a direct request, which executes its run on the loop and
acknowledges its message, without Celery's tracer. Celery's own strategy handles what needs more of
Celery: ETAs, rate and time limits, other message protocols, projects that listen to Celery's
signals of tasks; and all messages in other pools.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery import signals
from celery.worker import state
from celery.worker.strategy import default as celerys_strategy
from celery.worker.strategy import logger as celerys_logger

from skillfleet_engine.celery_hooks.pool import LoopPool
from skillfleet_worker.celery_hooks.direct_request import DirectRequest

_OUR_CODE = ("skillfleet_worker.",)


def skill_strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return the handler of a skill's messages; Celery calls this when a consumer connects."""
    celerys_handler: Callable[..., Any] = celerys_strategy(task, app, consumer, **options)
    if not isinstance(consumer.pool, LoopPool):
        return celerys_handler
    listeners = Listeners(task)
    rate_limits = {} if consumer.disable_rate_limits else consumer.task_buckets
    eventer, logs = consumer.event_dispatcher, celerys_logger.isEnabledFor(logging.DEBUG)

    def on_message(message: Any, body: Any, ack: Any, reject: Any, *args: Any, **more: Any) -> Any:
        headers = message.headers
        if (
            body is not None
            or headers.get("eta")
            or headers.get("expires")
            or any(headers.get("timelimit") or ())
            or task.time_limit
            or task.soft_time_limit
            or rate_limits.get(task.name)
            or isinstance(message.payload, dict)
            or listeners.present()
        ):
            return celerys_handler(message, body, ack, reject, *args, **more)
        request = DirectRequest(
            message,
            on_ack=ack,
            on_reject=reject,
            app=app,
            hostname=consumer.hostname,
            eventer=eventer,
            task=task,
            connection_errors=consumer.connection_errors,
        )
        if logs:
            request.log_received()
        signals.task_received.send(sender=consumer, request=request)
        request.send_received_event()
        state.task_reserved(request)
        consumer.on_task_request(request)
        return None

    return on_message


class Listeners:
    """Receivers of the signals that Celery's tracer sends for a task."""

    _signals = (signals.task_prerun, signals.task_postrun, signals.task_success)

    def __init__(self, task: Any) -> None:
        self._task = task
        self._counts: tuple[int, ...] = ()
        self._present = False

    def present(self) -> bool:
        """Return True when a receiver does not belong to this package."""
        counts = tuple(len(signal.receivers or ()) for signal in self._signals)
        if counts != self._counts:
            self._counts = counts
            self._present = any(
                not _module_of(receiver).startswith(_OUR_CODE)
                for signal in self._signals
                for receiver in _receivers(signal, self._task)
            )
        return self._present


def _receivers(signal: Any, sender: Any) -> list[Any]:
    return list(signal._live_receivers(sender))  # noqa: SLF001 - Celery has no other way


def _module_of(receiver: Any) -> str:
    owner = getattr(receiver, "__self__", None)
    return str(type(owner).__module__ if owner is not None else receiver.__module__)
