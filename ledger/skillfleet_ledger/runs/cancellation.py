"""Cancelling runs, together with all runs that they called."""

import asyncio
import os
from collections.abc import Sequence

from skillfleet.contracts import ReasonCode, RunState
from skillfleet_ledger.celery_format import RunEnd, encode_end, final_payload
from skillfleet_ledger.redis_client.connection import Connection, RefusedError
from skillfleet_ledger.runs.base import RunOperations, WokenRuns
from skillfleet_ledger.runs.queries import Queries, unknown_run
from skillfleet_ledger.settings import Settings


class Cancellation(RunOperations):
    """Cancels trees of runs, leaves first; for producers, workers and the reaper."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        queries: Queries,
        woken: WokenRuns | None = None,
    ) -> None:
        super().__init__(connection, settings, woken)
        self._queries = queries
        self._may_end_runs = True

    async def cancel(
        self, run_id: str, reason: str, code: str = ReasonCode.CANCELLED_BY_CALLER
    ) -> bool:
        """Request the end of a run and of all runs it called, leaves first.

        Returns False when the run had ended before. Raises UnknownRunError.
        """
        end, below = RunEnd(RunState.CANCELLED, code, reason), f"its parent was cancelled: {reason}"
        what = await self._cancel_tree(run_id, end, below, os.urandom(8).hex())
        if what == "unknown":
            raise unknown_run(run_id)
        return what != "ended"

    async def cancel_children(self, run_id: str, reason: str) -> None:
        """Cancel all runs that the run called, and those that they called, leaves first.

        The cleanup that was noted when the run ended, or was cancelled, is then finished.
        """
        if children := await self._queries.children(run_id):
            await self._cancel_trees(children, reason)
            await self._run("finish_cleanup", run_id)

    async def clean_up(self, run_id: str) -> None:
        """Cancel the remaining children of an ended or cancelled run.

        Safe to do concurrently. Raises UnknownRunError when the run expires meanwhile.
        """
        key = self._key("run", run_id)
        found = await self._connection.execute("HGET", key, "state")
        state = RunState(found.decode()) if found else None
        request = await self._queries.cancel_request(run_id)
        if request and state and not state.terminal:
            await self.cancel(run_id, *request)
        else:
            how = f" {state}" if state else ""
            await self.cancel_children(run_id, f"the calling run ended{how}")

    async def _cancel_tree(self, run_id: str, end: RunEnd, below: str, request: str = "") -> str:
        """Cancel a run and all below it (for the reason `below`); return the run's own outcome.

        On the way down each caller is marked, so that it makes no more calls; on the way up,
        after all that it called, it is cancelled. The mark notes a cleanup, which the reaper does
        should this process not come so far.
        """
        what, children = await self._cancel_one(run_id, end, only_mark="1", request=request)
        await self._cancel_trees(children, below)
        if what == "marked":
            await self._cancel_one(run_id, end)
        return what

    async def _cancel_trees(self, run_ids: Sequence[str], reason: str) -> None:
        end = RunEnd(RunState.CANCELLED, ReasonCode.PARENT_ENDED, reason)
        await asyncio.gather(*(self._cancel_tree(run_id, end, reason) for run_id in run_ids))

    async def _cancel_one(
        self, run_id: str, end: RunEnd, only_mark: str = "", request: str = ""
    ) -> tuple[str, list[str]]:
        reason, code = end.message, end.code
        if self._may_end_runs:
            try:
                reply = await self._run(
                    "cancel",
                    run_id,
                    *(reason, code, final_payload(end.state, code, reason)),
                    *(encode_end(run_id, "", end.state, code, reason), only_mark, request),
                    key=self._keys.result_key(run_id),
                )
            except RefusedError as error:
                if not str(error.__cause__).startswith("NOPERM"):
                    raise
                # A user who may not write results, as a producer by deploy/redis/users.acl.
                self._may_end_runs = False
        if not self._may_end_runs:
            reply = await self._run("request_cancel", run_id, reason, code, only_mark, request)
        what, children, *woken = reply
        await self._woken.hand_over(woken[0] if woken else ())
        return what.decode(), [child.decode() for child in children]
