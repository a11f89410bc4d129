"""Processes that the code of a task forks from the one that executes it.

Such a child has copies of all connections. One that comes back from the task's code, instead of
ending there, would go on as a second worker on them: it is ended, as Python would end it.
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
    """Lift multiprocessing's ban: prefork marks its children as daemons, which may have none."""
    process = billiard.current_process()
    if process.daemon:
        process.daemon = False
        # billiard's own kind of key cannot be handed to a child by Python's multiprocessing.
        process._config["authkey"] = bytes(process.authkey)  # type: ignore[attr-defined]  # noqa: SLF001


class ForkGuard(Generic[T]):
    """Await this instead of a task's coroutine: a forked child never gets out of it."""

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
            except BaseException as exc:  # noqa: BLE001 - the coroutine decides about it
                error = self._translate(exc)

    def _translate(self, error: BaseException) -> BaseException:
        """The error that the coroutine gets at its wait, for the one that came."""
        return error


def exit_if_forked(pid: int, error: BaseException | None = None) -> None:
    """End this process if it is not `pid`, where the task's code began; it ended with `error`."""
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
