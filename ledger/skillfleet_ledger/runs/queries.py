"""Reading runs: states, snapshots, ends."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from skillfleet.contracts import Attempt, RunState, RunStatus
from skillfleet.errors import UnknownRunError
from skillfleet_ledger.celery_format import RunEnd, decode_end
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.records import (
    INVOCATION_FIELDS,
    STATUS_FIELDS,
    Invocation,
    attempt_of,
    invocation_of,
    shown_state,
    status_of,
)


class LostRun(NamedTuple):
    """A run whose worker was lost, as its record has it."""

    status: RunStatus
    invocation: Invocation


class Queries(RunOperations):
    """Reads of runs; none of them changes anything."""

    async def invocation(self, run_id: str) -> Invocation | None:
        """Return what the run's message is built from; None when there is no record."""
        values = await self._connection.execute(
            "HMGET", self._key("run", run_id), *INVOCATION_FIELDS
        )
        return invocation_of(run_id, values)

    async def cancel_request(self, run_id: str) -> tuple[str, str] | None:
        """Return reason and code of the run's cancellation; None when none was requested.

        It is available after the run's end, too; None when there is no record.
        """
        key = self._key("run", run_id)
        reason, code = await self._connection.execute("HMGET", key, "cancel", "cancel_code")
        return None if reason is None else (reason.decode(), (code or b"").decode())

    async def is_held(self, run_id: str) -> bool:
        """Return whether something keeps the run back: it is queued, but has no message."""
        key = self._key("run", run_id)
        return bool(await self._connection.execute("HEXISTS", key, "held"))

    async def session_of(self, run_id: str) -> str | None:
        """Return the name of the session that holds the run back; None for any other run."""
        key = self._key("run", run_id)
        session, held = await self._connection.execute("HMGET", key, "session", "held")
        return session.decode() if session and held else None

    async def children(self, run_id: str) -> list[str]:
        """Return the ids of the runs that the run called, sorted."""
        found = await self._connection.execute("SMEMBERS", self._key("children", run_id))
        return sorted(child.decode() for child in found)

    async def state(self, run_id: str) -> tuple[RunState, int]:
        """Return the run's state and the number of its last event; raises UnknownRunError."""
        state, seq, waiting = await self._connection.execute(
            "HMGET", self._key("run", run_id), "state", "seq", "waiting"
        )
        if state is None:
            raise unknown_run(run_id)
        return shown_state(state, waiting), int(seq)

    async def recorded(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Return the stored states of those of the runs that have a record."""
        found = await self._connection.execute_all(
            *(("HGET", self._key("run", run_id), "state") for run_id in run_ids)
        )
        return {
            run_id: state.decode()
            for run_id, state in zip(run_ids, found, strict=True)
            if state is not None
        }

    async def status(self, run_id: str, timeout: float | None = None) -> RunStatus:
        """Return a snapshot of the run, in one round trip; raises UnknownRunError."""
        (status,) = await self._statuses([run_id], timeout)
        if status is None:
            raise unknown_run(run_id)
        return status

    async def lost_run(self, run_id: str) -> LostRun | None:
        """Return status and invocation of a run, in one round trip; None without a record."""
        (status,), invocation = await asyncio.gather(
            self._statuses([run_id]), self.invocation(run_id)
        )
        return LostRun(status, invocation) if status and invocation else None

    async def end(self, run_id: str, timeout: float | None = None) -> RunEnd | None:
        """Return how the run ended, with its value; None before. Raises UnknownRunError.

        It takes one round trip. `timeout` is as for `Connection.execute`.
        """
        # The state is read first: a run that had ended then has its result now, if ever.
        state, meta = await self._connection.execute_all(
            ("HGET", self._key("run", run_id), "state"),
            ("GET", self._keys.result_key(run_id)),
            timeout=timeout,
        )
        if state is None:
            raise unknown_run(run_id)
        if meta is not None:
            return decode_end(meta)
        if RunState(state.decode()).terminal:
            raise UnknownRunError(f"the result of run {run_id!r} has expired")
        return None

    async def former_attempts(self, run_id: str) -> tuple[Attempt, ...]:
        """Return the attempts that ended without ending the run, as workers have listed them.

        Empty for a run that has a result, whatever its record says of its state.
        """
        entries, ended = await self._connection.execute_all(
            ("LRANGE", self._key("attempts", run_id), 0, -1),
            ("EXISTS", self._keys.result_key(run_id)),
        )
        return () if ended else tuple(attempt_of(orjson.loads(entry)) for entry in entries)

    async def _statuses(
        self, run_ids: Sequence[str], timeout: float | None = None
    ) -> list[RunStatus | None]:
        commands: list[tuple[Any, ...]] = []
        for run_id in run_ids:
            commands += [
                ("HMGET", self._key("run", run_id), *STATUS_FIELDS),
                ("LRANGE", self._key("attempts", run_id), 0, -1),
                ("SCARD", self._key("children", run_id)),
            ]
        replies = await self._connection.execute_all(*commands, timeout=timeout)
        statuses: list[RunStatus | None] = []
        for run_id, record, attempts, children in zip(
            run_ids, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            statuses.append(status_of(run_id, record, attempts, children))
        return statuses


def unknown_run(run_id: str) -> UnknownRunError:
    """Return the error for a run that has no record."""
    return UnknownRunError(f"there is no run {run_id!r}: wrong id, or it expired")
