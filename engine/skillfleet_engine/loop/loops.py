"""Creation, running and closing of event loops: uvloop if installed, else asyncio's own.

asyncio raises SystemExit and KeyboardInterrupt of a child task or a callback from the loop itself,
which ends everything that runs there. Here such an exit stays with the code that raised it: the
code that awaits the child task gets it, and the loop continues.
"""

import asyncio
import logging
from importlib import import_module
from importlib.util import find_spec

from celery.exceptions import WorkerShutdown, WorkerTerminate

logger = logging.getLogger(__name__)

_IMPLEMENTATION = import_module("uvloop" if find_spec("uvloop") else "asyncio")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Create a loop, not running and not set as a current loop; the caller closes it."""
    loop: asyncio.AbstractEventLoop = _IMPLEMENTATION.new_event_loop()
    return loop


def run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped.

    Raises:
        WorkerShutdown, WorkerTerminate: with these Celery's own code ends the worker.
    """
    while True:
        try:
            loop.run_forever()
        except (WorkerShutdown, WorkerTerminate):
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            report_exit(error)
        else:
            return


def report_exit(error: BaseException) -> None:
    """Log that a task or callback raised an exit of the process."""
    logger.warning(
        "A child task or a callback raised %r to end the process: only what awaits it ends",
        error,
    )


def close_loop(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Cancel the tasks of a stopped loop, wait up to `seconds` for them, and close the loop."""
    if loop.is_closed() or loop.is_running():
        return
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=seconds))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except (SystemExit, KeyboardInterrupt) as error:
        report_exit(error)
    loop.close()
