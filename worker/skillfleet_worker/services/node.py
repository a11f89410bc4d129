"""Node: a worker as Celery starts it, with one or several processes that execute runs."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from skillfleet.agent import Agent
from skillfleet.contracts import AgentCard
from skillfleet_engine.loop import bridge
from skillfleet_telemetry.tracing import tracing
from skillfleet_worker.attempts.execution import Registration
from skillfleet_worker.attempts.executor import Executor
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.telemetry import abandon_all
from skillfleet_worker.services.process_services import ProcessServices
from skillfleet_worker.services.watchdog import Watchdog, end_child, restart_process
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_LAST_SPANS_SECONDS = 2.0

ExecutorFactory = Callable[["Node"], Executor]
"""Builds the executor of a process of the node, on the process's home loop."""


class Node:
    """The agents that a worker serves, and the executor of each of its processes."""

    def __init__(
        self, settings: WorkerSettings, agents: Sequence[Agent], make_executor: ExecutorFactory
    ) -> None:
        self.settings = settings
        self.agents = tuple(agents)
        self.disabled: dict[str, tuple[str, ...]] = {}
        """Skills that are not served, by task name, with the problems of their secrets."""
        self.release_runs: Callable[[], None] = lambda: None
        """Releases all runs of the worker and waits until that is done; in the main process."""
        self.end_process: Callable[[], None] = lambda: None
        """End this process at once, with the exit status of a worker that has drained."""
        self.consumer: Any = None
        """Celery's consumer in the main process; None in children."""
        self.hostname: str | None = None
        """Celery's name of the worker, once it starts."""
        self._app: Any = None
        self._make_executor = make_executor
        self._executor: Executor | None = None
        self._services: ProcessServices | None = None
        self._watchdog: Watchdog | None = None
        self._pid = os.getpid()
        self.main_pid = os.getpid()
        """The process that consumes messages; the others are children of its pool."""
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """True while this process executes runs."""
        return self.process is not None and bool(self.process.attempts)

    @property
    def app(self) -> Any:
        """The Celery app. Only after `bind`."""
        return self._app

    def bind(self, app: Any) -> None:
        """Bind the node to a Celery app; `node_of(app)` returns it."""
        self._app = app
        app.skillfleet = self

    @property
    def cards(self) -> list[AgentCard]:
        """The cards of the agents, as the worker publishes them."""
        cards = []
        for agent in self.agents:
            card = agent.card(self.queue_of(agent))
            served = tuple(
                skill for skill in card.skills if f"{card.name}.{skill.name}" not in self.disabled
            )
            if served or not card.skills:
                cards.append(card.model_copy(update={"skills": served}))
        return cards

    @property
    def served(self) -> dict[str, Registration]:
        """The skills that are served, by task name. Only after `bind`."""
        return {
            skill.spec.task_name: self._app.tasks[skill.spec.task_name].registration
            for agent in self.agents
            for skill in agent.skills.values()
            if skill.spec.task_name not in self.disabled
        }

    @property
    def queues(self) -> list[str]:
        """The queues that carry the agents' runs, the default queue first."""
        own = [self.queue_of(agent) for agent in self.agents]
        return list(dict.fromkeys([self.settings.default_queue, *own]))

    def queue_of(self, agent: Agent) -> str:
        """Return the queue that carries an agent's runs."""
        return agent.queue or self.settings.default_queue

    @property
    def process(self) -> WorkerProcess | None:
        """The running attempts of this process; None before it starts, or if it executes none."""
        if self._executor is None or self._pid != os.getpid():
            return None
        return self._executor.process

    @property
    def in_child(self) -> bool:
        """True in a child process of the worker."""
        return self.main_pid != os.getpid()

    async def executor(self) -> Executor:
        """This process's executor; started at the first call."""
        if self._executor is None or self._pid != os.getpid():
            await bridge.at_home(self._start())
        if self._executor is None:
            raise RuntimeError("the worker process did not start")
        return self._executor

    def start(self) -> None:
        """Start this process's services without waiting for a first run."""
        asyncio.run_coroutine_threadsafe(self._start(), bridge.home_loop())

    def drain(self, seconds: float | None = None) -> None:
        """Begin the drain of this process; from any thread, also from a signal handler."""
        executor = self._executor
        if executor is not None and self._pid == os.getpid():
            bridge.home_loop().call_soon_threadsafe(executor.process.drain, seconds)

    def hand_over(self) -> None:
        """Release what this ending process still executes, in the calling thread."""
        if self._watchdog is not None and self.busy:
            self._watchdog.release_all()

    async def stop(self) -> None:
        """Stop this process's services."""
        executor, self._executor = self._executor, None
        if self._watchdog is not None:
            self._watchdog.stop()
        if executor is not None and self._pid == os.getpid() and self._services is not None:
            await bridge.at_home(self._services.stop())

    async def _start(self) -> None:
        with self._lock:
            if self._executor is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._executor = self._make_executor(self)
                self._services = ProcessServices(self._executor.process, self.cards)
                self._services.start()
                self._watchdog = Watchdog(self._executor.process, self._restart)
                self._watchdog.start()

    def _restart(self) -> None:
        abandon_all("its worker process was recycled")
        tracing.stop(_LAST_SPANS_SECONDS)
        if self.process is not None and self.process.draining:
            # It has to end anyway: no signal would reach a process that starts again.
            self.end_process()
        if self.in_child:
            end_child()
        restart_process()


def node_of(app: Any) -> Node:
    """Return the node that a Celery app made by `create_app` belongs to."""
    node = getattr(app, "skillfleet", None)
    if not isinstance(node, Node):
        raise TypeError(f"{app!r} serves no skills: make it with skillfleet_worker.create_app")
    return node
