"""The agent of the endurance rounds: each step is a model call whose text it streams."""

import asyncio
import json

import httpx

from skillfleet import Agent, RunContext

agent = Agent("endurance", description="Calls a model again and again")


async def ask_model(ctx: RunContext, url: str, prompt: str) -> str:
    """Call the model, stream its text as events, and return the whole."""
    text = ""
    body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    async with (
        httpx.AsyncClient(timeout=30, verify=False) as client,
        client.stream("POST", f"{url}/chat/completions", json=body) as reply,
    ):
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                piece = json.loads(line[6:])["choices"][0]["delta"]["content"]
                text += piece
                await ctx.emit_text_delta(piece)
    return text


@agent.skill(durable=True)
async def converse(ctx: RunContext, url: str, steps: int, branches: int = 1) -> int:
    """Make `steps` model calls, divided among `branches` that run at once; returns the bytes."""

    async def branch(number: int) -> int:
        size = 0
        for step in range(number, steps, branches):
            text = await ctx.step("ask", ask_model, ctx, url, prompt_of(step), key=f"ask-{step}")
            size += len(text)
        return size

    return sum(await asyncio.gather(*(branch(number) for number in range(branches))))


def prompt_of(step: int) -> str:
    """Return the prompt of a step."""
    return f"step {step}"
