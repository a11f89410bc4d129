"""Celery's request for a skill's message; records in the ledger what Celery drops."""

import logging
import threading
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.exceptions import Ignore, InvalidTaskError
from celery.worker import state
from celery.worker.request import Request

from skillfleet.contracts import ReasonCode, RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import EndResult
from skillfleet_producer.tracing import run_trace_id
from skillfleet_worker.attempts.messages import (
    TIME_LIMIT,
    WORKER_TIME_LIMITS,
    attempt_time_limit,
    record_from_message,
    register_foreign_run,
)
from skillfleet_worker.attempts.process import name_of
from skillfleet_worker.celery_hooks.consumer import run_in_thread_with_ledger
from skillfleet_worker.celery_hooks.envelope import problem_of_embedded
from skillfleet_worker.celery_hooks.monitors import revoked_fields
from skillfleet_worker.celery_hooks.skill_task import CANCELLED

logger = logging.getLogger(__name__)

_MARGIN_SECONDS = 600.0
"""The delay of Celery's time limit after the run's own: settling may wait for Redis."""


class SkillRequest(Request):
    """A request whose run also ends in the ledger when Celery drops it (revoked, expired)."""

    message: Any
    task: Any
    on_accepted: Any
    _payload: Any

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        args, kwargs, embedded = options["body"] if options.get("decoded") else message.payload
        if not isinstance(args, list | tuple):
            raise InvalidTaskError("the arguments by position must be a list")
        if not isinstance(kwargs, dict):
            raise InvalidTaskError("the arguments by name must be an object")
        if not isinstance(embedded, dict | None):
            raise InvalidTaskError("the canvas must be an object")
        if (problem := problem_of_embedded(embedded)) is not None:
            raise InvalidTaskError(f"the canvas is invalid: {problem}")
        self._limit_attempt()

    def _limit_attempt(self) -> None:
        """Have the run end at its time limit by itself, with an outcome in the ledger.

        Celery's own limit comes later, for the case that this fails: it breaks an execution off
        that the ledger would take for a lost one, and start again.
        """
        pool = getattr(self.task.node.consumer, "pool", None)
        options = getattr(pool, "options", {})
        request = self.request_dict
        request[WORKER_TIME_LIMITS] = (options.get("timeout"), options.get("soft_timeout"))
        request[TIME_LIMIT] = limit = attempt_time_limit(
            request, (self.task.time_limit, self.task.soft_time_limit)
        )
        self.time_limits = (None, None) if limit is None else (limit + _MARGIN_SECONDS,) * 2

    def execute_using_pool(self, pool: Any, **options: Any) -> Any:
        """Pass the message to the pool; free its slot when that fails."""
        try:
            return super().execute_using_pool(pool, **options)
        except BaseException:
            state.task_ready(self)
            raise

    @property
    def argsrepr(self) -> str:
        """The trace id, which monitors show as positional arguments; a fleet never sends those."""
        headers = self.request_dict
        shown = f"trace_id={run_trace_id(headers, headers.get('root_id') or self.id)}"
        given: str = super().argsrepr
        return shown if given in {"", "()"} else f"{given} {shown}"

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        """Report a cancelled run to Celery's monitors, and a child that died to the ledger."""
        error = exc_info.exception
        error = getattr(error, "exc", error)
        if isinstance(error, Ignore) and error.args == (CANCELLED,):
            self.send_event("task-revoked", **revoked_fields())
        if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            return self._child_lost(error)
        return super().on_failure(exc_info, *args, **options)

    def on_retry(self, exc_info: Any) -> None:
        """Report a retry or a parked run to Celery's monitors; one that was revoked stays so."""
        super().on_retry(exc_info)
        if (consumer := self.task.node.consumer) is not None:
            consumer.revoked_runs.show_again(self)

    def _child_lost(self, error: BaseException) -> None:
        """Acknowledge the message of a child that died: the ledger starts the run again.

        Celery would report a failure and start the callbacks and chains of one.
        """
        logger.error("run %s lost its process: %s", self.id, error)
        state.task_ready(self)
        if self.worker_pid:
            # In a thread, because Redis may be unreachable; the lease expires in any case.
            name = name_of(int(self.worker_pid))
            threading.Thread(target=self._expire_lease, args=(name,), daemon=True).start()
        self.acknowledge()
        self.send_event("task-retried", exception=repr(error), traceback="")

    def _expire_lease(self, holder: str) -> None:
        try:
            run_in_thread_with_ledger(
                self.task.node.settings, lambda ledger: ledger.leases.expire_lease(self.id, holder)
            )
        except Exception as error:  # noqa: BLE001 - the lease expires by itself
            logger.warning("run %s waits for the lease of its lost process: %s", self.id, error)

    def _announce_revoked(
        self,
        reason: str,
        terminated: bool,  # noqa: FBT001 - Celery's signature
        signum: Any,
        expired: bool,  # noqa: FBT001
    ) -> None:
        settings = self.task.node.settings
        foreign = record_from_message(self.message, settings)
        why = "its message expired" if expired else "revoked through Celery"
        end = RunEnd(RunState.CANCELLED, ReasonCode.CANCELLED_BY_CALLER, why)

        async def close(ledger: Ledger) -> bool:
            """End the run; return False for one that is executing or has ended."""
            if foreign is None:
                return True
            if not await register_foreign_run(ledger, foreign) and not await _is_plain(
                ledger, foreign.id
            ):
                return True
            if (
                await ledger.leases.end_unclaimed(foreign.id, foreign.task, end)
                != EndResult.ENDED_NOW
            ):
                return False
            # Celery itself reports it to a chord, below.
            await ledger.maintenance.finish_canvas(foreign.id)
            return True

        try:
            ends = run_in_thread_with_ledger(settings, close)
        except Exception:
            logger.exception("the end of run %s could not be recorded", self.id)
            ends = True
        if not ends:
            # A duplicate message: the run does not end because of it.
            state.task_ready(self)
            self.acknowledge()
            self._already_revoked = True
            return
        super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc]


async def _is_plain(ledger: Ledger, run_id: str) -> bool:
    """Return True when a plain Celery client sent the run: then its message may end it."""
    invocation = await ledger.queries.invocation(run_id)
    return invocation is not None and invocation.celery is not None
