"""The asynchronous fleet, on which the synchronous one is built."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar, Unpack

from skillfleet.arguments import check_seconds
from skillfleet.contracts import (
    AgentCard,
    ArtifactInfo,
    RecordedStep,
    RunEvent,
    RunState,
    RunStatus,
    Schedule,
    SessionStatus,
    Wait,
)
from skillfleet.errors import (
    ResultTimeoutError,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
    SessionDeadlockError,
    SettingsError,
    UnknownRunError,
)
from skillfleet.ports.session import own_session
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.dead_letters import DeadLetter
from skillfleet_ledger.redis_client.address import Address
from skillfleet_ledger.redis_client.protocol import utf8
from skillfleet_ledger.runs.records import Invocation
from skillfleet_ledger.runs.search import RunFilter, RunPage
from skillfleet_producer.batches import batches_within
from skillfleet_producer.conditions import RunConditions, read_conditions
from skillfleet_producer.enqueuing import Enqueuer
from skillfleet_producer.forks import fork_run
from skillfleet_producer.inputs import Caller, Inputs
from skillfleet_producer.publisher import Publisher, publish_woken_runs, publisher_for
from skillfleet_producer.scheduling import ScheduleOptions, Scheduling
from skillfleet_producer.sessions import AsyncSession
from skillfleet_producer.submission import EnqueueOptions, Options
from skillfleet_producer.workspaces import Workspaces

T = TypeVar("T")
CLIENT_NAME = "skillfleet-producer"
"""The name of a producer's connections in Redis."""
_RECHECK_SECONDS = 5.0
_LONGEST_ID = 4096
_ERRORS: dict[RunState, type[RunError]] = {
    RunState.FAILED: RunFailed,
    RunState.DEAD: RunFailed,
    RunState.CANCELLED: RunCancelled,
    RunState.TIMED_OUT: RunTimedOut,
}


def chosen_settings(url: str | None, settings: Settings | None) -> Settings:
    """Return the given settings or the environment's, with `url` if given; raises SettingsError."""
    given = settings.model_dump() if settings is not None else {}
    kind = type(settings) if settings is not None else Settings
    if url is None:
        return kind.load(**given)
    try:
        Address.parse(url)
    except ValueError as error:
        raise SettingsError(f"url: {error}") from None
    return kind.load(**(given | {"redis_url": url}))


def check_run_id(run_id: str) -> None:
    """Raise UnknownRunError for a string that cannot be the id of a run."""
    if not utf8(run_id) or len(run_id) > _LONGEST_ID:
        raise UnknownRunError(f"there is no run {run_id!r:.100}: that is not the id of a run")


def value_of(run_id: str, end: RunEnd) -> Any:
    """Return the value of a run that succeeded; raises RunFailed, RunCancelled or RunTimedOut."""
    if end.state is RunState.SUCCEEDED:
        return end.value
    raise _ERRORS[end.state](end.message or end.state, code=end.code, run_id=run_id)


class AsyncFleet:
    """The fleet as a backend service uses it. An async context manager; safe for many tasks.

    `url` is the Redis URL of the fleet (default: `SKILLFLEET_REDIS_URL`); a runtime that has a
    `ledger` already passes that instead. Bound to the first event loop that uses it: use on
    another one raises WrongLoopError, unless the first is closed by then, as between two
    `asyncio.run`. All methods raise FleetUnavailableError when Redis is unreachable or full for
    longer than `SKILLFLEET_REDIS_TIMEOUT_SECONDS`, at once when it refuses user, password or
    database, and FleetClosedError after `close`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if ledger is None:
            ledger = Ledger(chosen_settings(url, settings), name=CLIENT_NAME)
        self.ledger = ledger
        self.settings = ledger.settings
        self._publisher: Publisher = publisher_for(ledger)
        if ledger.woken.publish is None:
            publish_woken_runs(ledger, self._publisher)
        self.enqueuer = Enqueuer(ledger, self._publisher)
        """Enqueues in two steps, for runtimes that need a run's record before it is written."""
        self.inputs = Inputs(ledger, self._publisher, self.enqueuer.signing)
        """Gives runs answers and messages; the handles of runs call it."""
        self._scheduling = Scheduling(ledger, self.enqueuer)
        self._workspaces = Workspaces(ledger)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; runs continue. Waiting tasks get FleetClosedError."""
        await self._workspaces.close()
        await self.ledger.close()
        await self._publisher.close()

    async def enqueue(
        self,
        skill: object,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> "AsyncRunHandle":
        """Enqueue one run of `skill` ('<agent>.<skill>' or a skill object) and return its handle.

        `options` are the fields of `Options`: auth, idempotency_key, timeout, delay (seconds),
        priority (0, most urgent, to 9), queue, budget (for the run and all those it calls), tags
        (strings by name, which the runs that it calls have, too), session and on_busy. When this
        returns, the run is durable.

        The runs of a `session` execute one at a time, in the order of submission. While it has
        one that has not ended, a new one waits (`on_busy="queue"`); or it is refused ("reject");
        or the current one is cancelled ("cancel_running"); or its arguments become a message in
        the current one's inbox ("send"): once that is received, the new run is cancelled with the
        code `delivered`; unread, it has its turn.

        Raises InvalidArgumentsError, ArgumentsTooLargeError, UnknownSkillError, SessionBusyError,
        IdempotencyConflictError, LimitExceededError (1,000 runs wait in the session),
        UnauthorizedError (the fleet takes signed runs only, and there
        is no key to sign with) and FleetUnavailableError.
        """
        return self.run(await self.enqueuer.enqueue(skill, args or {}, Options(**options)))

    async def enqueue_many(
        self,
        skill: object,
        args_list: Sequence[Mapping[str, Any]],
        **options: Unpack[EnqueueOptions],
    ) -> list["AsyncRunHandle"]:
        """Enqueue one run for each entry of `args_list`; options and errors as `enqueue`.

        All arguments are checked before the first run is written. Runs are written in batches of a
        hundred, while the next batch is built.
        """
        run_ids = await self.enqueuer.enqueue_many(skill, args_list, Options(**options))
        return [self.run(run_id) for run_id in run_ids]

    def session(self, session_id: str, *, auth: Caller = None) -> "AsyncSession[AsyncRunHandle]":
        """Return a handle on a session, a conversation whose runs execute one at a time.

        `auth` is the caller whom it belongs to, where the fleet requires authentication.
        """
        return AsyncSession(
            self.ledger, self.inputs, self.enqueue, self._workspaces, session_id, auth
        )

    async def sessions(self, limit: int = 50) -> list[SessionStatus]:
        """Return the sessions that were active last, those of all callers, the newest first."""
        return await self.ledger.sessions.newest(limit)

    def run(self, run_id: str) -> "AsyncRunHandle":
        """Return a handle on an existing run; whether it exists shows at the first use."""
        return AsyncRunHandle(self, run_id)

    async def runs(
        self,
        state: RunState | str | None = None,
        agent: str | None = None,
        *,
        limit: int = 50,
        after: str | None = None,
        **conditions: Unpack[RunConditions],
    ) -> RunPage:
        """Return runs that meet all conditions, newest first: a list with a `cursor`.

        `tags` are tags that the runs have, `since` their earliest time of creation: a datetime with
        a time zone, or a timedelta before now. `session` is the id of their session, which belongs
        to the caller `auth`, as in `session`. A page costs the same however many runs there are,
        so it may hold fewer runs than `limit` (at most 10,000) although there are more: as long as
        its `cursor` is not None, `after=cursor` returns the next page.

        Raises ValueError for an invalid state, time, limit or cursor, and InvalidArgumentsError for
        tags or a session that no run can have.
        """
        chosen = RunState(state) if state is not None else None
        wanted = RunFilter(chosen, agent, **read_conditions(self.settings, conditions))
        return await self.ledger.search.page(wanted, limit=limit, after=after)

    async def schedule(
        self,
        name: str,
        skill: object,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Have the fleet enqueue a skill at certain times: make a schedule, or replace it.

        Its times are either `cron`, five fields read in `timezone` (default: UTC), or `every`, a
        number of seconds or a timedelta. `overlap` says what happens when a run is due while the
        last one has not ended: 'skip' (default), 'queue' or 'allow'. Of runs that were missed in an
        outage, the latest `catch_up` are made up for. Other options are those of the runs: auth,
        timeout, priority, queue, budget, tags, session.

        A schedule that is replaced without a change of its times keeps its next time, its pause and
        its last run. Raises InvalidArgumentsError (it names the field),
        ArgumentsTooLargeError, UnknownSkillError, LimitExceededError (SKILLFLEET_MAX_SCHEDULES) and
        UnauthorizedError.
        """
        return await self._scheduling.put(name, skill, args or {}, options)

    async def schedules(self) -> list[Schedule]:
        """Return all schedules, by name."""
        return await self._scheduling.all()

    async def unschedule(self, name: str) -> bool:
        """Remove a schedule; False when there is none. The runs that it started continue."""
        return await self._scheduling.remove(name)

    async def pause_schedule(self, name: str) -> Schedule:
        """Pause a schedule: what is due meanwhile is left out. Raises UnknownScheduleError."""
        return await self._scheduling.pause(name)

    async def resume_schedule(self, name: str) -> Schedule:
        """Let a paused schedule go on with its next time. Raises UnknownScheduleError."""
        return await self._scheduling.resume(name)

    async def run_schedule(self, name: str) -> "AsyncRunHandle":
        """Enqueue a run of a schedule now, beside its times, and return its handle.

        Raises UnknownScheduleError; UnauthorizedError where the fleet requires authentication, as
        only workers sign the runs of a schedule; and as `enqueue`.
        """
        return self.run(await self._scheduling.run_now(name))

    async def schedule_times(self, name: str, count: int = 5) -> list[datetime]:
        """Return the next times (UTC) of a schedule, as if it were not paused.

        Raises UnknownScheduleError.
        """
        return await self._scheduling.times(name, count)

    async def agents(self) -> list[AgentCard]:
        """Return the cards of all agents that live workers serve."""
        return await self.ledger.directory.agents()

    async def dead_letters(self, limit: int = 50) -> list[DeadLetter]:
        """Return the messages that no run could be made of, newest first."""
        return await self.ledger.dead_letters.list(limit)

    async def purge_dead_letters(self) -> int:
        """Delete all dead letters; returns how many there were."""
        return await self.ledger.dead_letters.purge()


class AsyncRunHandle:
    """A handle on one run, whatever its state: queued, running on some worker, or finished."""

    def __init__(self, fleet: AsyncFleet, run_id: str) -> None:
        self.id = run_id
        self._fleet = fleet

    @property
    def _ledger(self) -> Ledger:
        """The ledger, for an id that a run can have; raises UnknownRunError."""
        check_run_id(self.id)
        return self._fleet.ledger

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    async def status(self) -> RunStatus:
        """Return a snapshot of the run; raises UnknownRunError."""
        return await self._ledger.queries.status(self.id)

    async def children(self) -> list[str]:
        """Return the ids of the runs that the run called."""
        return await self._ledger.queries.children(self.id)

    async def invocation(self) -> Invocation | None:
        """Return what the run was enqueued with; None when it has no record."""
        return await self._ledger.queries.invocation(self.id)

    async def budget(self) -> tuple[int | None, int | None]:
        """Return the calls and tokens that the run was given; None: no limit."""
        return await self._ledger.budgets.limits(self.id)

    async def cancel(self, reason: str | None = None) -> bool:
        """Cancel the run and all runs it called; False when it had ended before.

        Durable: it reaches queued runs, and running ones on any worker. Raises UnknownRunError.
        """
        text = (reason or "cancelled by the caller").encode(errors="replace").decode()
        return await self._ledger.cancellation.cancel(self.id, text)

    async def revoke_grants(self) -> None:
        """Revoke all grants of access to files that runs of this one's tree have made so far.

        Those of its session, too. Raises UnknownRunError.
        """
        await self._ledger.grants.revoke_of_run(self.id)

    async def waits(self) -> list[Wait]:
        """Return the open waits of the run, the oldest first; raises UnknownRunError."""
        return await self._known(await self._ledger.waits.list(self.id))

    async def answer(self, value: Any, wait: str | None = None, *, auth: Caller = None) -> bool:
        """Answer a question of the run; False when it had this answer before.

        `wait` is the question's id, which the only open one does not need. `auth` is the caller
        who answers, as for `enqueue`. When this returns, the answer is durable and wakes the run.

        Raises InvalidArgumentsError (the value does not fit; it names the field), WaitConflictError
        (answered otherwise before, rejected, expired or withdrawn), UnknownWaitError,
        RunEndedError, MissingScopes, UnauthorizedError and UnknownRunError.
        """
        check_run_id(self.id)
        return await self._fleet.inputs.answer(self.id, value, wait, auth)

    async def reject(
        self, reason: str = "", wait: str | None = None, *, auth: Caller = None
    ) -> bool:
        """Reject a question: the skill gets WaitRejected with the reason. See `answer`."""
        check_run_id(self.id)
        return await self._fleet.inputs.reject(self.id, reason, wait, auth)

    async def send(self, message: Any, *, auth: Caller = None) -> None:
        """Put a message, any JSON value, into the run's inbox; `ctx.receive` returns it.

        Each message is received once, in the order of sending. Raises InvalidArgumentsError,
        InboxFullError, RunEndedError, UnauthorizedError and UnknownRunError.
        """
        check_run_id(self.id)
        await self._fleet.inputs.send(self.id, message, auth)

    async def steps(self) -> list[RecordedStep]:
        """Return the entries of the run's journal by number; raises UnknownRunError.

        Entries are steps, and the waits and calls that have ended. Their values are not shown.
        """
        return await self._known(await self._ledger.journals.list(self.id))

    async def fork(
        self,
        at_step: int | str | None = None,
        args: Mapping[str, Any] | None = None,
        *,
        auth: Caller = None,
    ) -> "AsyncRunHandle":
        """Enqueue a new run of the same skill that begins with the recorded steps of this one.

        `at_step` is the number or name of the first step that it executes again (see `steps`); by
        default it executes what failed or was not recorded. `args` replace the arguments. `auth`
        is the caller; where runs are signed, it must be that of this run, or have the scope
        `skillfleet:admin`. The run must not have expired before the new one starts. The new one
        belongs to no session: `ctx.session` is None.

        Raises InvalidArgumentsError for an unknown step, UnknownRunError, and what `enqueue` does.
        """
        check_run_id(self.id)
        fleet = self._fleet
        return fleet.run(await fork_run(fleet.ledger, fleet.enqueuer, self.id, at_step, args, auth))

    async def events(
        self, after: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[RunEvent]:
        """Yield the run's events, live, after the id `after`; ends after the final event.

        Raises ResultTimeoutError when the next event takes longer than `timeout` seconds. A gap
        that the stream's cap left is reported as one event of kind `trimmed`. Raises
        UnknownRunError, and ValueError when `after` is not an event id.
        """
        async for batch in self.event_batches(after, timeout):
            for event in batch:
                yield event

    async def event_batches(
        self, after: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[list[RunEvent]]:
        """Yield events like `events`, in lists of those that arrived together, which is faster."""
        await self._check_own_session()
        batches = self._ledger.streams.batches(self.id, after)
        what = f"an event of run {self.id}; the run goes on"
        async with contextlib.aclosing(batches_within(batches, timeout, what)) as found:
            async for batch in found:
                yield batch

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the end of the run and return its value.

        Raises RunFailed, RunCancelled or RunTimedOut (each with code and message) for the
        other endings, ResultTimeoutError after `timeout` seconds, UnknownRunError.
        """
        try:
            async with asyncio.timeout(timeout):
                end = await self.ended()
        except TimeoutError:
            raise ResultTimeoutError(
                f"waited {timeout} s for the end of run {self.id}; the run goes on"
            ) from None
        return value_of(self.id, end)

    async def artifacts(self) -> list[ArtifactInfo]:
        """Return the artifacts that the run has written so far; raises UnknownRunError."""
        return await self._known(await self._ledger.artifacts.list(self.id))

    async def read_artifact(self, name: str) -> bytes:
        """Return all bytes of an artifact; raises UnknownArtifactError with the names there are."""
        return b"".join([chunk async for chunk in self.stream_artifact(name)])

    async def stream_artifact(self, name: str) -> AsyncIterator[bytes]:
        """Yield an artifact's bytes in pieces; raises UnknownArtifactError."""
        await self._ledger.queries.state(self.id)
        async for chunk in self._ledger.artifacts.read(self.id, name):
            yield chunk

    async def artifact_url(self, name: str, expires_in: float = 3600) -> str:
        """Return a URL that reads an artifact without credentials for so many seconds.

        Raises UnknownArtifactError, and CapabilityUnavailableError for an artifact that lies in
        Redis or in a folder.
        """
        check_seconds("expires_in", expires_in)
        await self._ledger.queries.state(self.id)
        return await self._ledger.artifacts.url(self.id, name, expires_in)

    async def ended(self) -> RunEnd:
        """Wait for the end of the run and return it; raises UnknownRunError."""
        await self._check_own_session()
        if (end := await self._ledger.queries.end(self.id)) is not None:
            return end
        woken = asyncio.Event()

        def listener(_: bytes | None) -> None:
            woken.set()

        channel, channels = self._ledger.keys.result_key(self.id), self._ledger.pubsub
        try:
            await channels.listen(channel, listener)
            # A published message is only a hint: clients other than workers may publish, too.
            while (end := await self._ledger.queries.end(self.id)) is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RECHECK_SECONDS):
                        await woken.wait()
                woken.clear()
            return end
        finally:
            await channels.forget(channel, listener)

    async def _known(self, found: list[T]) -> list[T]:
        """Return what was found; raises UnknownRunError when that is nothing, and no run."""
        if not found:
            await self._ledger.queries.state(self.id)
        return found

    async def _check_own_session(self) -> None:
        """Raise SessionDeadlockError in a handler whose session holds this run back."""
        own = own_session.get()
        if own is not None and await self._ledger.queries.session_of(self.id) == own:
            raise SessionDeadlockError(
                f"run {self.id} starts when the run that would wait for it here has ended: both"
                " are of one session"
            )
