"""Leases: which attempt may write to a run, from its claim to its end."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson

from skillfleet.contracts import RunState
from skillfleet_ledger.celery_format import RunEnd, encode_end, final_payload
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.records import (
    Claim,
    ClaimStatus,
    EndResult,
    Lease,
    RunLimits,
    Settled,
    Submission,
    WriteResult,
    read_tags,
)


class Leases(RunOperations):
    """Claims runs, keeps and ends their leases; for workers."""

    async def claim(
        self,
        run_id: str,
        worker: str,
        claim: str,
        lease_ms: int,
        unknown: Submission | None,
        limits: RunLimits | None = None,
        tenant: str | None = None,
        versions: Sequence[str] = (),
    ) -> Claim:
        """Try to make the run an attempt of `worker`.

        `claim` is unique to the delivery. `unknown` describes the run for the case that it
        has no record, as the message of a plain Celery client; None refuses such a run.
        `limits` are those that the skill itself declares. `tenant` is the caller's, '' for a caller
        without one: a run that has no tag `tenant` gets it. None leaves that tag unchecked.
        `versions` of the agent are those whose journals the worker can continue: a run that another
        one has recorded for is not claimed (OTHER_VERSION). None given: any.
        """
        limits = limits or RunLimits()
        fields = unknown.fields() if unknown else ()
        reply = await self._run(
            "claim",
            run_id,
            *(worker, claim, lease_ms, f"={worker}"),
            *(limits.timeout_ms, limits.max_deliveries),
            "" if tenant is None else f"={tenant}",
            "\n{}\n".format("\n".join(versions)) if versions else "",
            *fields,
            key=self._keys.result_key(run_id) if self._settings.auth == "required" else None,
        )
        status = ClaimStatus(reply[0].decode())
        if status is not ClaimStatus.CLAIMED:
            code = reply[7].decode() if status is ClaimStatus.CANCELLED else ""
            return Claim(status, int(reply[1]), detail=bytes(reply[6]).decode(), code=code)
        deadline = int(reply[5]) if reply[5] else None
        token, attempt, seq, now = reply[1:5]
        waited, retries, journal, rest, version, tags = reply[6:12]
        lease = Lease(
            *(run_id, token, attempt, seq, now, deadline, waited, retries),
            has_journal=bool(journal),
            rest_ms=int(rest) if rest else None,
            version=version.decode(),
            tags=read_tags(tags.decode(errors="replace")),
        )
        return Claim(status, lease.token, lease)

    async def defer(self, run_id: str, token: int, again_ms: int, patience_ms: int) -> bool:
        """Leave a queued run, whose claim gave this token, to a worker of another version.

        Its message is published again after `again_ms`. False when nothing was changed: that began
        `patience_ms` ago, or another process has changed the run.
        """
        return bool(await self._run("defer", run_id, token, again_ms, patience_ms))

    async def renew(
        self,
        worker: str,
        lease_ms: int,
        tokens: dict[str, int],
        timeout: float,
        executed_ms: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Renew the leases of a process's runs (run id -> token), one round trip a shard.

        `executed_ms` is the executing time of the attempts for which it is limited: so much counts
        when the attempt is lost. Returns '' (renewed), 'lost', or '!' and the reason of a
        cancellation, for each run.
        """
        shards: dict[int, list[str]] = {shard: [] for shard in range(self._keys.shards)}
        for run_id in tokens:
            shards[self._keys.shard(run_id)].append(run_id)

        async def renew_shard(shard: int, run_ids: list[str]) -> dict[str, str]:
            triples = [(each, tokens[each], executed_ms.get(each, -1)) for each in run_ids]
            keys = (self._keys.shard_prefix(shard),)
            args = (lease_ms, worker, *itertools.chain.from_iterable(triples))
            reply = await run_script(self._connection, "renew", keys, args, timeout)
            return dict(zip(run_ids, (answer.decode() for answer in reply), strict=True))

        answers = await asyncio.gather(*(renew_shard(*shard) for shard in shards.items()))
        return {run_id: answer for part in answers for run_id, answer in part.items()}

    async def held(self, tokens: dict[str, int], timeout: float) -> set[str]:
        """Return those of the runs (run id -> token) whose lease has that token; only reads."""

        async def is_held(run_id: str, token: int) -> bool:
            key = self._key("run", run_id)
            found = await self._connection.execute("HMGET", key, "state", "token", timeout=timeout)
            return bool(found == [RunState.RUNNING.encode(), str(token).encode()])

        answers = await asyncio.gather(*(is_held(*pair) for pair in tokens.items()))
        return {run_id for run_id, held in zip(tokens, answers, strict=True) if held}

    async def expire_lease(self, run_id: str, holder: str) -> bool:
        """End the lease of a worker process that is known to be dead.

        `holder` is how the process's name begins; False when no such worker holds the run.
        """
        return bool(await self._run("expire_lease", run_id, holder))

    async def settle(
        self,
        lease: Lease,
        task: str,
        seq: int,
        end: RunEnd,
        session_state: tuple[str, bytes] | None = None,
    ) -> Settled:
        """End the attempt and the run; `seq` is the number of the attempt's last event.

        `session_state` is the name of the run's session, and the state that it has saved for it.
        """
        run_id = lease.run_id
        reply = await self._run(
            "settle",
            run_id,
            *(lease.token, seq, end.state, end.code, end.message),
            final_payload(end.state, end.code, end.message),
            encode_end(run_id, task, end.state, end.code, end.message, end.value),
            *(session_state or ()),
            key=self._keys.result_key(run_id),
        )
        result, *woken = reply
        await self._woken.hand_over(woken)
        return Settled(WriteResult(result.decode()), tuple(run_id.decode() for run_id in woken))

    async def requeue(
        self,
        lease: Lease,
        seq: int,
        *,
        outcome: str,
        reason: str,
        delay_ms: int = 0,
        message: tuple[str, bytes] | None = None,
        spent_ms: int = 0,
        dropped: Sequence[str] = (),
    ) -> WriteResult:
        """Return the run to its queue: `outcome` is 'retry' (counted) or 'released' (not counted).

        Released more than a hundred times, it counts as lost each time.
        Without a delay it needs its message: `message` is the broker's list on this Redis and
        what is pushed onto it; None when the caller publishes. `spent_ms` is the attempt's
        executing time. `dropped` are the identities of failed steps, which the next attempt
        executes again.
        """
        payload: dict[str, Any] = {
            "state": RunState.QUEUED,
            "outcome": outcome,
            "message": reason,
        }
        if delay_ms:
            payload["delay_seconds"] = delay_ms / 1000
        reply = await self._run(
            "requeue",
            lease.run_id,
            *(lease.token, seq, delay_ms, outcome, orjson.dumps(payload)),
            message[1] if message else b"",
            spent_ms,
            *dropped,
            key=message[0] if message else None,
        )
        return WriteResult(reply.decode())

    async def park(
        self, lease: Lease, seq: int, awaited: Sequence[str], spent_ms: int = 0
    ) -> WriteResult:
        """Give the lease back while the run only waits for these waits; then no worker has it.

        REFUSED when one of them is decided, a message can be received, or a called run has ended.
        `seq` is the number of the attempt's last event, `spent_ms` its executing time.
        """
        reply = await self._run("park", lease.run_id, lease.token, seq, spent_ms, *awaited)
        return WriteResult(reply.decode())

    async def end_parking(self, lease: Lease) -> None:
        """Report that the handler of a parked run has ended: the run may continue.

        What wakes the run before that is noted. Without the report, it continues when its lease
        would have ended.
        """
        await self._woken.hand_over(await self._run("end_parking", lease.run_id, lease.token))

    async def end_unclaimed(
        self, run_id: str, task: str, end: RunEnd, token: int | None = None
    ) -> EndResult:
        """End a run that no attempt holds; with `token`, only if it still has it."""
        reply = await self._run(
            "end_unclaimed",
            run_id,
            *("" if token is None else token, end.state, end.code, end.message),
            final_payload(end.state, end.code, end.message),
            encode_end(run_id, task, end.state, end.code, end.message),
            key=self._keys.result_key(run_id),
        )
        result, *woken = reply
        await self._woken.hand_over(woken)
        return EndResult(result.decode())
