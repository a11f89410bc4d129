"""The agent that the tests of telemetry watch."""

import asyncio
import logging
import os
import signal
import threading
import time

import structlog
from celery import shared_task
from opentelemetry import baggage, trace

from skillfleet import Agent, RunContext, SkillError

agent = Agent("watched", description="What the tests of telemetry run")
tracer = trace.get_tracer("tests")
SECRET = 'p"ss word\\1'


@agent.skill
async def add(ctx: RunContext, x: int, y: int = 1) -> int:
    with tracer.start_as_current_span("adding"):
        return x + y


@agent.skill
async def adds_all(ctx: RunContext, n: int) -> int:
    replies = await asyncio.gather(
        *(ctx.call("watched", "add", args={"x": i, "y": 0}) for i in range(n))
    )
    return sum(reply.result for reply in replies)


@agent.skill
async def carried(ctx: RunContext) -> list[str]:
    """Return the baggage and state that came with the trace context."""
    state = trace.get_current_span().get_span_context().trace_state
    return [str(baggage.get_baggage("tenant")), state.to_header()]


@agent.skill
async def carried_on(ctx: RunContext) -> list[str]:
    return (await ctx.call("watched", "carried")).result  # type: ignore[no-any-return]


@agent.skill(durable=True)
async def deliberates(ctx: RunContext) -> int:
    """Think in a step, ask, call a run, and think again."""
    length = await ctx.step("think", len, "whales")
    await ctx.ask("Count the whales?\nThere are many.", schema=bool)
    called = await ctx.call("watched", "add", args={"x": length})
    return await ctx.step("sum", sum, [length, called.result])


@agent.skill(durable=True)
async def pauses(ctx: RunContext, seconds: float) -> None:
    await ctx.step("think", len, "whales")
    await ctx.sleep(seconds)


@agent.skill
async def records(ctx: RunContext, n: int) -> None:
    for number in range(n):
        await ctx.step("think", abs, number)


@agent.skill
async def fails(ctx: RunContext) -> None:
    _leave_open(ctx)
    raise ValueError("no good")


@agent.skill(max_retries=1)
async def fails_once(ctx: RunContext) -> int:
    _leave_open(ctx)
    if ctx.attempt == 1:
        raise SkillError("not yet", retryable=True, retry_after=0.01)
    return ctx.attempt


@agent.skill(timeout=0.3)
async def takes_too_long(ctx: RunContext) -> None:
    await _waits(ctx)


@agent.skill
async def waits(ctx: RunContext) -> None:
    await _waits(ctx)


async def _waits(ctx: RunContext) -> None:
    with ctx.tool_call("patience"):
        await ctx.emit_progress("waiting")
        await asyncio.sleep(600)


def _leave_open(ctx: RunContext) -> None:
    """Start a tool call and a library's span, and end neither."""
    ctx.tool_call("forgotten").__enter__()
    tracer.start_span("neglected")


@agent.skill
async def dies_once(ctx: RunContext, all_of_it: bool) -> int:
    """Kill the process at the first attempt, after the run it called has ended."""
    await ctx.call("watched", "add", args={"x": 1})
    if ctx.attempt == 1:
        await asyncio.sleep(1.0)
        os.kill(os.getppid() if all_of_it else os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt


@agent.skill
async def thinks(ctx: RunContext, older: bool = False) -> str:
    """Call a model and, inside of it, a tool."""
    usage = {"input_tokens": 120, "output_tokens": 30, "input_tokens_details": {"cached_tokens": 7}}
    if older:
        usage = {"prompt_tokens": 120, "completion_tokens": 30}
    with ctx.model_call("m-1", provider="acme") as call:
        with ctx.tool_call("search", call_id="c1") as tool:
            tool.record_content(arguments={"q": "whales"}, result="two")
        call.record(
            usage=usage,
            response_model="m-1-2026",
            response_id="r1",
            finish_reasons=["stop"],
        )
        call.record_content(prompt="how many whales", completion="two")
    return "two"


@agent.skill(secrets=("token",))
async def logs(ctx: RunContext) -> str:
    secret = ctx.secret("token")
    logging.getLogger("some.library").warning("library says %s", {"token": secret})
    structlog.get_logger("mine").info("skill says", secret=secret, number=1)
    await asyncio.to_thread(logging.getLogger("in.thread").info, "thread says hello")
    raise SkillError(f"refused with {secret}")


class _Unlucky:
    """An object that fails when it is deleted."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        raise ValueError(f"thrown away with {self._text}")


@agent.skill(secrets=("token",))
async def fails_unseen(ctx: RunContext) -> None:
    """Raise errors that no handler can catch: in a plain thread, and in a `__del__`."""
    secret = ctx.secret("token")

    def fails() -> None:
        raise ValueError(f"in a thread with {secret}")

    thread = threading.Thread(target=fails, name="plain-thread")
    thread.start()
    await asyncio.to_thread(thread.join)
    _Unlucky(secret)


@shared_task(name="plain.double")
def double(x: int) -> int:
    with tracer.start_as_current_span("doubling"):
        return 2 * x


@agent.skill
async def dies_always(ctx: RunContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@agent.skill
async def blocks(ctx: RunContext, seconds: float) -> None:
    await ctx.emit_progress("blocking")
    await asyncio.sleep(0.1)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@agent.skill(max_deliveries=1)
async def dies_for_good(ctx: RunContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@agent.skill
async def talks(ctx: RunContext, n: int) -> None:
    """Emit events of two kinds, alternately."""
    for i in range(n):
        await ctx.emit_progress(f"step {i}")
        await ctx.emit_text_delta("word ")
