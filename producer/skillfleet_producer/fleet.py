"""The synchronous front: the same verbs, each a call into the asynchronous fleet."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, Unpack

from skillfleet.contracts import AgentCard, ArtifactInfo, RunEvent, RunState, RunStatus
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.redis_client.blocking import completed
from skillfleet_ledger.sync import Portal
from skillfleet_producer.fleet_async import (
    CLIENT_NAME,
    AsyncFleet,
    AsyncRunHandle,
    chosen_settings,
)
from skillfleet_producer.submission import EnqueueOptions


class Fleet:
    """A fleet, seen by a synchronous backend service. A context manager; thread-safe.

    See `AsyncFleet` for arguments and errors. May be created before a fork: each process
    then gets connections of its own. A call after `close` opens connections again.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = chosen_settings(url, settings)
        self._here = self._blocking()
        # By process: a lock that is held as a process forks stays locked in the child.
        self._locks: dict[int, threading.RLock] = {}
        self._portal: Portal | None = None
        self._fleet: AsyncFleet | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the thread; runs go on. Any thread.

        Other threads that wait get FleetClosedError at once, whatever their timeout.
        """
        with self._lock():
            here, portal, fleet = self._here, self._portal, self._fleet
            self._here, self._portal, self._fleet = self._blocking(), None, None
        # Not its publisher, which for a remote broker needs a loop and was never used.
        completed(here.ledger.close())
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
        if self.settings.broker_is_ledger:
            return RunHandle(self, completed(self._here.enqueue(skill, args, **options)))
        portal, fleet = self.open()
        return RunHandle(self, portal.call(fleet.enqueue(skill, args, **options)))

    def enqueue_many(
        self,
        skill: object,
        args_list: Sequence[Mapping[str, Any]],
        **options: Unpack[EnqueueOptions],
    ) -> list["RunHandle"]:
        """Enqueue many runs; see `AsyncFleet.enqueue_many`."""
        portal, fleet = self.open()
        handles = portal.call(fleet.enqueue_many(skill, args_list, **options))
        return [RunHandle(self, handle) for handle in handles]

    def run(self, run_id: str) -> "RunHandle":
        """A handle on an existing run."""
        return RunHandle(self, self._here.run(run_id))

    def runs(
        self, state: RunState | str | None = None, agent: str | None = None, limit: int = 50
    ) -> list[RunStatus]:
        """Runs, newest first."""
        portal, fleet = self.open()
        return portal.call(fleet.runs(state, agent, limit))

    def agents(self) -> list[AgentCard]:
        """The cards of all agents that live workers serve."""
        portal, fleet = self.open()
        return portal.call(fleet.agents())

    def open(self) -> tuple[Portal, AsyncFleet]:
        """The thread and the fleet for all that takes more than one request; starts them."""
        with self._lock():
            if self._portal is None or self._fleet is None or self._portal.pid != os.getpid():
                self._portal, self._fleet = Portal(), AsyncFleet(settings=self.settings)
            return self._portal, self._fleet

    def _blocking(self) -> AsyncFleet:
        """What works in the calling thread, for what is one request to Redis; not connected yet."""
        return AsyncFleet(ledger=Ledger(self.settings, name=CLIENT_NAME, blocking=True))

    def _lock(self) -> threading.RLock:
        return self._locks.setdefault(os.getpid(), threading.RLock())


class RunHandle:
    """One run; see `AsyncRunHandle` for arguments and errors."""

    def __init__(self, fleet: Fleet, handle: AsyncRunHandle) -> None:
        self.id = handle.id
        self._fleet = fleet
        self._handle = handle

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def status(self) -> RunStatus:
        """A snapshot of the run."""
        portal, handle = self._open()
        return portal.call(handle.status())

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel the run and all runs it called; False when it had ended before."""
        portal, handle = self._open()
        return portal.call(handle.cancel(reason))

    def events(self, after: str | None = None, timeout: float | None = None) -> Iterator[RunEvent]:
        """Yield the run's events, live, behind the id `after`; ends after the final event."""
        portal, handle = self._open()
        # One hop to the other thread for each batch, not for each event.
        for batch in portal.iterate(handle.event_batches(after, timeout)):
            yield from batch

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end of the run and return its value."""
        portal, handle = self._open()
        return portal.call(handle.result(timeout))

    def artifacts(self) -> list[ArtifactInfo]:
        """The artifacts that the run has written so far."""
        portal, handle = self._open()
        return portal.call(handle.artifacts())

    def read_artifact(self, name: str) -> bytes:
        """All bytes of an artifact."""
        portal, handle = self._open()
        return portal.call(handle.read_artifact(name))

    def stream_artifact(self, name: str) -> Iterator[bytes]:
        """Yield an artifact's bytes in pieces."""
        portal, handle = self._open()
        return portal.iterate(handle.stream_artifact(name))

    def _open(self) -> tuple[Portal, AsyncRunHandle]:
        portal, fleet = self._fleet.open()
        self._handle = self._handle.through(fleet)
        return portal, self._handle
