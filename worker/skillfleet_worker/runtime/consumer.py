"""Celery's consumer for a fleet: nothing that arrives is lost, and nothing stops the worker."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from celery import signals

from skillfleet.contracts import HEADER, AgentCard, ReasonCode, RunState
from skillfleet.errors import RunFailed
from skillfleet_engine.consumer import LoopConsumer
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs import End
from skillfleet_worker.runtime.node import node_of

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0


class FleetConsumer(LoopConsumer):
    """Ends runs of unknown skills, keeps what cannot be decoded with its reason."""

    connection_errors: Any

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Keep a message that is no task."""
        del body
        self._refuse(message, "not a task message: it has no header 'task'")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Keep a message whose body cannot be read."""
        self._refuse(message, f"its body cannot be decoded: {exc}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """End the run of a message that Celery's protocol does not allow."""
        del body
        self._end(message, ReasonCode.INVALID_ARGUMENTS, f"the message is invalid: {exc}")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """End the run of a skill that nobody serves; pass on what another worker serves."""
        del body
        name = str(message.headers.get("task"))
        try:
            cards = apart(self._live_agents)
        except Exception:
            logger.exception("cannot tell who serves %s: the message goes back", name)
            message.requeue()
            return
        known = {f"{card.name}.{skill.name}" for card in cards for skill in card.skills}
        if name in known:
            message.requeue()
            return
        reason = f"no worker serves {name}; known skills: {', '.join(sorted(known))}"
        self._end(message, ReasonCode.UNKNOWN_SKILL, reason)
        run_id = message.headers.get("id")
        signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=run_id)

    async def _live_agents(self) -> list[AgentCard]:
        async with ledger_of(self.app) as ledger:
            return await ledger.directory.agents()

    def _end(self, message: Any, code: ReasonCode, reason: str) -> None:
        """End the run behind a message with an error; a plain Celery client learns of it too."""
        headers = message.headers or {}
        run_id, task = headers.get("id"), str(headers.get("task"))
        if run_id is None:
            self._refuse(message, reason)
            return
        if HEADER not in headers:
            self.app.backend.mark_as_failure(run_id, RunFailed(f"{reason} [{code}]"))
            self._refuse(message, reason)
            return

        async def close() -> None:
            async with ledger_of(self.app) as ledger:
                await ledger.runs.close(run_id, task, End(RunState.FAILED, code, reason))

        self._then_acknowledge(message, close, f"run {run_id} ended: {reason}")

    def _refuse(self, message: Any, reason: str) -> None:
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode()

        async def keep() -> None:
            async with ledger_of(self.app) as ledger:
                await ledger.refused.add(reason, body)

        self._then_acknowledge(message, keep, f"message refused: {reason}")

    def _then_acknowledge(
        self, message: Any, work: Callable[[], Coroutine[Any, Any, Any]], report: str
    ) -> None:
        try:
            apart(work)
        except Exception:
            logger.exception("could not record: %s; the message goes back", report)
            message.requeue()
            return
        logger.error("%s", report)
        if not message.acknowledged:
            message.ack_log_error(logger, self.connection_errors)


@asynccontextmanager
async def ledger_of(app: Any) -> AsyncIterator[Ledger]:
    """A short-lived connection to the ledger of an app's fleet."""
    ledger = Ledger(node_of(app).settings)
    try:
        yield ledger
    finally:
        await ledger.close()


def apart(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on a loop of its own in a short-lived thread and wait for its result.

    For the rare orders that reach Celery's consumer, in whatever pool.
    """
    result: list[Any] = []

    def run() -> None:
        try:
            result.append((asyncio.run(work()), None))
        except Exception as error:  # noqa: BLE001 - handed to the caller
            result.append((None, error))

    thread = threading.Thread(target=run, name="skillfleet-apart", daemon=True)
    thread.start()
    thread.join(_WAIT_SECONDS)
    if not result:
        raise TimeoutError("Redis did not answer in time")
    value, error = result[0]
    if error is not None:
        raise error
    return value
