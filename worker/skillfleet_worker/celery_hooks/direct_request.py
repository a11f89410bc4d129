"""Celery's request for a run that the event-loop pool executes without Celery's tracer."""

import logging
import time
import weakref
from collections.abc import Mapping
from typing import Any

from celery.app import trace
from celery.exceptions import TaskRevokedError
from celery.utils.saferepr import saferepr
from celery.worker import state, strategy

from skillfleet_engine.celery_hooks.jobs import Call
from skillfleet_engine.transport.channel import Channel
from skillfleet_telemetry import logs
from skillfleet_worker.attempts.messages import REPLAYED
from skillfleet_worker.celery_hooks.request import SkillRequest
from skillfleet_worker.celery_hooks.skill_task import ReplayedResult

logger = logging.getLogger(__name__)

_CANVAS = ("callbacks", "chain", "chord")


class DirectRequest(SkillRequest):
    """Reports a plain success itself; every other outcome goes through Celery's tracer."""

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:
        """Queue the run for a slot of the pool; raise TaskRevokedError as Celery's method does."""
        if self.revoked():
            state.task_ready(self)
            raise TaskRevokedError(self.id)
        encoding = (self.content_type, self.content_encoding)
        call = Call(
            trace.fast_trace_task,
            (self.type, self.id, self.request_dict, self.body, *encoding),
            {},
            self.on_success,
            error_callback=self.on_failure,
            correlation_id=self.id,
        )
        job = pool.apply_direct(self._work, call)
        self._apply_result = weakref.ref(job)
        return job

    def log_received(self) -> None:
        """Log Celery's line for a received message at DEBUG, since a run has its own line."""
        context = {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr,
            "kwargs": self.kwargsrepr,
            "eta": None,
        }
        strategy.logger.debug(trace.LOG_RECEIVED, context, extra={"data": context})

    @property
    def monitored(self) -> bool:
        """True while a monitor such as Flower receives events of tasks."""
        eventer = self.eventer
        if eventer is None or not eventer.enabled:
            return False
        # Without -E the worker only sends events about itself, until a monitor enables others.
        return not eventer.groups or "task" in eventer.groups

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event to Celery's monitors, if there are any."""
        if self.monitored:
            super().send_event(type, **fields)

    def send_received_event(self) -> None:
        """Send the event for a received message to Celery's monitors."""
        if not self.monitored:
            return
        headers = self.request_dict
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            root_id=self.root_id,
            parent_id=self.parent_id,
            retries=headers.get("retries", 0),
            eta=None,
            expires=None,
        )

    def acknowledge(self) -> None:
        """Acknowledge the message; directly where the transport just queues that."""
        if isinstance(self.message.channel, Channel) and not self.acknowledged:
            self.message.ack_log_error(logger, self.connection_errors)
            self.acknowledged = True
        else:
            super().acknowledge()

    async def _work(self, pid: int) -> bool:
        began = time.monotonic()
        self.on_accepted(pid, began)
        logs.begin_run(self.id, self.name)
        try:
            request = {**self.request_dict, **self._canvas} if self._canvas else self.request_dict
            value = await self.task.execute(request, self.args, self.kwargs)
        except Exception as error:  # noqa: BLE001 - Celery's tracer reports it
            replayed = ReplayedResult(error=error)
        else:
            if not self._continues:
                self._succeeded(value, time.monotonic() - began)
                return True
            replayed = ReplayedResult(value)
        self.request_dict[REPLAYED] = replayed
        return False

    @property
    def _canvas(self) -> Mapping[str, Any]:
        """The canvas of the message: callbacks, errbacks, chain, chord."""
        embedded: Mapping[str, Any] | None = self.message.payload[2]
        return embedded or {}

    @property
    def _continues(self) -> bool:
        """True when Celery has to continue after a success: a chain, a chord, callbacks."""
        parts = any(self._canvas.get(part) for part in _CANVAS)
        return bool(parts or self.request_dict.get("group"))

    def _succeeded(self, value: Any, runtime: float) -> None:
        state.task_ready(self)
        self.acknowledge()
        logged = trace.logger.isEnabledFor(logging.DEBUG)
        if not logged and not self.monitored:
            return
        shown = saferepr(value, self.task.resultrepr_maxsize)
        self.send_event("task-succeeded", result=shown, runtime=runtime)
        if logged:
            context = {
                "id": self.id,
                "name": self.name,
                "return_value": shown,
                "runtime": runtime,
                "args": self.request_dict.get("argsrepr"),
                "kwargs": self.kwargsrepr,
            }
            trace.logger.debug(trace.LOG_SUCCESS, context, extra={"data": context})
