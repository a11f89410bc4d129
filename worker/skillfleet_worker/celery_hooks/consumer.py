"""Celery's consumer for a fleet: faulty messages become dead letters and never stop the worker."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from celery import signals

from skillfleet.contracts import AgentCard, ReasonCode, RunState
from skillfleet_engine.celery_hooks.consumer import LoopConsumer
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import Submission
from skillfleet_telemetry.metrics import DEAD_LETTERS, record
from skillfleet_worker.attempts.messages import (
    body_of,
    record_from_message,
    record_with_arguments,
    register_foreign_run,
)
from skillfleet_worker.celery_hooks.envelope import (
    message_from_raw,
    most_message_bytes,
    problem_of,
    readable_part,
)
from skillfleet_worker.celery_hooks.monitors import RevokedRuns
from skillfleet_worker.services.node import node_of
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0
_REQUEUE_SECONDS = 1.0
_OF_MESSAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)

LedgerWork = Callable[[Ledger], Coroutine[Any, Any, Any]]


class FleetConsumer(LoopConsumer):
    """The handler that ends runs of unknown skills and dead-letters unprocessable messages."""

    connection_errors: Any
    event_dispatcher: Any
    timer: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        # Each costs a second at start-up, and the ledger knows the other workers.
        super().__init__(*args, **options | {"without_gossip": True, "without_mingle": True})
        self.revoked_runs = RevokedRuns()
        if self.loop_pool is None and self.controller is not None:
            # Celery's first call at a cold shutdown, before it ends what still runs.
            self.controller.wait_for_soft_shutdown = node_of(self.app).release_runs

    def cancel_active_requests(self) -> None:
        """Cancel active requests where the pool can; their runs were released before."""
        with suppress(NotImplementedError):
            super().cancel_active_requests()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Celery's task handler; messages it cannot process are dead-lettered."""
        handle = super().create_task_handler(*args, **kwargs)
        most_bytes = most_message_bytes(node_of(self.app).settings)

        def on_message(message: Any) -> None:
            try:
                if "task" not in message.headers:
                    self.on_unknown_message(None, message)
                elif (problem := problem_of(message, most_bytes)) is not None:
                    self._dead_letter(message, f"the message is invalid: {problem}")
                else:
                    handle(message)
            except Exception as error:
                # Transports count some errors of messages among the connection errors.
                if isinstance(error, self.connection_errors) and not isinstance(error, _OF_MESSAGE):
                    raise
                logger.debug("a message cannot be read", exc_info=True)
                self._dead_letter(message, f"the message cannot be read: {error!r}")

        return on_message

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Dead-letter a message that is not a task."""
        del body
        self._dead_letter(message, "not a message of Celery's protocol 2: no header 'task'")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Dead-letter a message whose body cannot be decoded."""
        self._dead_letter(message, f"its body cannot be decoded: {exc}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Dead-letter a message that violates Celery's protocol."""
        del body
        self._dead_letter(message, f"the message is invalid: {exc}")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Hold the run of a skill that no worker serves; forward one that another worker serves.

        It ends where the agent is known and has no such skill.
        """
        del body
        name = str(message.headers["task"])
        waits = node_of(self.app).settings.unserved_seconds > 0
        try:
            cards, live = self.with_ledger(_catalogue)
        except Exception:
            logger.exception(
                "could not look up the workers that serve %s: the message is requeued", name
            )
            self._requeue(message)
            return
        queues = _queues_of(cards)
        served = _queues_of(card for card in cards if (card.name, card.version) in live)
        is_new = all(card.name != name.partition(".")[0] for card in cards)
        if name in served or (name in queues and not waits):
            self._forward(message, (served or queues)[name])
            return
        if (name in queues or is_new) and waits and self._hold(message, name):
            return
        own = {task for task in self.app.tasks if not task.startswith("celery.")}
        known = ", ".join(sorted(own | queues.keys()))
        reason = f"no worker serves {name}; known skills: {known}"
        self._end(message, RunEnd(RunState.FAILED, ReasonCode.UNKNOWN_SKILL, reason))
        self._send_failure_events(message, reason)
        signals.task_unknown.send(
            sender=self, message=message, exc=exc, name=name, id=message.headers.get("id")
        )

    def with_ledger(self, work: LedgerWork) -> Any:
        """Run `work` with a ledger and wait for it, without blocking the event loop.

        For the rare requests that reach Celery's consumer; on its thread. Raises what `work`
        raises, and TimeoutError.
        """
        settings = node_of(self.app).settings
        if self.loop_pool is not None:
            return self.loop_pool.offload(run_in_thread_with_ledger, settings, work)
        return run_in_thread_with_ledger(settings, work)

    def _forward(self, message: Any, queue: str) -> None:
        """Move a message to the queue of the worker that serves it; requeue it if that is ours."""
        if queue in self.app.amqp.queues.consume_from:
            self._requeue(message)
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

    def _requeue(self, message: Any) -> None:
        """Requeue a message after a delay, so that it does not circulate at full speed."""
        self.timer.call_after(
            _REQUEUE_SECONDS,
            message.reject_log_error,
            (logger, self.connection_errors),
            {"requeue": True},
        )

    def _dead_letter(self, message: Any, reason: str) -> None:
        """Dead-letter a message; the run of a plain Celery client ends with the same reason."""
        foreign = _record_of(message, node_of(self.app).settings)
        body = body_of(message)
        self._then_acknowledge(
            message,
            lambda ledger: _add_dead_letter(ledger, body, reason, foreign),
            f"message dead-lettered: {reason}",
        )

    def _hold(self, message: Any, task: str) -> bool:
        """Hold the run of a message until a worker serves its skill; False if it cannot wait."""
        settings = node_of(self.app).settings
        is_plain = record_from_message(message, settings) is not None
        foreign = (
            record_with_arguments(message, settings)
            if is_plain
            else record_from_message(message, settings, require_plain=False)
        )
        if foreign is None:
            return False

        async def hold(ledger: Ledger) -> None:
            if is_plain:
                await register_foreign_run(ledger, foreign)
            # Any client can send a message with the id of another client's run.
            record = await ledger.queries.invocation(foreign.id)
            if record is not None and record.task == task:
                await ledger.held.hold_unserved(foreign.id, task)

        report = f"run {foreign.id} is held until a worker serves {task}"
        self._then_acknowledge(message, hold, report, logging.WARNING)
        return True

    def _end(self, message: Any, end: RunEnd) -> None:
        """End the run of a message; dead-letter a message without a run."""
        foreign = record_from_message(message, node_of(self.app).settings, require_plain=False)
        if foreign is None:
            self._dead_letter(message, end.message)
            return

        async def close(ledger: Ledger) -> None:
            if record_from_message(message, ledger.settings) is not None:
                await register_foreign_run(ledger, foreign)
            # Any client can send a message with the id of another client's run.
            record = await ledger.queries.invocation(foreign.id)
            if record is not None and record.task == foreign.task:
                await ledger.leases.end_unclaimed(foreign.id, foreign.task, end)
                # A worker that receives the message again does not know the skill either.
                await ledger.maintenance.finish_canvas(foreign.id)

        self._then_acknowledge(message, close, f"run {foreign.id} ended: {end.message}")

    def _then_acknowledge(
        self, message: Any, work: LedgerWork, report: str, level: int = logging.ERROR
    ) -> None:
        try:
            self.with_ledger(work)
        except Exception:
            logger.exception("could not record: %s; the message is requeued", report)
            self._requeue(message)
            return
        logger.log(level, "%s", report)
        if not message.acknowledged:
            message.ack_log_error(logger, self.connection_errors)

    def _send_failure_events(self, message: Any, reason: str) -> None:
        if self.event_dispatcher:
            run_id, name = message.headers.get("id"), message.headers["task"]
            self.event_dispatcher.send("task-received", uuid=run_id, name=name)
            self.event_dispatcher.send("task-failed", uuid=run_id, exception=reason)


async def _catalogue(ledger: Ledger) -> tuple[list[AgentCard], set[tuple[str, str]]]:
    """Return all known cards, and names and versions of the live ones."""
    return await ledger.directory.catalogue(), await ledger.directory.live()


def _queues_of(cards: Iterable[AgentCard]) -> dict[str, str]:
    """Return the queue of each skill, by task name."""
    return {f"{card.name}.{skill.name}": card.queue for card in cards for skill in card.skills}


def dead_letter_undecodable(settings: WorkerSettings, body: bytes, reason: str) -> None:
    """Dead-letter a message that cannot be decoded; raise when Redis is unreachable.

    The run of a plain Celery client ends, if the message still names it.
    """
    message = message_from_raw(body)
    foreign = _record_of(message, settings) if message is not None else None
    run_in_thread_with_ledger(
        settings, lambda ledger: _add_dead_letter(ledger, body, reason, foreign)
    )


def _record_of(message: Any, settings: WorkerSettings) -> Submission | None:
    readable = readable_part(message)
    return record_from_message(readable, settings) if readable is not None else None


async def _add_dead_letter(
    ledger: Ledger, body: bytes, reason: str, foreign: Submission | None
) -> None:
    await ledger.dead_letters.add(reason, body)
    record(DEAD_LETTERS, 1, "message")
    if foreign is not None and await register_foreign_run(ledger, foreign):
        end = RunEnd(RunState.FAILED, ReasonCode.INVALID_ARGUMENTS, reason)
        await ledger.leases.end_unclaimed(foreign.id, foreign.task, end)


def run_in_thread_with_ledger(settings: WorkerSettings, work: LedgerWork) -> Any:
    """Run `work` with a ledger of its own, in a new thread with its own loop; any thread.

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

    thread = threading.Thread(target=run, name="skillfleet-ledger-work", daemon=True)
    thread.start()
    thread.join(_WAIT_SECONDS)
    if not result:
        raise TimeoutError("Redis did not answer in time")
    value, error = result[0]
    if error is not None:
        raise error
    return value
