"""Containment of processes that a task's code forks.

Such a child has copies of all connections. A child that returns from the task's code, instead of
ending there, would continue as a second worker on them: it is ended, as Python would end it.
"""

import os
import sys
import traceback
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import billiard
from celery.signals import worker_process_init

T = TypeVar("T")


@worker_process_init.connect(weak=False)
def _let_tasks_start_processes(**_: Any) -> None:
    """Let tasks start processes: prefork marks its children as daemons, which may not."""
    process = billiard.current_process()
    if process.daemon:
        process.daemon = False
        # Python's multiprocessing cannot pass billiard's own type of key to a child.
        process._config["authkey"] = bytes(process.authkey)  # type: ignore[attr-defined]  # noqa: SLF001


class ForkGuard(Generic[T]):
    """An awaitable around a task's coroutine that a forked child never leaves."""

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, T]:
        pid = os.getpid()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited_for = self._coro.send(value) if error is None else self._coro.throw(error)
            except StopIteration as stop:
                exit_if_forked(pid)
                result: T = stop.value
                return result
            except BaseException as exc:
                exit_if_forked(pid, exc)
                raise
            exit_if_forked(pid)
            value = error = None
            try:
                value = yield waited_for
            except BaseException as exc:  # noqa: BLE001 - the coroutine handles it
                error = self._translate(exc)

    def _translate(self, error: BaseException) -> BaseException:
        """Return the error to raise in the coroutine for one that was thrown in."""
        return error


def exit_if_forked(pid: int, error: BaseException | None = None) -> None:
    """End this process unless it is `pid`, where the task's code began; `error` ended that."""
    if os.getpid() != pid:
        os._exit(_exit_code(error))


def _exit_code(error: BaseException | None) -> int:
    code = 0 if error is None else 1
    with suppress(Exception):
        if isinstance(error, SystemExit):
            if isinstance(error.code, int | None):
                code = (error.code or 0) & 0xFF
            else:
                sys.stderr.write(f"{error.code}\n")
        elif error is not None:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    return code
