"""The demo: start a fleet, run the survey on it, show it, and stop everything."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rich.console import Console

from examples.demo.screen import Screen, run_table
from examples.demo.servers import (
    Server,
    ServerError,
    fleet_settings,
    start_valkey,
    start_worker,
)
from skillfleet.contracts import RunState, RunStatus
from skillfleet.errors import SkillfleetError
from skillfleet_cli.dev.cleanup import CleanupProcess
from skillfleet_cli.exits import CommandError
from skillfleet_cli.trace import show_trace
from skillfleet_cli.trace_lines import Bounds
from skillfleet_producer import AsyncFleet, AsyncRunHandle

SUCCEEDED, FAILED, INTERRUPTED = 0, 1, 130

_CANCEL_SECONDS = 10.0
# Marks the folder for backup and search programs as one to skip.
_CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Results of the skillfleet demo.\n"


async def show(folder: Path, out: Path) -> int:
    """Survey `folder` on a new fleet and save its artifacts in `out`; returns the exit status."""
    console = Console()
    _cancel_on_signals()
    try:
        async with _fleet() as (fleet, servers):
            return await _survey(console, fleet, servers, folder, out)
    except (ServerError, CommandError, SkillfleetError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return FAILED
    except asyncio.CancelledError:
        console.print("interrupted")
        return INTERRUPTED


def _cancel_on_signals() -> None:
    """Let Ctrl-C and SIGTERM cancel this task: once to cancel the run, twice to leave at once.

    Further signals have no effect: everything is being stopped by then.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    left = 2

    def cancel() -> None:
        nonlocal left
        left -= 1
        if task is not None and left >= 0:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, cancel)


@asynccontextmanager
async def _fleet() -> AsyncIterator[tuple[AsyncFleet, list[Server]]]:
    """Run a Valkey server and a worker, and connect to them; all are stopped at the end."""
    async with AsyncExitStack() as stack:
        cleanup = CleanupProcess()
        stack.push_async_callback(asyncio.to_thread, cleanup.close)
        folder = Path(tempfile.mkdtemp(prefix="skillfleet-demo-"))
        cleanup.delete(str(folder))
        valkey, worker = Server("valkey", folder, cleanup), Server("worker", folder, cleanup)
        stack.push_async_callback(valkey.stop)
        settings = fleet_settings(await start_valkey(valkey, folder))
        stack.push_async_callback(worker.stop)
        await start_worker(worker, settings)
        yield await stack.enter_async_context(AsyncFleet(settings=settings)), [valkey, worker]


async def _survey(
    console: Console, fleet: AsyncFleet, servers: list[Server], folder: Path, out: Path
) -> int:
    run = await fleet.enqueue("librarian.survey", {"folder": str(folder)})
    console.print(f"librarian.survey on {folder}", highlight=False, markup=False)
    following = asyncio.create_task(_follow(console, run))
    try:
        await _while_alive(following, servers)
    except asyncio.CancelledError:
        console.print("\ncancelling the run on the fleet")
        await run.cancel("interrupted from the keyboard")
        await asyncio.wait({following}, timeout=_CANCEL_SECONDS)
    finally:
        following.cancel()
    status = await run.status()
    saved = await _save(run, out)
    console.print()
    console.print(run_table(status, await run.artifacts(), saved))
    console.print()
    await show_trace(fleet, run.id, Bounds(children=5, events=6), as_json=False)
    return _exit_status(status)


async def _follow(console: Console, run: AsyncRunHandle) -> None:
    """Show the run's events until its end."""
    with Screen(console) as screen:
        async for event in run.events():
            screen.show(event)


async def _while_alive(following: "asyncio.Task[None]", servers: list[Server]) -> None:
    """Wait for the end of the run; raises ServerError when a server ends before it."""
    deaths = [asyncio.create_task(server.died()) for server in servers]
    try:
        await asyncio.wait({following, *deaths}, return_when=asyncio.FIRST_COMPLETED)
        for death in deaths:
            if death.done():
                raise death.result()
        await following
    finally:
        for death in deaths:
            death.cancel()


async def _save(run: AsyncRunHandle, out: Path) -> Path:
    """Write the run's artifacts into a new folder."""
    folder = out / run.id
    for info in await run.artifacts():
        target = folder / info.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), (out / "CACHEDIR.TAG").open("x") as tag:
            tag.write(_CACHE_TAG)
        with target.open("wb") as file:
            async for piece in run.stream_artifact(info.name):
                file.write(piece)
    return folder


def _exit_status(status: RunStatus) -> int:
    match status.state:
        case RunState.SUCCEEDED:
            return SUCCEEDED
        case RunState.CANCELLED:
            return INTERRUPTED
        case _:
            return INTERRUPTED if status.cancel_requested else FAILED
