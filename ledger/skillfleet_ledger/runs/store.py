"""Runs and their leases: every change of a run's state goes through here, one script each."""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from skillfleet.contracts import Attempt, ReasonCode, RunState, RunStatus
from skillfleet.errors import (
    BudgetExhaustedError,
    IdempotencyConflictError,
    LimitExceededError,
    UnknownRunError,
)
from skillfleet_ledger.celery_format import End, decode_end, encode_end, final_payload
from skillfleet_ledger.keys import BROKER_SEPARATOR, Keyspace
from skillfleet_ledger.redis_client.connection import Connection, RefusedError
from skillfleet_ledger.redis_client.script_loader import run_script, source
from skillfleet_ledger.runs.records import (
    INVOCATION_FIELDS,
    Invocation,
    Submission,
    attempt_of,
    invocation_of,
    status_of,
)
from skillfleet_ledger.settings import Settings


class ClaimStatus(StrEnum):
    """What became of a claim; only CLAIMED gives the right to execute."""

    CLAIMED = "claimed"
    DUPLICATE = "duplicate"
    ENDED = "ended"
    EARLY = "early"
    CANCELLED = "cancelled"
    OVERDUE = "overdue"
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"


class Lease(NamedTuple):
    """A worker's right to execute one attempt; `token` goes with every write."""

    run_id: str
    token: int
    attempt: int
    seq: int
    """Number of the last event in the stream when the lease was taken."""
    redis_ms: int
    """Redis time of the claim, milliseconds since the epoch."""
    deadline_ms: int | None
    waited_ms: int
    """How long the run had been waiting in its queue."""
    retries: int = 0
    """How many retries the run has had; lost and released attempts do not count."""


class Declared(NamedTuple):
    """What a skill declares for its runs; 0 means nothing.

    The timeout (milliseconds) counts from the start of the first attempt.
    """

    timeout_ms: int = 0
    max_deliveries: int = 0


class Claim(NamedTuple):
    """The answer to a claim: a lease when CLAIMED, else why there is none."""

    status: ClaimStatus
    token: int
    lease: Lease | None = None
    detail: str = ""
    code: str = ""
    """The reason code of one that is CANCELLED; `detail` is the reason."""


class Write(StrEnum):
    """What became of a fenced write at the end of an attempt."""

    SETTLED = "settled"
    REQUEUED = "requeued"
    LOST = "lost"
    GAP = "gap"


@dataclass(frozen=True)
class Reaped:
    """What a round of the reaper found. `close` holds run id, token and why."""

    publish: tuple[str, ...]
    close: tuple[tuple[str, int, str], ...]
    counts: dict[str, int]
    more: bool = False
    """True when another round is due at once: this one reached a limit."""
    owed: tuple[str, ...] = ()
    """Ended and cancelled runs whose children still have to be cancelled (`RunStore.pay`)."""


class RunStore:
    """All operations on runs. Each is safe to repeat; all raise FleetUnavailableError."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._keys: Keyspace = settings.keyspace
        self._may_end_runs = True

    async def submit(self, new: Submission, message: bytes = b"") -> bool:
        """Write a new run and, given its `message`, publish it; False when it existed before.

        Raises IdempotencyConflictError when the id exists with other arguments, and
        LimitExceededError (or BudgetExhaustedError) when its tree takes no more runs.
        """
        keys, args = self._submit_call(new, message)
        return self._submitted(new, await self._run("submit", keys, *args))

    async def submit_many(self, items: Sequence[tuple[Submission, bytes]]) -> list[bool]:
        """Submit many runs, each with its message, in one write; what `submit` would return.

        Whatever of it fails on the way is submitted again by itself. Raises the first error.
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

    def _submit_call(self, new: Submission, message: bytes) -> tuple[list[str], list[Any]]:
        keys = [self._keys.prefix(new.id)]
        if message:
            keys.append(self._keys.broker_list(new.queue, new.priority))
        limit = self._settings.max_tree_runs
        return keys, [new.id, new.delay_ms, message, limit, *new.fields()]

    def _submitted(self, new: Submission, reply: list[Any]) -> bool:
        return _submitted(reply, new, self._settings.max_tree_runs)

    async def claim(
        self,
        run_id: str,
        worker: str,
        claim: str,
        lease_ms: int,
        unknown: Submission | None,
        declared: Declared | None = None,
    ) -> Claim:
        """Try to make the run an attempt of `worker`.

        `claim` is unique to the delivery. `unknown` describes the run for the case that it
        has no record, as the message of a plain Celery client; None refuses such a one.
        `declared` is what the skill itself asks for.
        """
        declared = declared or Declared()
        payload = orjson.dumps({"state": RunState.RUNNING, "worker": worker})
        fields = unknown.fields() if unknown else ()
        keys = [self._keys.prefix(run_id)]
        if self._settings.auth == "required":
            keys.append(self._keys.result_key(run_id))
        reply = await self._run(
            "claim",
            keys,
            *(run_id, worker, claim, lease_ms, payload),
            *(declared.timeout_ms, declared.max_deliveries, *fields),
        )
        status = ClaimStatus(reply[0].decode())
        if status is not ClaimStatus.CLAIMED:
            code = reply[7].decode() if status is ClaimStatus.CANCELLED else ""
            return Claim(status, int(reply[1]), detail=bytes(reply[6]).decode(), code=code)
        deadline = int(reply[5]) if reply[5] else None
        lease = Lease(run_id, reply[1], reply[2], reply[3], reply[4], deadline, reply[6], reply[7])
        return Claim(status, lease.token, lease)

    async def spend(self, run_id: str, tokens: int) -> bool:
        """Charge tokens to the budgets of the run and those above it; True when one is used up."""
        reply = await self._run("spend", [self._keys.prefix(run_id)], run_id, tokens)
        return bool(reply)

    async def pay_call(self, lease: Lease) -> None:
        """Take a call of an agent elsewhere out of the budgets of the run and those above it.

        Raises BudgetExhaustedError, and LimitExceededError for a run that may call nobody any
        more. Repeated after a lost reply it may take two: a budget errs on the strict side.
        """
        run_id = lease.run_id
        reply = await self._run("pay_call", [self._keys.prefix(run_id)], run_id, lease.token)
        if reply in _USED_UP:
            raise BudgetExhaustedError(f"the tree's budget of {_USED_UP[reply]} is used up")
        if reply:
            raise LimitExceededError(_CALLER_ENDED)

    async def renew(
        self, worker: str, lease_ms: int, tokens: dict[str, int], timeout: float
    ) -> dict[str, str]:
        """Renew the leases of a process's runs (run id -> token), one round trip a shard.

        Returns '' (renewed), 'lost', or '!' and the reason of a cancellation, for each run.
        """
        shards: dict[int, list[str]] = {shard: [] for shard in range(self._keys.shards)}
        for run_id in tokens:
            shards[self._keys.shard(run_id)].append(run_id)

        async def renew_shard(shard: int, run_ids: list[str]) -> dict[str, str]:
            pairs = [part for run_id in run_ids for part in (run_id, tokens[run_id])]
            keys = (self._keys.shard_prefix(shard),)
            args = (lease_ms, worker, *pairs)
            reply = await run_script(self._connection, "renew", keys, args, timeout)
            return dict(zip(run_ids, (answer.decode() for answer in reply), strict=True))

        answers = await asyncio.gather(*(renew_shard(*shard) for shard in shards.items()))
        return {run_id: answer for part in answers for run_id, answer in part.items()}

    async def held(self, tokens: dict[str, int], timeout: float) -> set[str]:
        """Those of the runs (run id -> token) that are still that attempt's. It only reads."""

        async def is_held(run_id: str, token: int) -> bool:
            key = f"{self._keys.prefix(run_id)}run:{run_id}"
            found = await self._connection.execute("HMGET", key, "state", "token", timeout=timeout)
            return bool(found == [RunState.RUNNING.encode(), str(token).encode()])

        answers = await asyncio.gather(*(is_held(*pair) for pair in tokens.items()))
        return {run_id for run_id, held in zip(tokens, answers, strict=True) if held}

    async def forsake(self, run_id: str, holder: str) -> bool:
        """End the lease of a worker process that is known to be dead, so that nobody waits for it.

        `holder` is how the process's name begins; False when no such worker holds the run.
        """
        reply = await self._run("forsake", [self._keys.prefix(run_id)], run_id, holder)
        return bool(reply)

    async def settle(self, lease: Lease, task: str, seq: int, end: End) -> Write:
        """End the attempt and the run; `seq` is the number of the attempt's last event."""
        run_id = lease.run_id
        reply = await self._run(
            "settle",
            [self._keys.prefix(run_id), self._keys.result_key(run_id)],
            *(run_id, lease.token, seq, end.state, end.code, end.message),
            final_payload(end.state, end.code, end.message),
            encode_end(run_id, task, end.state, end.code, end.message, end.value),
        )
        return Write(reply.decode())

    async def requeue(
        self,
        lease: Lease,
        seq: int,
        *,
        outcome: str,
        reason: str,
        delay_ms: int = 0,
        message: tuple[str, bytes] | None = None,
    ) -> Write:
        """Give the run back: `outcome` is 'retry' (counted) or 'released' (not counted).

        Released more than a hundred times, it counts as lost each time.
        Without a delay it needs its message: `message` is the broker's list on this Redis and
        what is pushed onto it; None when the caller publishes.
        """
        payload: dict[str, Any] = {
            "state": RunState.QUEUED,
            "outcome": outcome,
            "message": reason,
        }
        if delay_ms:
            payload["delay_seconds"] = delay_ms / 1000
        lists = [message[0]] if message else []
        reply = await self._run(
            "requeue",
            [self._keys.prefix(lease.run_id), *lists],
            *(lease.run_id, lease.token, seq, delay_ms, outcome, orjson.dumps(payload)),
            message[1] if message else b"",
        )
        return Write(reply.decode())

    async def close(self, run_id: str, task: str, end: End, token: int | None = None) -> str:
        """End a run that no attempt holds; with `token`, only if it still has it.

        Returns 'closed', 'ended', 'changed' or 'unknown'.
        """
        reply = await self._run(
            "close",
            [self._keys.prefix(run_id), self._keys.result_key(run_id)],
            *(run_id, "" if token is None else token, end.state, end.code, end.message),
            final_payload(end.state, end.code, end.message),
            encode_end(run_id, task, end.state, end.code, end.message),
        )
        return str(reply.decode())

    async def cancel(
        self, run_id: str, reason: str, code: str = ReasonCode.CANCELLED_BY_CALLER
    ) -> bool:
        """Ask for the end of a run and of all runs it called, leaves first.

        Returns False when the run had ended before. Raises UnknownRunError.
        """
        end, below = End(RunState.CANCELLED, code, reason), f"its parent was cancelled: {reason}"
        what = await self._cancel_tree(run_id, end, below, os.urandom(8).hex())
        if what == "unknown":
            raise UnknownRunError(f"there is no run {run_id!r}: wrong id, or it expired")
        return what != "ended"

    async def cancel_children(self, run_id: str, reason: str) -> None:
        """Cancel all runs that the run called, and those that they called, leaves first.

        What it owed as it ended, or as it was cancelled, is then struck off.
        """
        if children := await self.children(run_id):
            await self._cancel_trees(children, reason)
            await self._run("strike", [self._keys.prefix(run_id)], run_id)

    async def pay(self, run_id: str) -> None:
        """Cancel what an ended or cancelled run called, as a round of the reaper found it owing.

        Safe to do at once with others. Raises UnknownRunError when the run expires meanwhile.
        """
        key = f"{self._keys.prefix(run_id)}run:{run_id}"
        found = await self._connection.execute("HGET", key, "state")
        state = RunState(found.decode()) if found else None
        asked = await self.cancel_asked(run_id)
        if asked and state and not state.terminal:
            await self.cancel(run_id, *asked)
        else:
            how = f" {state}" if state else ""
            await self.cancel_children(run_id, f"the calling run ended{how}")

    async def take_canvas(self, run_id: str) -> bool:
        """Take over the canvas of an ended run; False where it went on, or another is at it."""
        prefix = [self._keys.prefix(run_id)]
        return bool(await self._run("take_canvas", prefix, run_id, _CANVAS_MS))

    async def strike_canvas(self, run_id: str) -> None:
        """Note that what is linked to an ended run, or chained after it, has gone on."""
        await self._connection.execute("ZREM", f"{self._keys.prefix(run_id)}canvases", run_id)

    async def children(self, run_id: str) -> list[str]:
        """Ids of the runs that the run called, sorted."""
        key = f"{self._keys.prefix(run_id)}children:{run_id}"
        return sorted(child.decode() for child in await self._connection.execute("SMEMBERS", key))

    async def reap(self, shard: int, worker: str, options: "ReapOptions") -> Reaped | None:
        """One round of the reaper over a shard; None while another worker is reaper."""
        broker = self._keys.broker_prefix if self._settings.broker_is_ledger else "-"
        payload = orjson.dumps(
            {"state": RunState.QUEUED, "outcome": "lost", "message": "its worker was lost"}
        )
        reply = await run_script(
            self._connection,
            "reap",
            (self._keys.shard_prefix(shard),),
            (
                *(worker, options.office_ms, options.limit, options.grace_ms),
                *(broker, BROKER_SEPARATOR, payload, *options.empty_queues),
            ),
        )
        if reply is None:
            return None
        publish, close, counts, more, owed = reply
        return Reaped(
            tuple(run_id.decode() for run_id in publish),
            tuple(
                (close[i].decode(), int(close[i + 1]), close[i + 2].decode())
                for i in range(0, len(close), 3)
                # A record may hold nonsense.
                if close[i + 1].isdigit()
            ),
            {counts[i].decode(): int(counts[i + 1]) for i in range(0, len(counts), 2)},
            more=bool(more),
            owed=tuple(run_id.decode() for run_id in owed),
        )

    async def published(self, shard: int, run_ids: Sequence[str]) -> None:
        """Note that the messages of runs which a round of the reaper returned are on the broker.

        What is not noted comes again two seconds later, in whosever round it then is.
        """
        if run_ids:
            key = f"{self._keys.shard_prefix(shard)}unpublished"
            await self._connection.execute("ZREM", key, *run_ids)

    async def waiting_queues(self, shard: int) -> list[str]:
        """Names of the queues in which runs of a shard wait for a worker."""
        key = f"{self._keys.shard_prefix(shard)}queues"
        names = await self._connection.execute("SMEMBERS", key)
        return sorted({name.decode().rpartition(":")[0] for name in names})

    async def invocation(self, run_id: str) -> Invocation | None:
        """What the run's message is built from; None when there is no record."""
        key = f"{self._keys.prefix(run_id)}run:{run_id}"
        values = await self._connection.execute("HMGET", key, *INVOCATION_FIELDS)
        return invocation_of(run_id, values)

    async def cancel_asked(self, run_id: str) -> tuple[str, str] | None:
        """Reason and code with which somebody asked for the end of the run; None when nobody did.

        Also once the run has ended; None when there is no record.
        """
        key = f"{self._keys.prefix(run_id)}run:{run_id}"
        reason, code = await self._connection.execute("HMGET", key, "cancel", "cancel_code")
        return None if reason is None else (reason.decode(), (code or b"").decode())

    async def counted_budget(self, run_id: str) -> tuple[int | None, int | None]:
        """The calls and tokens that the run was given when it was enqueued; None: no bound."""
        key = f"{self._keys.prefix(run_id)}run:{run_id}"
        found = await self._connection.execute("HMGET", key, "budget_calls", "budget_tokens")
        calls, tokens = (None if value is None else int(value) for value in found)
        return calls, tokens

    async def state(self, run_id: str) -> tuple[RunState, int]:
        """The run's state and the number of its last event; raises UnknownRunError."""
        key = f"{self._keys.prefix(run_id)}run:{run_id}"
        state, seq = await self._connection.execute("HMGET", key, "state", "seq")
        if state is None:
            raise UnknownRunError(f"there is no run {run_id!r}: wrong id, or it expired")
        return RunState(state.decode()), int(seq)

    async def status(self, run_id: str) -> RunStatus:
        """A snapshot of the run; raises UnknownRunError."""
        (status,) = await self._statuses([run_id])
        if status is None:
            raise UnknownRunError(f"there is no run {run_id!r}: wrong id, or it expired")
        return status

    async def end(self, run_id: str) -> End | None:
        """How the run ended, with its value; None while it has not. Raises UnknownRunError."""
        # The state is read first: a run that had ended then has its result now, if ever.
        (state, _), meta = await asyncio.gather(
            self.state(run_id), self._connection.execute("GET", self._keys.result_key(run_id))
        )
        if meta is not None:
            return decode_end(meta)
        if state.terminal:
            raise UnknownRunError(f"the result of run {run_id!r} has expired")
        return None

    async def former_attempts(self, run_id: str) -> tuple[Attempt, ...]:
        """The attempts that ended without ending the run, as workers have listed them.

        None for a run that has a result, whatever its record says of its state.
        """
        key = f"{self._keys.prefix(run_id)}attempts:{run_id}"
        entries, ended = await asyncio.gather(
            self._connection.execute("LRANGE", key, 0, -1),
            self._connection.execute("EXISTS", self._keys.result_key(run_id)),
        )
        return () if ended else tuple(attempt_of(orjson.loads(entry)) for entry in entries)

    async def newest(
        self, *, state: RunState | None = None, agent: str | None = None, limit: int = 50
    ) -> list[RunStatus]:
        """Runs, newest first, of a state and an agent when they are given."""
        found: dict[str, RunStatus] = {}
        for prefix in self._keys.prefixes():
            for index in _indexes(prefix, state, agent):
                # By id: a run may change its state, and so its index, while they are read.
                found |= {run.id: run for run in await self._newest_of(index, state, limit)}
        return sorted(found.values(), key=lambda run: run.created_at, reverse=True)[:limit]

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

    async def _statuses(self, run_ids: Sequence[str]) -> list[RunStatus | None]:
        calls = []
        for run_id in run_ids:
            prefix = self._keys.prefix(run_id)
            calls.append(
                (
                    self._connection.execute("HGETALL", f"{prefix}run:{run_id}"),
                    self._connection.execute("LRANGE", f"{prefix}attempts:{run_id}", 0, -1),
                    self._connection.execute("SCARD", f"{prefix}children:{run_id}"),
                )
            )
        statuses: list[RunStatus | None] = []
        for run_id, (record, attempts, children) in zip(
            run_ids, await _gather_triples(calls), strict=True
        ):
            fields = {record[i].decode(): record[i + 1] for i in range(0, len(record), 2)}
            statuses.append(status_of(run_id, fields, attempts, children) if fields else None)
        return statuses

    async def _cancel_tree(self, run_id: str, end: End, below: str, request: str = "") -> str:
        """Cancel a run and all below it (for the reason `below`); what became of the run itself.

        On the way down each caller is marked, so that it calls nobody any more; on the way up,
        after all that it called, it is told. The mark is a debt, which the reaper pays should
        this process not come so far.
        """
        what, children = await self._cancel_one(run_id, end, only_mark="1", request=request)
        await self._cancel_trees(children, below)
        if what == "marked":
            await self._cancel_one(run_id, end)
        return what

    async def _cancel_trees(self, run_ids: Sequence[str], reason: str) -> None:
        end = End(RunState.CANCELLED, ReasonCode.PARENT_ENDED, reason)
        await asyncio.gather(*(self._cancel_tree(run_id, end, reason) for run_id in run_ids))

    async def _cancel_one(
        self, run_id: str, end: End, only_mark: str = "", request: str = ""
    ) -> tuple[str, list[str]]:
        prefix, reason, code = self._keys.prefix(run_id), end.message, end.code
        if self._may_end_runs:
            try:
                reply = await self._run(
                    "cancel",
                    [prefix, self._keys.result_key(run_id)],
                    *(run_id, reason, code, final_payload(end.state, code, reason)),
                    *(encode_end(run_id, "", end.state, code, reason), only_mark, request),
                )
            except RefusedError as error:
                if not str(error.__cause__).startswith("NOPERM"):
                    raise
                # A user who may not write results, as a producer by deploy/redis/users.acl.
                self._may_end_runs = False
        if not self._may_end_runs:
            args = (run_id, reason, code, only_mark, request)
            reply = await self._run("ask_cancel", [prefix], *args)
        what, children = reply
        return what.decode(), [child.decode() for child in children]

    def _run(self, script: str, keys: Sequence[str], *args: Any) -> Awaitable[Any]:
        return run_script(self._connection, script, tuple(keys), args)


@dataclass(frozen=True)
class ReapOptions:
    """How a round of the reaper works; times in milliseconds."""

    office_ms: int = 5000
    limit: int = 200
    grace_ms: int = 10_000
    empty_queues: tuple[str, ...] = ()


_USED_UP = {b"no_calls": "calls", b"no_tokens": "tokens"}
_CALLER_ENDED = "the calling run has ended or is being cancelled"
_CANVAS_MS = 20_000
_PAGE = 200
_MOST_LISTED = 50 * _PAGE


def _indexes(prefix: str, state: RunState | None, agent: str | None) -> list[str]:
    if agent is not None:
        return [f"{prefix}agent:{agent}"]
    return [f"{prefix}state:{name}" for name in ([state] if state is not None else RunState)]


def _submitted(reply: list[Any], new: Submission, limit: int) -> bool:
    if reply[0] == 1:
        return True
    if reply[0] == -1:
        if reply[1] == b"tree_full":
            raise LimitExceededError(
                f"the tree of runs of {new.root_id} already holds {limit} runs"
            )
        if reply[1] == b"cycle":
            raise LimitExceededError(
                f"{new.task} is called with the same arguments by a run above: a cycle"
            )
        if reply[1] in _USED_UP:
            raise BudgetExhaustedError(f"the tree's budget of {_USED_UP[reply[1]]} is used up")
        raise LimitExceededError(_CALLER_ENDED)
    if reply[1].decode() != new.digest:
        raise IdempotencyConflictError(
            "this idempotency key was used before with other arguments: use a new key"
        )
    return False


async def _gather_triples(calls: list[tuple[Any, Any, Any]]) -> list[tuple[Any, Any, Any]]:
    flat = await asyncio.gather(*(call for triple in calls for call in triple))
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]
