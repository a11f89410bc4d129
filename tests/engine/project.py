"""A Celery project as users have it: one app, tasks of all kinds, and a journal of what ran.

The journal is a file, so that it works while the broker is away.
"""

import asyncio
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from celery import Celery, Task, current_task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from skillfleet_engine import AsyncTask
from skillfleet_engine.celery_hooks.slots import release_slot
from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.watchdog import BlockedReport, loop_blocked

BROKER = "ENGINE_TEST_BROKER"
JOURNAL = "ENGINE_TEST_JOURNAL"
SETTINGS = "ENGINE_TEST_SETTINGS"

seen_in_prerun: ContextVar[str] = ContextVar("seen_in_prerun", default="unset")
counts: Counter[str] = Counter()


def journal(event: str, **fields: Any) -> None:
    """Append one line; several processes may do so at once."""
    if path := os.environ.get(JOURNAL):
        line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **fields})
        with Path(path).open("ab", buffering=0) as file:
            file.write(f"{line}\n".encode())


def make_app(url: str, **settings: Any) -> "Celery[Any]":
    """Return the project's app on a broker; without tasks, as a client has it."""
    app: Celery[Any] = Celery(
        "project", broker=url, backend=url, task_cls=AsyncTask, set_as_current=False
    )
    defaults = {
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "result_extended": True,
        "engine_blocked_after": 0.5,
    }
    app.conf.update(defaults | settings)
    return app


app = make_app(os.environ.get(BROKER, "memory://"), **json.loads(os.environ.get(SETTINGS, "{}")))


# -- signals and hooks


@signals.task_prerun.connect
def on_prerun(task_id: str, task: Any, **_: Any) -> None:
    seen_in_prerun.set(task_id)
    journal("prerun", id=task_id, current=current_task.request.id, request=task.request.id)


@signals.task_postrun.connect
def on_postrun(task_id: str, task: Any, state: str | None, **_: Any) -> None:
    journal("postrun", id=task_id, request=task.request.id, state=state)


@signals.task_success.connect
def on_success(sender: Any, **_: Any) -> None:
    journal("success", id=sender.request.id)


@signals.task_failure.connect
def on_failure(task_id: str, exception: BaseException, **_: Any) -> None:
    journal("failure", id=task_id, error=type(exception).__name__)


@signals.task_retry.connect
def on_retry(request: Any, **_: Any) -> None:
    journal("retry", id=request.id)


@signals.task_revoked.connect
def on_revoked(request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    journal("revoked", id=request.id, terminated=terminated, expired=expired)


@signals.worker_init.connect
def on_worker_init(**_: Any) -> None:
    """Use both kinds of loops before the pool exists, and in prefork before it forks."""
    assert bridge.run(asyncio.sleep(0, "ran")) == "ran"
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), bridge.home_loop()).result(10)


@signals.worker_process_init.connect
def on_process_init(**_: Any) -> None:
    journal("process_init")


@signals.worker_process_shutdown.connect
def on_process_shutdown(**_: Any) -> None:
    journal("process_shutdown")


@loop_blocked.connect
def on_blocked(report: BlockedReport, **_: Any) -> None:
    journal("blocked", id=report.task_id, seconds=report.seconds, stack=report.stack)


# -- tasks


@app.task
async def add(left: int, right: int) -> int:
    await asyncio.sleep(0.001)
    return left + right


@app.task
def add_without_waiting(left: int, right: int) -> int:
    return left + right


@app.task
async def total(values: list[int]) -> int:
    return sum(values)


@app.task
async def fail(message: str) -> None:
    await asyncio.sleep(0.001)
    raise ValueError(message)


@app.task
def note_error(request: Any, exc: BaseException, traceback: Any) -> None:
    journal("errback", id=request.id, error=str(exc))


@app.task
async def note(text: str) -> str:
    journal("note", text=text, id=current_task.request.id)
    return text


@app.task(bind=True, max_retries=5)
async def succeed_at(self: Task[Any, Any], attempt: int) -> int:
    await asyncio.sleep(0.001)
    if self.request.retries + 1 < attempt:
        raise self.retry(countdown=0.05)
    return int(self.request.retries) + 1


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 0.05})
async def succeed_at_by_itself(self: Task[Any, Any], attempt: int) -> int:
    await asyncio.sleep(0.001)
    if self.request.retries + 1 < attempt:
        raise ConnectionError("not yet")
    return int(self.request.retries) + 1


@app.task(bind=True)
async def hold(self: Task[Any, Any], seconds: float = 600.0, beat: float = 0.05) -> str:
    """Write beats until the time is over; the journal records how the task ended."""
    me = self.request.id
    journal("held", id=me)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(beat)
            journal("beat", id=me)
    except asyncio.CancelledError:
        journal("cancelled", id=me)
        raise
    except SoftTimeLimitExceeded:
        journal("soft limit", id=me)
        raise
    journal("over", id=me)
    return "held"


@app.task(bind=True)
async def ignore_cancellation(self: Task[Any, Any]) -> None:
    journal("held", id=self.request.id)
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            journal("cancelled", id=self.request.id)


@app.task(bind=True, acks_late=True)
async def hold_late(self: Task[Any, Any], seconds: float) -> str:
    journal("held", id=self.request.id)
    await asyncio.sleep(seconds)
    return "held"


@app.task(soft_time_limit=1)
async def clean_up_at_soft_limit() -> str:
    try:
        await asyncio.sleep(600)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.01)
        return "cleaned up"
    return "not limited"


@app.task(bind=True, acks_late=True)
async def requeue_once(self: Task[Any, Any]) -> str:
    if not (self.request.delivery_info or {}).get("redelivered"):
        raise Reject("not now", requeue=True)
    return "second delivery"


@app.task(acks_late=True)
async def reject() -> None:
    raise Reject("never", requeue=False)


@app.task
async def ignore() -> None:
    raise Ignore


@app.task
async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


@app.task
async def meet(expected: int) -> int:
    """Return how many run at once, when `expected` do."""
    counts["met"] += 1
    counts["most"] = max(counts["most"], counts["met"])
    try:
        async with asyncio.timeout(60):
            while counts["most"] < expected:  # noqa: ASYNC110 - simple on purpose
                await asyncio.sleep(0.05)
    finally:
        counts["met"] -= 1
    return counts["most"]


@app.task(bind=True)
async def look_around(self: Task[Any, Any], rounds: int) -> list[str]:
    """Return what Celery and the context say about the running task, between waits."""
    problems = []
    me = self.request.id
    for _ in range(rounds):
        for what, value in (
            ("current_task", current_task.request.id),
            ("self.request", self.request.id),
            ("prerun's context variable", seen_in_prerun.get()),
        ):
            if value != me:
                problems.append(f"{what} is {value} in {me}")
        await asyncio.sleep(0.001)
    return problems


@app.task
async def set_context(value: str) -> str:
    before = seen_in_prerun.get()
    seen_in_prerun.set(value)
    await asyncio.sleep(0.01)
    return before


@app.task
async def visit_home() -> list[Any]:
    """Return the process, and whether coroutines sent home run on its one home loop."""
    loop = await bridge.at_home(running_loop())
    return [os.getpid(), loop is bridge.home_loop(), loop is asyncio.get_running_loop(), id(loop)]


async def running_loop() -> asyncio.AbstractEventLoop:
    await asyncio.sleep(0.001)
    return asyncio.get_running_loop()


@app.task
def wait_in_plain_function() -> str:
    return bridge.run(asyncio.sleep(0.01, "waited"))


@app.task
async def exit_in_child(how: str) -> str:
    """Raise SystemExit in something other than this task's own coroutine."""

    async def leave(error: BaseException) -> None:
        await asyncio.sleep(0.01)
        raise error

    loop = asyncio.get_running_loop()
    try:
        if how == "gather":
            await asyncio.gather(leave(SystemExit(2)), asyncio.sleep(5))
        elif how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(leave(SystemExit(2)))
        elif how == "wait_for":
            await asyncio.wait_for(leave(SystemExit(2)), 5)
        elif how == "interrupt":
            await asyncio.gather(leave(KeyboardInterrupt()))
        elif how == "thread":
            await asyncio.to_thread(sys.exit, 2)
        elif how == "callback":
            loop.call_soon(sys.exit, 2)
            await asyncio.sleep(0.05)
        elif how == "not awaited":
            left = loop.create_task(leave(SystemExit(2)))
            await asyncio.wait([left])
    except (SystemExit, KeyboardInterrupt) as error:
        return type(error).__name__
    return "none"


@app.task(bind=True)
async def sleep_in_threads(self: Task[Any, Any], seconds: float, until: str | None = None) -> int:
    """Block one thread: for `seconds`, or until a file exists."""

    def block() -> int:
        if until is None:
            time.sleep(seconds)
        else:
            journal("in thread", id=self.request.id)
            while not Path(until).exists():
                time.sleep(0.02)
        return threading.get_ident()

    return await asyncio.to_thread(block)


@app.task
async def use_a_forked_child(where: str, how: str) -> list[int]:
    """Fork in the task's code without ending the child; return its id and exit status."""

    def fork() -> list[int]:
        pid = os.fork()
        if pid == 0:
            if how == "exit":
                sys.exit(3)
            if how == "raise":
                raise ValueError("in the child")
            return [0, 0]
        return [pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]

    async def forks() -> list[int]:
        return fork()

    if where == "thread":
        return await asyncio.to_thread(fork)
    if where == "child task":
        return await asyncio.create_task(forks())
    return fork()


@app.task
async def start_a_process() -> int:
    """Return the exit code of a process of multiprocessing."""
    process = multiprocessing.get_context("spawn").Process(target=os._exit, args=(7,))
    process.start()
    await asyncio.to_thread(process.join)
    return process.exitcode or 0


@app.task
def block(seconds: float) -> None:
    time.sleep(seconds)


@app.task
async def call_children(children: int) -> int:
    """Wait for children in the same worker without holding a slot."""
    results = [add.delay(1, number) for number in range(children)]
    async with release_slot():
        while not all([await asyncio.to_thread(result.ready) for result in results]):  # noqa: ASYNC110
            await asyncio.sleep(0.25)
    return len(results)
