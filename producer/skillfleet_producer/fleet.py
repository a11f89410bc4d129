"""The synchronous fleet: each method is a call into the asynchronous one."""

import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, Self, TypeVar, Unpack

from skillfleet.contracts import (
    AgentCard,
    ArtifactInfo,
    RecordedStep,
    RunEvent,
    RunState,
    RunStatus,
    Schedule,
    SessionEvent,
    SessionStatus,
    Wait,
)
from skillfleet.errors import FleetClosedError, FleetUnavailableError
from skillfleet_ledger import Settings
from skillfleet_ledger.dead_letters import DeadLetter
from skillfleet_ledger.runs.queries import Queries
from skillfleet_ledger.runs.records import Invocation
from skillfleet_ledger.runs.search import RunPage
from skillfleet_ledger.sync import BlockingLedger, Portal, run_sync
from skillfleet_producer.conditions import RunConditions
from skillfleet_producer.enqueuing import Enqueuer
from skillfleet_producer.fleet_async import (
    CLIENT_NAME,
    AsyncFleet,
    AsyncRunHandle,
    check_run_id,
    chosen_settings,
    value_of,
)
from skillfleet_producer.inputs import Caller
from skillfleet_producer.scheduling import ScheduleOptions
from skillfleet_producer.sessions import AsyncSession
from skillfleet_producer.submission import EnqueueOptions, Options, check_text
from skillfleet_producer.workspaces import SessionWorkspace, WorkspaceFiles

T = TypeVar("T")
Runner = Callable[[], tuple[Portal, AsyncFleet]]
"""Returns the thread and the asynchronous fleet of a `Fleet`; starts them."""
_READ_SECONDS = 0.5
"""The time limit of a read in the calling thread, where it cannot be interrupted."""


class Reader(Protocol):
    """Reads runs in the calling thread; see `Fleet._read`."""

    def __call__(self, read: Callable[[Queries], Coroutine[Any, Any, T]], /) -> T | None:
        """Return what `read` returns, or None."""


class Fleet:
    """The fleet as a synchronous backend service uses it. A context manager; thread-safe.

    See `AsyncFleet` for arguments and errors. May be created before a fork: each process
    then gets its own connections. A call after `close` opens connections again.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = chosen_settings(url, settings)
        self._ledger, self._enqueuer = self._blocking()
        # By process: a lock that is held as a process forks stays locked in the child.
        self._locks: dict[int, threading.RLock] = {}
        self._portal: Portal | None = None
        self._fleet: AsyncFleet | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the thread; runs continue. Any thread.

        Waiting calls in other threads fail with FleetClosedError at once, whatever their timeout.
        """
        with self._lock():
            ledger, portal, fleet = self._ledger, self._portal, self._fleet
            self._ledger, self._enqueuer = self._blocking()
            self._portal, self._fleet = None, None
        run_sync(ledger.close())
        if portal is None or fleet is None or portal.pid != os.getpid():
            return
        try:
            portal.call(fleet.close())
        finally:
            portal.close()

    def enqueue(
        self,
        skill: object,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> "RunHandle":
        """Enqueue one run; see `AsyncFleet.enqueue`."""
        # A message may wake a parked run, which only the fleet with a thread publishes.
        if self.settings.broker_is_ledger and options.get("on_busy") != "send":
            work = self._enqueuer.enqueue(skill, args or {}, Options(**options))
            return self.run(run_sync(work))
        portal, fleet = self._runner()
        return self.run(portal.call(fleet.enqueue(skill, args, **options)).id)

    def enqueue_many(
        self,
        skill: object,
        args_list: Sequence[Mapping[str, Any]],
        **options: Unpack[EnqueueOptions],
    ) -> list["RunHandle"]:
        """Enqueue many runs; see `AsyncFleet.enqueue_many`."""
        portal, fleet = self._runner()
        handles = portal.call(fleet.enqueue_many(skill, args_list, **options))
        return [self.run(handle.id) for handle in handles]

    def session(self, session_id: str, *, auth: Caller = None) -> "Session":
        """Return a handle on a session; see `AsyncFleet.session`."""
        return Session(self, self._runner, session_id, auth)

    def sessions(self, limit: int = 50) -> list[SessionStatus]:
        """Return the sessions that were active last; see `AsyncFleet.sessions`."""
        portal, fleet = self._runner()
        return portal.call(fleet.sessions(limit))

    def run(self, run_id: str) -> "RunHandle":
        """Return a handle on an existing run."""
        return RunHandle(self._runner, self._read, run_id)

    def runs(
        self,
        state: RunState | str | None = None,
        agent: str | None = None,
        *,
        limit: int = 50,
        after: str | None = None,
        **conditions: Unpack[RunConditions],
    ) -> RunPage:
        """Return runs, newest first; see `AsyncFleet.runs`."""
        portal, fleet = self._runner()
        return portal.call(fleet.runs(state, agent, limit=limit, after=after, **conditions))

    def schedule(
        self,
        name: str,
        skill: object,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Have the fleet enqueue a skill at certain times; see `AsyncFleet.schedule`."""
        portal, fleet = self._runner()
        return portal.call(fleet.schedule(name, skill, args, **options))

    def schedules(self) -> list[Schedule]:
        """Return all schedules, by name."""
        portal, fleet = self._runner()
        return portal.call(fleet.schedules())

    def unschedule(self, name: str) -> bool:
        """Remove a schedule; False when there is none."""
        portal, fleet = self._runner()
        return portal.call(fleet.unschedule(name))

    def pause_schedule(self, name: str) -> Schedule:
        """Pause a schedule: what is due meanwhile is left out."""
        portal, fleet = self._runner()
        return portal.call(fleet.pause_schedule(name))

    def resume_schedule(self, name: str) -> Schedule:
        """Let a paused schedule go on with its next time."""
        portal, fleet = self._runner()
        return portal.call(fleet.resume_schedule(name))

    def run_schedule(self, name: str) -> "RunHandle":
        """Enqueue a run of a schedule now; see `AsyncFleet.run_schedule`."""
        portal, fleet = self._runner()
        return self.run(portal.call(fleet.run_schedule(name)).id)

    def schedule_times(self, name: str, count: int = 5) -> list[datetime]:
        """Return the next times (UTC) of a schedule, as if it were not paused."""
        portal, fleet = self._runner()
        return portal.call(fleet.schedule_times(name, count))

    def agents(self) -> list[AgentCard]:
        """Return the cards of all agents that live workers serve."""
        portal, fleet = self._runner()
        return portal.call(fleet.agents())

    def dead_letters(self, limit: int = 50) -> list[DeadLetter]:
        """Return the messages that no run could be made of, newest first."""
        portal, fleet = self._runner()
        return portal.call(fleet.dead_letters(limit))

    def purge_dead_letters(self) -> int:
        """Delete all dead letters; returns how many there were."""
        portal, fleet = self._runner()
        return portal.call(fleet.purge_dead_letters())

    def _runner(self) -> tuple[Portal, AsyncFleet]:
        """Return thread and fleet for work of more than one request, started at the first call."""
        with self._lock():
            if self._portal is None or self._fleet is None or self._portal.pid != os.getpid():
                self._portal, self._fleet = Portal(), AsyncFleet(settings=self.settings)
            return self._portal, self._fleet

    def _read(self, read: Callable[[Queries], Coroutine[Any, Any, T]]) -> T | None:
        """Read in the calling thread; return None where Redis does not answer soon."""
        try:
            return run_sync(read(self._ledger.queries))
        except FleetClosedError:
            raise
        except FleetUnavailableError:
            return None

    def _blocking(self) -> tuple[BlockingLedger, Enqueuer]:
        """Return the ledger and enqueuer for requests in the calling thread, not connected yet."""
        ledger = BlockingLedger(self.settings, name=CLIENT_NAME)
        return ledger, Enqueuer(ledger)

    def _lock(self) -> threading.RLock:
        return self._locks.setdefault(os.getpid(), threading.RLock())


class RunHandle:
    """One run; see `AsyncRunHandle` for arguments and errors."""

    def __init__(self, runner: Runner, reader: Reader, run_id: str) -> None:
        self.id = run_id
        self._runner = runner
        self._read = reader

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def status(self) -> RunStatus:
        """Return a snapshot of the run."""
        check_run_id(self.id)
        found = self._read(lambda queries: queries.status(self.id, _READ_SECONDS))
        if found is not None:
            return found
        portal, handle = self._bound()
        return portal.call(handle.status())

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel the run and all runs it called; False when it had ended before."""
        portal, handle = self._bound()
        return portal.call(handle.cancel(reason))

    def revoke_grants(self) -> None:
        """Revoke all grants that runs of this one's tree, and of its session, have made so far."""
        portal, handle = self._bound()
        portal.call(handle.revoke_grants())

    def waits(self) -> list[Wait]:
        """Return the open waits of the run, the oldest first."""
        portal, handle = self._bound()
        return portal.call(handle.waits())

    def answer(self, value: Any, wait: str | None = None, *, auth: Caller = None) -> bool:
        """Answer a question of the run; False when it had this answer before."""
        portal, handle = self._bound()
        return portal.call(handle.answer(value, wait, auth=auth))

    def reject(self, reason: str = "", wait: str | None = None, *, auth: Caller = None) -> bool:
        """Reject a question: the skill gets WaitRejected with the reason."""
        portal, handle = self._bound()
        return portal.call(handle.reject(reason, wait, auth=auth))

    def send(self, message: Any, *, auth: Caller = None) -> None:
        """Put a message, any JSON value, into the run's inbox."""
        portal, handle = self._bound()
        portal.call(handle.send(message, auth=auth))

    def steps(self) -> list[RecordedStep]:
        """Return the entries of the run's journal by number."""
        portal, handle = self._bound()
        return portal.call(handle.steps())

    def fork(
        self,
        at_step: int | str | None = None,
        args: Mapping[str, Any] | None = None,
        *,
        auth: Caller = None,
    ) -> "RunHandle":
        """Enqueue a new run of the same skill that begins with the recorded steps of this one."""
        portal, handle = self._bound()
        forked = portal.call(handle.fork(at_step, args, auth=auth))
        return RunHandle(self._runner, self._read, forked.id)

    def events(self, after: str | None = None, timeout: float | None = None) -> Iterator[RunEvent]:
        """Yield the run's events, live, after the id `after`; ends after the final event."""
        portal, handle = self._bound()
        # One hop to the other thread for each batch, not for each event.
        for batch in portal.iterate(handle.event_batches(after, timeout)):
            yield from batch

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end of the run and return its value."""
        check_run_id(self.id)
        patience = _READ_SECONDS if timeout is None else min(timeout, _READ_SECONDS)
        end = self._read(lambda queries: queries.end(self.id, patience))
        if end is not None:
            return value_of(self.id, end)
        portal, handle = self._bound()
        return portal.call(handle.result(timeout))

    def artifacts(self) -> list[ArtifactInfo]:
        """Return the artifacts that the run has written so far."""
        portal, handle = self._bound()
        return portal.call(handle.artifacts())

    def read_artifact(self, name: str) -> bytes:
        """Return all bytes of an artifact."""
        portal, handle = self._bound()
        return portal.call(handle.read_artifact(name))

    def stream_artifact(self, name: str) -> Iterator[bytes]:
        """Yield an artifact's bytes in pieces."""
        portal, handle = self._bound()
        return portal.iterate(handle.stream_artifact(name))

    def artifact_url(self, name: str, expires_in: float = 3600) -> str:
        """Return a URL that reads an artifact without credentials for so many seconds."""
        portal, handle = self._bound()
        return portal.call(handle.artifact_url(name, expires_in))

    def children(self) -> list[str]:
        """Return the ids of the runs that the run called."""
        portal, handle = self._bound()
        return portal.call(handle.children())

    def invocation(self) -> Invocation | None:
        """Return what the run was enqueued with; None when it has no record."""
        portal, handle = self._bound()
        return portal.call(handle.invocation())

    def budget(self) -> tuple[int | None, int | None]:
        """Return the calls and tokens that the run was given; None: no limit."""
        portal, handle = self._bound()
        return portal.call(handle.budget())

    def _bound(self) -> tuple[Portal, AsyncRunHandle]:
        portal, fleet = self._runner()
        return portal, AsyncRunHandle(fleet, self.id)


class Session:
    """One session; see `AsyncSession` for arguments and errors."""

    def __init__(self, fleet: Fleet, runner: Runner, session_id: str, auth: Caller = None) -> None:
        check_text("session", session_id)
        self.id = session_id
        self._fleet = fleet
        self._runner = runner
        self._auth = auth

    def __repr__(self) -> str:
        return f"<session {self.id}>"

    @property
    def workspace(self) -> SessionWorkspace:
        """The files that the session's runs work on, to put in and take out."""
        self._files()
        return SessionWorkspace(self._files)

    def enqueue(
        self,
        skill: object,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> RunHandle:
        """Enqueue a run of the session."""
        options.setdefault("auth", self._auth)
        options["session"] = self.id
        return self._fleet.enqueue(skill, args, **options)

    def send(self, message: Any, *, auth: Caller = None) -> str:
        """Put a message into the inbox of the session's current run; returns the run's id."""
        portal, session = self._bound()
        return portal.call(session.send(message, auth=auth))

    def status(self) -> SessionStatus:
        """Return a snapshot of the session."""
        portal, session = self._bound()
        return portal.call(session.status())

    def runs(self, limit: int = 50) -> list[RunStatus]:
        """Return the session's runs that are still recorded, the newest first."""
        portal, session = self._bound()
        return portal.call(session.runs(limit))

    def revoke_grants(self) -> None:
        """Revoke all grants of access to its files that its runs have made so far."""
        portal, session = self._bound()
        portal.call(session.revoke_grants())

    def events(
        self, after: str | None = None, timeout: float | None = None, *, follow: bool = True
    ) -> Iterator[SessionEvent]:
        """Yield the events of all runs of the session, run after run, after the id `after`."""
        portal, session = self._bound()
        for batch in portal.iterate(session.event_batches(after, timeout, follow=follow)):
            yield from batch

    def _bound(self) -> tuple[Portal, AsyncSession[AsyncRunHandle]]:
        portal, fleet = self._runner()
        return portal, fleet.session(self.id, auth=self._auth)

    def _files(self) -> tuple[Portal, WorkspaceFiles]:
        portal, session = self._bound()
        return portal, session.workspace
