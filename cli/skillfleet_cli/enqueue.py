"""Enqueueing a run and following it to its end; Ctrl-C cancels the run."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from typing import Any

import typer

from skillfleet.contracts import RunState
from skillfleet.errors import SkillfleetError
from skillfleet_cli.exits import ExitCode
from skillfleet_cli.output import console, print_json
from skillfleet_cli.view import View, view_for
from skillfleet_producer import AsyncFleet, AsyncRunHandle

_ASK_SECONDS = 5.0
_EXITS = {
    RunState.SUCCEEDED: ExitCode.OK,
    RunState.FAILED: ExitCode.FAILED,
    RunState.DEAD: ExitCode.FAILED,
    RunState.CANCELLED: ExitCode.CANCELLED,
    RunState.TIMED_OUT: ExitCode.TIMED_OUT,
}


async def enqueue_run(
    fleet: AsyncFleet,
    skill: str,
    args: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    follow: bool,
    as_json: bool,
) -> None:
    """Enqueue one run and print its id; with `follow`, exit with the code of its final state."""
    run = await fleet.enqueue(skill, args, **options)
    if not follow:
        if as_json:
            print_json({"id": run.id})
        else:
            console().print(run.id)
        return
    view = view_for(as_json=as_json)
    try:
        view.start(run.id)
        raise typer.Exit(await _Follower(fleet, run, view).follow(skill))
    finally:
        view.close()


class _Follower:
    """A follower of one run. The first Ctrl-C cancels the run, the second one leaves."""

    def __init__(self, fleet: AsyncFleet, run: AsyncRunHandle, view: View) -> None:
        self._fleet = fleet
        self._run = run
        self._view = view
        self._cancelling: asyncio.Task[bool] | None = None

    async def follow(self, skill: str) -> ExitCode:
        """Follow the run to its end and return its exit code."""
        loop = asyncio.get_running_loop()
        reading = asyncio.create_task(self._read(skill))
        loop.add_signal_handler(signal.SIGINT, self._interrupted, reading)
        try:
            await reading
        except asyncio.CancelledError:
            await self._await_cancel_request()
            return ExitCode.INTERRUPTED
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        if self._cancelling is not None:
            await self._cancelling
        status = await self._run.status()
        value = await self._run.result() if status.state is RunState.SUCCEEDED else None
        self._view.finish(status, value)
        return _EXITS[status.state]

    async def _await_cancel_request(self) -> None:
        """Wait briefly until the cancellation was sent, whether it succeeds or not."""
        if self._cancelling is not None:
            with contextlib.suppress(TimeoutError, SkillfleetError):
                async with asyncio.timeout(_ASK_SECONDS):
                    await self._cancelling

    async def _read(self, skill: str) -> None:
        await self._warn_if_unserved(skill)
        async for event in self._run.events():
            self._view.show(event)

    async def _warn_if_unserved(self, skill: str) -> None:
        agent, _, name = skill.partition(".")
        cards = await self._fleet.agents()
        if not any(card.name == agent and card.skill(name) for card in cards):
            self._view.note(f"no live worker serves {skill}: the run waits for one")

    def _interrupted(self, reading: "asyncio.Task[None]") -> None:
        if self._cancelling is not None:
            self._view.note("not waiting for the run to end")
            reading.cancel()
            return
        self._view.note(f"cancelling run {self._run.id}; Ctrl-C again leaves without waiting")
        reason = "cancelled with Ctrl-C at the command line"
        self._cancelling = asyncio.create_task(self._run.cancel(reason))
