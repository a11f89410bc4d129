"""Run scopes of the local context, and the cleanups of an attempt."""

import asyncio
import contextlib
import threading
import time
from typing import cast

import pytest

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext
from skillfleet.cleanups import Cleanups
from skillfleet.contracts import Budget
from skillfleet.errors import BudgetExhaustedError, CancelledByCaller
from skillfleet.ports.provider import Provider
from skillfleet.ports.scope import RUN_LABEL, RunScope
from skillfleet.testing import run_skill

kit = Agent("kit")


class Sandboxes(Provider[RunScope]):
    """Its client is the scope itself, so that tests can look at it."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed: list[str] = []

    def open(self, scope: RunScope) -> RunScope:
        self.opened += 1

        async def close() -> None:
            self.closed.append(scope.run_id)

        scope.defer(close)
        return scope


@kit.skill
async def opens(ctx: RunContext, fail: bool = False) -> bool:
    first, again = ctx.sandbox, ctx.sandbox
    if fail:
        raise ValueError("it fails")
    return first is again


@pytest.mark.parametrize("fail", [False, True])
async def test_a_client_is_opened_once_for_each_attempt_and_closed_at_its_end(fail: bool) -> None:
    provider = Sandboxes()
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
    with contextlib.suppress(ValueError):
        assert await run_skill(opens, ctx, {"fail": fail})
    assert (provider.opened, provider.closed) == (1, [ctx.task_id])


async def test_a_scope_says_what_the_context_says() -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=Sandboxes(), budget=Budget(calls=1))
    scope = cast("RunScope", ctx.sandbox)
    assert (scope.run_id, scope.root_id, scope.attempt) == (ctx.task_id, ctx.task_id, 1)
    assert scope.resource_labels()[RUN_LABEL] == ctx.task_id
    await scope.charge_call()
    with pytest.raises(BudgetExhaustedError):
        await scope.charge_call()
    assert not scope.cancelled
    waiting = asyncio.ensure_future(scope.wait_cancelled())
    await asyncio.sleep(0)
    assert not waiting.done()
    ctx.cancel("enough")
    await asyncio.wait_for(waiting, 5)
    assert scope.cancel_reason == "enough"
    with pytest.raises(CancelledByCaller):
        await scope.charge_call()


async def test_cleanups_run_in_reverse_order_whatever_the_others_do() -> None:
    cleanups, ran = Cleanups(), []

    async def note(name: str) -> None:
        ran.append(name)
        if name in ("raises", "exits"):
            raise {"raises": ValueError, "exits": SystemExit}[name]

    for name in ("first", "raises", "exits", "last"):
        cleanups.add(lambda name=name: note(name))  # type: ignore[misc]
    await cleanups.run("r")
    await cleanups.run("r")
    assert ran == ["last", "exits", "raises", "first"]


async def test_a_cleanup_that_hangs_leaves_time_for_the_others() -> None:
    cleanups, ran = Cleanups(), []

    async def hang() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)
                return

    async def note() -> None:
        ran.append(1)

    cleanups.add(note)
    cleanups.add(hang)
    began = time.monotonic()
    await cleanups.run("r", seconds=0.1)
    assert ran == [1]
    assert time.monotonic() - began < 30


async def test_what_is_opened_after_the_end_is_closed_at_once() -> None:
    cleanups, ran = Cleanups(), asyncio.Event()

    async def note() -> None:
        ran.set()

    await cleanups.run("r")
    cleanups.add(note)
    await asyncio.wait_for(ran.wait(), 5)


async def test_a_cleanup_that_was_under_way_on_a_blocked_loop_runs_again() -> None:
    cleanups, ran = Cleanups(), []
    begun, unblock = threading.Event(), threading.Event()

    async def note(name: str) -> None:
        ran.append(name)
        if threading.current_thread() is blocked:
            begun.set()
            unblock.wait(60)

    cleanups.add(lambda: note("first"))
    cleanups.add(lambda: note("last"))
    blocked = threading.Thread(target=lambda: asyncio.run(cleanups.run("r")))
    blocked.start()
    assert await asyncio.to_thread(begun.wait, 60)
    await cleanups.take_over("r")
    assert ran == ["last", "last", "first"]
    unblock.set()
    await asyncio.to_thread(blocked.join)
    assert ran == ["last", "last", "first"]
