"""The patterns agent, in memory and on a real fleet."""

import asyncio

import pytest

from examples.patterns import Caller, careful, compare, crunch, fetch, sign
from examples.words import words
from skillfleet import CancelledByCaller, LocalRunContext, MissingScopes
from skillfleet.errors import RunCancelled, RunFailed
from skillfleet.testing.in_process import InProcessA2AClient
from skillfleet.testing.runner import run_skill, run_to_end
from skillfleet_producer import Fleet
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.xdist_group("examples")
ANN = Caller(tenant="acme", scopes=("reports:read",))


async def test_calls_run_in_process() -> None:
    ctx = LocalRunContext(auth=ANN, a2a=InProcessA2AClient([words]))
    assert await compare(ctx, first="a b c", second="a b") == "longer"


async def test_a_secret_and_a_caller_are_given_to_a_test() -> None:
    ctx = LocalRunContext(auth=ANN, secrets={"signing-key": "a key"})
    assert len(await sign(ctx, text="hello")) == 64


async def test_a_caller_without_the_scope_is_refused() -> None:
    ctx = LocalRunContext(auth=Caller(tenant="acme"))
    with pytest.raises(MissingScopes, match="reports:read"):
        await run_skill(sign, ctx, {"text": "hello"})


async def test_retries_happen_in_memory_as_on_the_fleet() -> None:
    ctx = LocalRunContext(auth=ANN)
    assert await run_to_end(fetch, ctx, {"page": "home"}) == "home, at attempt 3"


async def test_a_cancelled_skill_cleans_up() -> None:
    ctx = LocalRunContext(auth=ANN)
    running = asyncio.create_task(run_skill(careful, ctx, {"seconds": 60}, grace=0.01))

    async def at_work() -> bool:
        return bool(ctx.events)

    await wait_until_async(at_work)
    ctx.cancel("enough")
    with pytest.raises(CancelledByCaller, match="enough"):
        await running
    assert ctx.events[-1].payload["message"] == "stopped half-way"


async def test_blocking_code_runs_beside_the_loop() -> None:
    ctx = LocalRunContext(auth=ANN)
    assert len(await crunch(ctx, rounds=2)) == 64
    assert [event.payload["current"] for event in ctx.events] == [1, 2]


def test_the_patterns_work_on_a_fleet(examples_fleet: ValkeyServer) -> None:
    with Fleet(examples_fleet.producer_url) as fleet:
        called = fleet.enqueue("patterns.compare", {"first": "a", "second": "b c"}, auth=ANN)
        tried = fleet.enqueue("patterns.fetch", {"page": "home"}, auth=ANN)
        refused = fleet.enqueue("patterns.sign", {"text": "x"}, auth=Caller(tenant="acme"))
        stopped = fleet.enqueue("patterns.careful", {"seconds": 60}, auth=ANN)
        wait_until(lambda: stopped.status().state == "running", what="the run to start")
        stopped.cancel("enough")
        assert called.result(timeout=20) == "shorter"
        assert tried.result(timeout=20) == "home, at attempt 3"
        with pytest.raises(RunFailed) as failed:
            refused.result(timeout=20)
        assert failed.value.code == "missing_scopes"
        with pytest.raises(RunCancelled):
            stopped.result(timeout=20)
        assert "stopped half-way" in [event.payload.get("message") for event in stopped.events()]
