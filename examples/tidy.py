"""A durable agent: it tidies a folder, asks before it deletes a file, and listens meanwhile.

It needs a model behind an API like OpenAI's, such as Ollama on this machine:

    skillfleet dev examples/tidy.py
    skillfleet enqueue tidy.clean '{"folder": "/tmp/x", "wish": "delete old logs"}' --follow
    skillfleet answer RUN true
"""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

from skillfleet import Agent, RetryPolicy, RunContext, WaitRejected, WaitTimedOut

Message = dict[str, Any]
"""A message of the conversation with the model, as its API has it."""

A_DAY = 86_400
AGAIN = RetryPolicy(max_retries=5, on=(OSError,))
RULES = "You tidy a folder with the tools you have. Say in one sentence what you did."
TOOLS = [
    {"type": "function", "function": {"name": "list_files"}},
    {
        "type": "function",
        "function": {
            "name": "delete_file",
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    },
]

tidy = Agent("tidy", description="Tidies folders")


class Model:
    """The model, as one run uses it."""

    def __init__(self, ctx: RunContext, url: str, name: str) -> None:
        self._ctx = ctx
        self._url = url
        self._name = name

    async def reply(self, messages: list[Message]) -> Message:
        """Return the model's next message."""
        asked = {"model": self._name, "messages": messages, "tools": TOOLS}
        with self._ctx.model_call(self._name, provider="openai") as call:
            answer = await asyncio.to_thread(post, self._url, asked, self._ctx.step_key)
            call.record(usage=answer.get("usage"))
        message: Message = answer["choices"][0]["message"]
        return message


@tidy.skill(durable=True, timeout=600)
async def clean(
    ctx: RunContext,
    folder: str,
    wish: str,
    url: str = "http://127.0.0.1:11434/v1",
    model: str = "llama3.2",
    patience: float = 0,
) -> str:
    """Tidy a folder as the user wishes; then wait `patience` seconds for another wish."""
    api = Model(ctx, url, model)
    messages: list[Message] = [{"role": "system", "content": RULES}, said(wish)]
    while True:
        reply = await ctx.step("think", api.reply, messages, retry=AGAIN)
        messages.append(reply)
        for call in reply.get("tool_calls") or ():
            result = await use(ctx, Path(folder), call["function"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        if reply.get("tool_calls"):
            continue
        await ctx.emit_text_delta(f"{reply['content']}\n")
        if not patience:
            return str(reply["content"])
        try:
            messages.append(said(await ctx.receive(timeout=patience)))
        except WaitTimedOut:
            return str(reply["content"])


async def use(ctx: RunContext, folder: Path, function: dict[str, str]) -> str:
    """Use a tool that the model asks for, and return what the model learns of it."""
    arguments = json.loads(function["arguments"])
    if function["name"] == "list_files":
        return "\n".join(await ctx.step("list", list_files, str(folder)))
    if function["name"] == "delete_file":
        return await delete_if_allowed(ctx, str(folder), arguments["name"])
    return f"there is no tool {function['name']}"


async def delete_if_allowed(ctx: RunContext, folder: str, name: str) -> str:
    """Delete a file, if the user allows it within a day."""
    try:
        allowed = await ctx.ask(f"Delete {name}?", schema=bool, timeout=A_DAY)
    except WaitRejected as rejected:
        return f"the user refused: {rejected.reason}"
    except WaitTimedOut:
        return "the user did not answer"
    if not allowed:
        return "the user wants to keep it"
    await ctx.step("delete", delete_file, folder, name)
    return "deleted"


def list_files(folder: str) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in Path(folder).iterdir() if path.is_file())


def delete_file(folder: str, name: str) -> None:
    """Delete a file; one that is gone already may be the work of an attempt that was lost."""
    (Path(folder) / Path(name).name).unlink(missing_ok=True)


def said(wish: str) -> Message:
    """Return a message of the user."""
    return {"role": "user", "content": wish}


def post(url: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    """Post to the model's API and return its answer; blocks."""
    request = urllib.request.Request(  # noqa: S310 - the caller's own model
        f"{url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Idempotency-Key": key},
    )
    with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310 - as above
        answer: dict[str, Any] = json.load(response)
    return answer
