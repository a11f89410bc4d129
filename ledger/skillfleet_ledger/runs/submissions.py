"""Writing new runs: the record and, where the broker is the ledger's Redis, its message."""

import asyncio
from collections.abc import Sequence
from typing import Any

from skillfleet.errors import (
    BudgetExhaustedError,
    IdempotencyConflictError,
    LimitExceededError,
    SessionBusyError,
    SkillfleetError,
)
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.redis_client.script_source import source
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.budgets import CALLER_ENDED, USED_UP
from skillfleet_ledger.runs.records import Submission, session_id_of


class SessionMovedError(SkillfleetError):
    """The message of a run is not meant for the run whose turn it is in the session by now."""

    retryable = True


class Submissions(RunOperations):
    """Creates runs; for producers, and for runs that call others."""

    async def submit(self, new: Submission, message: bytes = b"") -> bool:
        """Write a new run and, given its `message`, publish it; False when it existed before.

        Raises IdempotencyConflictError when the id exists with other arguments, and
        LimitExceededError (or BudgetExhaustedError) when its tree takes no more runs.
        """
        keys, args = self._submit_call(new, message)
        reply = await run_script(self._connection, "submit", keys, args)
        if reply[0] == 1:
            await self._woken.hand_over(reply[1:])
        return self._submitted(new, reply)

    async def submit_many(self, items: Sequence[tuple[Submission, bytes]]) -> list[bool]:
        """Submit many runs, each with its message, in one write; returns what `submit` would.

        Those that fail are submitted again one by one. Raises the first error.
        """
        _, digest = source("submit")
        calls = []
        for new, message in items:
            keys, args = self._submit_call(new, message)
            calls.append(self._connection.call("EVALSHA", digest, len(keys), *keys, *args))
        replies = await asyncio.gather(*calls, return_exceptions=True)
        return [
            await self.submit(new, message)
            if isinstance(reply, BaseException)
            else self._submitted(new, reply)
            for (new, message), reply in zip(items, replies, strict=True)
        ]

    def _submit_call(
        self, new: Submission, message: bytes
    ) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        keys: tuple[str, ...] = (self._keys.prefix(new.id),)
        if message:
            keys = (*keys, self._keys.broker_list(new.queue, new.priority))
        limit = self._settings.max_tree_runs
        sent = new.message or ("", b"")
        return keys, (new.id, new.delay_ms, message, limit, *sent, *new.fields())

    def _submitted(self, new: Submission, reply: list[Any]) -> bool:
        status, detail = reply[0], reply[1] if len(reply) > 1 else b""
        if status == 1:
            return True
        if status == -1:
            raise _refusal(new, detail, self._settings.max_tree_runs)
        if detail.decode() != new.digest:
            raise IdempotencyConflictError(
                "this idempotency key was used before with other arguments: use a new key"
            )
        return False


def _refusal(new: Submission, reason: bytes, limit: int) -> SkillfleetError:
    """Return the error for a run that its tree or its session does not take."""
    if reason.startswith(b"session_"):
        return _session_refusal(session_id_of(new.session), reason)
    if reason == b"tree_full":
        return LimitExceededError(f"the tree of runs of {new.root_id} already holds {limit} runs")
    if reason == b"cycle":
        return LimitExceededError(
            f"{new.task} is called with the same arguments by a run above: a cycle"
        )
    if reason in USED_UP:
        return BudgetExhaustedError(f"the tree's budget of {USED_UP[reason]} is used up")
    return LimitExceededError(CALLER_ENDED)


def _session_refusal(session_id: str | None, reason: bytes) -> SkillfleetError:
    if reason == b"session_busy":
        return SessionBusyError(f"session {session_id!r} has a run that has not ended")
    if reason == b"session_full":
        return LimitExceededError(f"session {session_id!r} has 1000 waiting runs: it takes no more")
    return SessionMovedError(f"another run of session {session_id!r} has its turn by now")
