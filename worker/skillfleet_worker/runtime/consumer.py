"""Celery's consumer for a fleet: nothing that arrives is lost, and nothing stops the worker."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from skillfleet.contracts import HEADER, ReasonCode, RunState
from skillfleet_engine.consumer import LoopConsumer
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs import End

from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0


class FleetConsumer(LoopConsumer):
    """Ends runs of unknown skills, keeps what cannot be decoded with its reason."""

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Keep a message that is no task."""
        self._refuse(message, "not a task message: it has no header 'task'")

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Keep a message whose body cannot be read."""
        self._refuse(message, f"its body cannot be decoded: {exc}")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """End the run of a message that Celery's protocol does not allow."""
        self._end(message, ReasonCode.INVALID_ARGUMENTS, f"the message is invalid: {exc}")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """End the run of a skill that nobody serves; pass on what another worker serves."""
        name = str(message.headers.get("task"))
        settings: WorkerSettings = self.app.skillfleet.settings

        async def decide() -> bool:
            ledger = Ledger(settings)
            try:
                cards = await ledger.directory.agents()
            finally:
                await ledger.close()
            return any(
                f"{card.name}.{skill.name}" == name for card in cards for skill in card.skills
            )

        try:
            elsewhere = apart(decide)
        except Exception:
            logger.exception("cannot tell who serves %s: the message goes back", name)
            elsewhere = True
        if elsewhere:
            message.requeue()
            return
        known = ", ".join(sorted(task for task in self.app.tasks if not task.startswith("celery.")))
        self._end(
            message, ReasonCode.UNKNOWN_SKILL, f"no worker serves {name}; known skills: {known}"
        )
        super().on_unknown_task(body, message, exc)

    def _end(self, message: Any, code: ReasonCode, reason: str) -> None:
        """End the run behind a message; a message without a run is kept instead."""
        headers = message.headers or {}
        run_id, task = headers.get("id"), headers.get("task")
        if run_id is None or HEADER not in headers:
            self._refuse(message, reason)
            return
        settings: WorkerSettings = self.app.skillfleet.settings

        async def close() -> str:
            ledger = Ledger(settings)
            try:
                return await ledger.runs.close(
                    run_id, str(task), End(RunState.FAILED, code, reason)
                )
            finally:
                await ledger.close()

        self._then_acknowledge(message, close, f"run {run_id} ended: {reason}")

    def _refuse(self, message: Any, reason: str) -> None:
        settings: WorkerSettings = self.app.skillfleet.settings
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode()

        async def keep() -> None:
            ledger = Ledger(settings)
            try:
                await ledger.refused.add(reason, body)
            finally:
                await ledger.close()

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
