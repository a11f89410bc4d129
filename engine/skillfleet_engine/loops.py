"""Which event loop is used: uvloop where it is installed, asyncio's own elsewhere."""

import asyncio
from importlib import import_module
from importlib.util import find_spec

_IMPLEMENTATION = import_module("uvloop" if find_spec("uvloop") else "asyncio")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A fresh loop, not running and not set as anyone's current loop; the caller closes it."""
    loop: asyncio.AbstractEventLoop = _IMPLEMENTATION.new_event_loop()
    return loop


def close_loop(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Cancel what still runs on a stopped loop, give it `seconds` to end, and close the loop."""
    if loop.is_closed() or loop.is_running():
        return
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=seconds))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
