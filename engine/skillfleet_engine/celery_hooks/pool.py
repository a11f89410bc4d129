"""A Celery pool that runs tasks on one event loop, hundreds at once in one process.

Select it with `worker_pool = "skillfleet_engine:LoopPool"`, best together with
`worker_consumer = "skillfleet_engine:LoopConsumer"`, which keeps the loop running while the broker
is unreachable. `worker_concurrency` is the number of tasks that run at once. The worker fetches no
more messages than it has free slots with `worker_disable_prefetch` (Redis), or with late
acknowledgement and `worker_prefetch_multiplier = 1` (any broker).

`worker_max_tasks_per_child` and `worker_max_memory_per_child` do not apply: there are no children.
"""

import asyncio
import atexit
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from billiard.exceptions import Terminated
from celery import signals
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured
from celery.worker import state

from skillfleet_engine.celery_hooks.jobs import Call, Job, StopReason, Work
from skillfleet_engine.celery_hooks.settings import EngineSettings
from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.greenlets import in_greenlet
from skillfleet_engine.loop.host import LoopHost
from skillfleet_engine.loop.hub import LONGEST_POLL, host_hub
from skillfleet_engine.loop.signal_relay import SignalRelay
from skillfleet_engine.loop.threads import TaskThreads
from skillfleet_engine.loop.watchdog import LoopWatchdog

logger = logging.getLogger(__name__)

NO_HUB = """\
LoopPool needs a broker transport that kombu can run in its event hub (redis, amqp, sqs); the \
present one cannot. Choose another broker URL, or another worker_pool (threads, prefork).\
"""


class LoopPool(BasePool):
    """A pool of slots on one event loop; on the thread that starts it, except where noted."""

    _state: int | None
    task_join_will_block = True
    body_can_be_buffer = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if options.get("threads"):
            raise ImproperlyConfigured(NO_HUB)
        self.settings = EngineSettings.of(self.app)
        self.on_released: Callable[[int], object] | None = None
        self.on_signal: Callable[[int], object] = lambda _: None
        """Called with the number of a shutdown signal at once, within the signal handler."""
        self._pids = itertools.count(1)
        self._pending: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._released = 0
        self._hub: Any = None
        self._host: LoopHost | None = None
        self._relay: SignalRelay | None = None
        self._threads: TaskThreads | None = None
        self.watchdog: LoopWatchdog | None = None

    @property
    def host(self) -> LoopHost:
        """The event loop; from the pool's start on."""
        if self._host is None:
            raise RuntimeError("the pool has not started")
        return self._host

    @property
    def num_processes(self) -> int:
        """The number of tasks the worker may hold: the limit and those with a released slot."""
        return int(self.limit) + self._released

    def jobs(self) -> list[Job]:
        """Return the running tasks, with those that released their slot (any thread may ask)."""
        return list(self._running.values())

    def executing(self) -> str | None:
        """Return the id of the task whose code runs right now; None if unknown. Any thread."""
        return next((job.id for job in self.jobs() if job.is_executing), None)

    # -- Celery's pool interface

    def on_start(self) -> None:
        """Start the loop; `worker_process_init` is sent once it can be used."""
        self._host = LoopHost()
        self._threads = TaskThreads(lambda: self.num_processes)
        self._host.loop.set_default_executor(self._threads)
        atexit.register(self._host.close)
        bridge.set_host(self._host)
        self._relay = SignalRelay(self._host, self._on_signal)
        self._relay.take_over()
        self.watchdog = self._host.watch(self.settings.blocked_after, self.settings.blocked_every)
        self.watchdog.name_tasks_by(self.executing)
        signals.worker_process_init.send(sender=None)

    def register_with_event_loop(self, loop: Any) -> None:
        """Host kombu's hub; called by Celery at each start of its consumer's loop."""
        self._hub = loop
        host_hub(loop, self.host)

    def on_apply(  # type: ignore[override]  # the stubs know no result
        self, target: Any, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Job:
        """Run the task now, or as soon as a slot is free."""
        call = Call(
            target,
            args or (),
            kwargs or {},
            options.get("callback"),
            options.get("accept_callback"),
            options.get("error_callback"),
            options.get("timeout_callback"),
            options.get("soft_timeout") or self.options.get("soft_timeout"),
            options.get("timeout") or self.options.get("timeout"),
            options.get("correlation_id"),
        )
        job = Job(call, next(self._pids), self.host.loop, self)
        self._pending.append(job)
        self._fill()
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:  # noqa: ARG002
        """Cancel the task with this pseudo process id (any thread)."""
        if (job := self._running.get(pid)) is not None:
            job.stop(StopReason.TERMINATED)

    def grow(self, n: int = 1) -> None:
        """Allow `n` more tasks at once."""
        self.limit += n
        self._fill()

    def shrink(self, n: int = 1) -> None:
        """Allow `n` fewer tasks at once; running ones continue."""
        self.limit = max(self.limit - n, 0)

    def flush(self) -> None:
        """Drop tasks that wait for a slot: the broker delivers them again."""
        self._pending.clear()

    def on_stop(self) -> None:
        """Warm shutdown: wait for all tasks, or for the grace once Celery terminates."""
        self.drain()
        self._finish()

    def on_terminate(self) -> None:
        """Cold shutdown: cancel all tasks and wait the grace for their clean-up."""
        self._pending.clear()
        for job in self.jobs():
            job.stop(StopReason.ABANDONED)
        self.drain(self.settings.cancel_grace)
        self._finish()

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]  # not in the stubs
        watchdog = self.watchdog
        return info | {
            "processes": [os.getpid()],
            "running": len(self._running),
            "released-slots": self._released,
            "waiting-for-slot": len(self._pending),
            "timeouts": [self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0],
            "threads-left": self._threads.left if self._threads else 0,
            "loop-lag": [watchdog.lag_last, watchdog.lag_max] if watchdog else [],
        }

    # -- for requests without a tracer

    def apply_direct(self, work: Work, call: Call) -> Job:
        """Run work that reports a plain success itself, now or as soon as a slot is free.

        Args:
            work: gets the pseudo process id; returns False for an outcome that Celery's tracer has
                to report by executing `call`.
            call: without an `accept_callback`, and without time limits.
        """
        job = Job(call, next(self._pids), self.host.loop, self, work)
        self._pending.append(job)
        self._fill()
        return job

    # -- for other parts of the engine

    def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function of Celery in a thread while the loop runs.

        Where the loop cannot run (before the start, after the stop) it is called directly.
        """
        if self._host is None or not self._host.can_wait or self._host.loop.is_closed():
            return function(*args)
        return self._host.offload(function, *args)

    def spawn(self, function: Callable[[], Any]) -> "asyncio.Task[Any]":
        """Run synchronous code in a greenlet on the loop, where `bridge.run` may wait."""
        return self.host.loop.create_task(in_greenlet(function))

    def drain(self, seconds: float | None = None) -> None:
        """Keep tasks and hub running until no task is left, or for `seconds`.

        Acknowledgements, heartbeats and remote control work meanwhile.
        """
        if self._host is None or not self._host.can_wait:
            return
        started = time.monotonic()
        hub_loop = self._hub_loop(self._host)
        while self._running:
            limit = self.settings.cancel_grace if state.should_terminate else None
            limits = [each for each in (seconds, limit) if each is not None]
            left = min(limits, default=LONGEST_POLL) - (time.monotonic() - started)
            if limits and left <= 0:
                return
            timer = self._host.loop.call_later(max(left, 0.001), self._host.wake)
            next(hub_loop)
            timer.cancel()

    def release_slot(self, job: Job) -> None:
        """Release the job's slot (see `slots.release_slot`)."""
        job.released += 1
        if job.released == 1:
            self._change_released(1)

    def retake_slot(self, job: Job) -> None:
        """Take a slot for the job again, without waiting for one."""
        if job.released and job.pid in self._running:
            job.released -= 1
            if job.released == 0:
                self._change_released(-1)

    def _on_signal(self, number: int) -> None:
        self.on_signal(number)

    def _change_released(self, by: int) -> None:
        self._released += by
        if self.on_released is not None:
            self.on_released(by)
        self._fill()
        self.host.wake()

    def _fill(self) -> None:
        while self._pending and self._state == self.RUN and len(self._running) < self.num_processes:
            job = self._pending.popleft()
            if job.id in state.revoked:
                self._revoke(job)
            else:
                self._running[job.pid] = job
                task = self.host.loop.create_task(job.run(), name=job.id)
                task.add_done_callback(partial(self._ended, job))

    def _revoke(self, job: Job) -> None:
        job.stop_reason = StopReason.TERMINATED
        self.spawn(lambda: job.report(Terminated("revoked")))

    def _ended(self, job: Job, task: "asyncio.Task[None]") -> None:
        """Free the slot of a job whose task is done."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            logger.critical("Task %s failed in the pool", job.id, exc_info=error)
            self.spawn(partial(job.report, error))
        del self._running[job.pid]
        if self._threads is not None:
            self._threads.over(job.owner)
        if job.released:
            job.released = 0
            self._change_released(-1)
        self._fill()
        self.host.wake()

    def _hub_loop(self, host: LoopHost) -> Iterator[None]:
        try:
            while self._hub is not None:
                host_hub(self._hub, host)
                yield from self._hub.create_loop()
        except Exception:
            # The broker is unreachable: still wait for the tasks.
            logger.warning("The hub failed while tasks were finishing", exc_info=True)
        while True:
            host.pause(LONGEST_POLL)
            yield

    def _finish(self) -> None:
        if self._relay is None or not self.host.can_wait:
            return
        self._relay.give_back()
        self._relay = None
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
        if self.watchdog is not None:
            self.watchdog.stop()
        if threading.current_thread() is threading.main_thread():
            # The loop stays open for handlers of `worker_shutdown`, until the process ends.
            self.host.unwind()
        else:
            bridge.set_host(None)
            self.host.close()
