"""Reading runs: states, snapshots, ends, lists."""

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
    Invocation,
    attempt_of,
    invocation_of,
    shown_state,
    status_of,
)

_PAGE = 200
_MOST_LISTED = 50 * _PAGE
_MOST_SORTED = 2000
"""The most queued or running runs of an index that are sorted."""


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

    async def newest(
        self, *, state: RunState | None = None, agent: str | None = None, limit: int = 50
    ) -> list[RunStatus]:
        """Return runs, newest first, of a state and an agent when they are given."""
        found: dict[str, RunStatus] = {}
        for prefix in self._keys.prefixes():
            # By id: a run may change its state, and so its index, while they are read. In the
            # order in which runs pass through the indexes, so that none is missed.
            if agent is None:
                found |= {run.id: run for run in await self._live(prefix, state, limit)}
            for index in _by_creation(prefix, state, agent):
                found |= {run.id: run for run in await self._newest_of(index, state, limit)}
        return sorted(found.values(), key=lambda run: run.created_at, reverse=True)[:limit]

    async def _of_live(self, prefix: str, state: RunState | None) -> list[str]:
        """Return the indexes of unfinished runs, which are not ordered by creation."""
        leased = (None, RunState.RUNNING, RunState.WAITING)
        running = [f"{prefix}leases"] if state in leased else []
        parked = [f"{prefix}parked"] if state in (None, RunState.WAITING) else []
        if state not in (None, RunState.QUEUED):
            # A run that is parked, or continues, meanwhile is found in one of them.
            return [*running, *parked, *running]
        queues = await self._connection.execute("SMEMBERS", f"{prefix}queues")
        ready = [f"{prefix}ready:{queue.decode()}" for queue in sorted(queues)]
        # A run that is queued again meanwhile is found in the first, one that starts in the last.
        return [*running, *parked, f"{prefix}delayed", *ready, *running]

    async def _live(self, prefix: str, state: RunState | None, limit: int) -> list[RunStatus]:
        last = max(limit, _MOST_SORTED) - 1
        indexes = await self._of_live(prefix, state)
        members = await self._connection.execute_all(
            *(("ZREVRANGE", index, 0, last) for index in indexes)
        )
        run_ids = list({run_id.decode(): None for found in members for run_id in found})
        if len(run_ids) > limit:
            reads = [("HGET", self._key("run", run_id), "created") for run_id in run_ids]
            created = await self._connection.execute_all(*reads)
            ordered = sorted(zip(map(_millis, created), run_ids, strict=True), reverse=True)
            run_ids = [run_id for _, run_id in ordered[:limit]]
        statuses = await self._statuses(run_ids)
        return [each for each in statuses if each is not None and state in (None, each.state)]

    async def _newest_of(self, index: str, state: RunState | None, limit: int) -> list[RunStatus]:
        found: list[RunStatus] = []
        page = min(limit, _PAGE)
        for start in range(0, _MOST_LISTED, page):
            ids = await self._connection.execute("ZREVRANGE", index, start, start + page - 1)
            for status in await self._statuses([run_id.decode() for run_id in ids]):
                if status is not None and state in (None, status.state):
                    found.append(status)
                if len(found) == limit:
                    return found
            if len(ids) < page:
                break
        return found

    async def _statuses(
        self, run_ids: Sequence[str], timeout: float | None = None
    ) -> list[RunStatus | None]:
        commands: list[tuple[Any, ...]] = []
        for run_id in run_ids:
            commands += [
                ("HGETALL", self._key("run", run_id)),
                ("LRANGE", self._key("attempts", run_id), 0, -1),
                ("SCARD", self._key("children", run_id)),
            ]
        replies = await self._connection.execute_all(*commands, timeout=timeout)
        statuses: list[RunStatus | None] = []
        for run_id, record, attempts, children in zip(
            run_ids, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            fields = {record[i].decode(): record[i + 1] for i in range(0, len(record), 2)}
            statuses.append(status_of(run_id, fields, attempts, children) if fields else None)
        return statuses


def unknown_run(run_id: str) -> UnknownRunError:
    """Return the error for a run that has no record."""
    return UnknownRunError(f"there is no run {run_id!r}: wrong id, or it expired")


def _by_creation(prefix: str, state: RunState | None, agent: str | None) -> list[str]:
    """Return the indexes, ordered by creation, of the runs of an agent or of ended ones."""
    if agent is not None:
        return [f"{prefix}agent:{agent}"]
    states = [state] if state is not None else list(RunState)
    return [f"{prefix}state:{each}" for each in states if each.terminal]


def _millis(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0
