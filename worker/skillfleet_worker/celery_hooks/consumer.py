"""Celery's consumer for a fleet: nothing that arrives is lost, and nothing stops the worker."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from celery import signals

from skillfleet.contracts import AgentCard, ReasonCode, RunState
from skillfleet_engine.celery_hooks.consumer import LoopConsumer
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import Submission
from skillfleet_telemetry.metrics import DEAD_LETTERS, record
from skillfleet_worker.attempts.messages import body_of, record_from_message, register_foreign_run
from skillfleet_worker.celery_hooks.envelope import (
    legible_part,
    most_message_bytes,
    problem_of,
    undecoded,
)
from skillfleet_worker.services.node import node_of
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0
_PASS_ON_SECONDS = 1.0
_ITS_OWN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)

LedgerWork = Callable[[Ledger], Coroutine[Any, Any, Any]]


class FleetConsumer(LoopConsumer):
    """Ends runs of unknown skills, keeps what cannot be read with its reason."""

    connection_errors: Any
    event_dispatcher: Any
    timer: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        # Both cost a second at each start, and the ledger knows the other workers.
        super().__init__(*args, **options | {"without_gossip": True, "without_mingle": True})
        if self.loop_pool is None and self.controller is not None:
            # The first that Celery calls at a cold shutdown, before it ends what still runs.
            self.controller.wait_for_soft_shutdown = node_of(self.app).release_runs

    def cancel_active_requests(self) -> None:
        """Cancel what still runs; not every pool can, and the runs were released before."""
        with suppress(NotImplementedError):
            super().cancel_active_requests()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Celery's handler of messages; what it stumbles over is kept."""
        handle = super().create_task_handler(*args, **kwargs)
        most_bytes = most_message_bytes(node_of(self.app).settings)

        def on_message(message: Any) -> None:
            try:
                if "task" not in message.headers:
                    self.on_unknown_message(None, message)
                elif (problem := problem_of(message, most_bytes)) is not None:
                    self._keep(message, f"the message is invalid: {problem}")
                else:
                    handle(message)
            except Exception as error:
                # Transports count errors among the lost connections that are the message's.
                if isinstance(error, self.connection_errors) and not isinstance(error, _ITS_OWN):
                    raise
                logger.debug("a message cannot be read", exc_info=True)
                self._keep(message, f"the message cannot be read: {error!r}")

        return on_message

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Keep a message that is no task."""
        del body
        self._keep(message, "not a message of Celery's protocol 2: no header 'task'")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Keep a message whose body cannot be read."""
        self._keep(message, f"its body cannot be decoded: {exc}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Keep a message that Celery's protocol does not allow."""
        del body
        self._keep(message, f"the message is invalid: {exc}")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """End the run of a skill that nobody serves; pass on what another worker serves."""
        del body
        name = str(message.headers["task"])
        try:
            cards: list[AgentCard] = self.with_ledger(lambda ledger: ledger.directory.catalogue())
        except Exception:
            logger.exception("cannot tell who serves %s: the message goes back", name)
            self._put_back(message)
            return
        queues = {
            f"{card.name}.{skill.name}": card.queue for card in cards for skill in card.skills
        }
        if name in queues:
            self._pass_on(message, queues[name])
            return
        own = {task for task in self.app.tasks if not task.startswith("celery.")}
        known = ", ".join(sorted(own | queues.keys()))
        reason = f"no worker serves {name}; known skills: {known}"
        self._end(message, RunEnd(RunState.FAILED, ReasonCode.UNKNOWN_SKILL, reason))
        self._tell_monitors(message, reason)
        signals.task_unknown.send(
            sender=self, message=message, exc=exc, name=name, id=message.headers.get("id")
        )

    def with_ledger(self, work: LedgerWork) -> Any:
        """Do something with a ledger and wait for it, without standing in the loop's way.

        For the rare orders that reach Celery's consumer; on its thread. Raises what `work`
        raises, and TimeoutError.
        """
        settings = node_of(self.app).settings
        if self.loop_pool is not None:
            return self.loop_pool.offload(run_in_thread_with_ledger, settings, work)
        return run_in_thread_with_ledger(settings, work)

    def _pass_on(self, message: Any, queue: str) -> None:
        """Another worker serves it: put it onto that worker's queue, or back onto ours."""
        if queue in self.app.amqp.queues.consume_from:
            self._put_back(message)
            return
        properties = {
            name: message.properties[name]
            for name in ("correlation_id", "reply_to", "priority", "delivery_mode")
            if message.properties.get(name) is not None
        }
        with self.app.amqp.producer_pool.acquire(block=True) as producer:
            producer.publish(
                message.body,
                exchange="",
                routing_key=queue,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers=message.headers,
                **properties,
            )
        message.ack_log_error(logger, self.connection_errors)

    def _put_back(self, message: Any) -> None:
        """Back onto the queue after a while, so that it does not come round and round."""
        self.timer.call_after(
            _PASS_ON_SECONDS,
            message.reject_log_error,
            (logger, self.connection_errors),
            {"requeue": True},
        )

    def _keep(self, message: Any, reason: str) -> None:
        """A dead letter; the run of a plain Celery client ends with the same reason."""
        foreign = _legible_record(message, node_of(self.app).settings)
        body = body_of(message)
        self._then_acknowledge(
            message,
            lambda ledger: _refuse(ledger, body, reason, foreign),
            f"message refused: {reason}",
        )

    def _end(self, message: Any, end: RunEnd) -> None:
        """End the run behind a message; a message without a run is kept instead."""
        foreign = record_from_message(message, node_of(self.app).settings, require_plain=False)
        if foreign is None:
            self._keep(message, end.message)
            return

        async def close(ledger: Ledger) -> None:
            if record_from_message(message, ledger.settings) is not None:
                await register_foreign_run(ledger, foreign)
            # Anybody can make up a message with a stranger's run id.
            record = await ledger.queries.invocation(foreign.id)
            if record is not None and record.task == foreign.task:
                await ledger.leases.end_unclaimed(foreign.id, foreign.task, end)
                # Whoever gets the message again knows the skill as little.
                await ledger.maintenance.finish_canvas(foreign.id)

        self._then_acknowledge(message, close, f"run {foreign.id} ended: {end.message}")

    def _then_acknowledge(self, message: Any, work: LedgerWork, report: str) -> None:
        try:
            self.with_ledger(work)
        except Exception:
            logger.exception("could not record: %s; the message goes back", report)
            self._put_back(message)
            return
        logger.error("%s", report)
        if not message.acknowledged:
            message.ack_log_error(logger, self.connection_errors)

    def _tell_monitors(self, message: Any, reason: str) -> None:
        if self.event_dispatcher:
            run_id, name = message.headers.get("id"), message.headers["task"]
            self.event_dispatcher.send("task-received", uuid=run_id, name=name)
            self.event_dispatcher.send("task-failed", uuid=run_id, exception=reason)


def keep_refused(settings: WorkerSettings, body: bytes, reason: str) -> None:
    """Keep a message that nobody can read; raises when Redis is out of reach.

    The run of a plain Celery client ends, where the message still says which it is.
    """
    message = undecoded(body)
    foreign = _legible_record(message, settings) if message is not None else None
    run_in_thread_with_ledger(settings, lambda ledger: _refuse(ledger, body, reason, foreign))


def _legible_record(message: Any, settings: WorkerSettings) -> Submission | None:
    legible = legible_part(message)
    return record_from_message(legible, settings) if legible is not None else None


async def _refuse(ledger: Ledger, body: bytes, reason: str, foreign: Submission | None) -> None:
    await ledger.dead_letters.add(reason, body)
    record(DEAD_LETTERS, 1, "message")
    if foreign is not None and await register_foreign_run(ledger, foreign):
        end = RunEnd(RunState.FAILED, ReasonCode.INVALID_ARGUMENTS, reason)
        await ledger.leases.end_unclaimed(foreign.id, foreign.task, end)


def run_in_thread_with_ledger(settings: WorkerSettings, work: LedgerWork) -> Any:
    """Do something with a ledger of its own, on a loop and in a thread of its own; any thread.

    Returns what `work` returns; raises what it raises, or TimeoutError.
    """
    result: list[Any] = []

    async def use() -> Any:
        ledger = Ledger(settings, patient=True)
        try:
            return await work(ledger)
        finally:
            await ledger.close()

    def run() -> None:
        try:
            result.append((asyncio.run(use()), None))
        except Exception as error:  # noqa: BLE001 - handed to the caller
            result.append((None, error))

    thread = threading.Thread(target=run, name="skillfleet-run_in_thread_with_ledger", daemon=True)
    thread.start()
    thread.join(_WAIT_SECONDS)
    if not result:
        raise TimeoutError("Redis did not answer in time")
    value, error = result[0]
    if error is not None:
        raise error
    return value
