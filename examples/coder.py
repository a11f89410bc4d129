"""An agent that changes files with Python code that a model writes, and asks before it keeps them.

The code is executed in a sandbox, over an overlay of the session's files: nothing else can be
reached, and nothing is changed before a person has seen the patch. It needs a model behind an API
like OpenAI's, such as Ollama on this machine:

    export SKILLFLEET_WORKSPACE=directory SKILLFLEET_WORKSPACE_DIRECTORY=/tmp/files
    export SKILLFLEET_SANDBOX=auto
    skillfleet dev examples/coder.py
    skillfleet workspace put demo prices.csv prices.csv
    skillfleet enqueue coder.change '{"wish": "sort the prices"}' --session demo --follow
    skillfleet answer RUN true
"""

import asyncio
import difflib
import json
import urllib.request
from typing import Any

from skillfleet import Agent, RetryPolicy, RunContext, WaitRejected, WaitTimedOut
from skillfleet.errors import SandboxRuntimeError
from skillfleet.ports.sandbox import SandboxSpec
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceMode, WorkspaceView

Message = dict[str, Any]
"""A message of the conversation with the model, as its API has it."""

A_DAY = 86_400
AGAIN = RetryPolicy(max_retries=5, on=(OSError,))
TRIES = 3
READ_ONLY, OVERLAY = WorkspaceMode.READ_ONLY, WorkspaceMode.READ_WRITE_OVERLAY
RULES = """\
You change the user's files. Answer with a Python program, and nothing else: no explanation, no
quotes around it. Its working directory contains the files. It has the standard library of Python,
no network, and ten seconds."""

coder = Agent("coder", description="Changes files with code that it writes")


class Model:
    """The model, as one run uses it."""

    def __init__(self, ctx: RunContext, url: str, name: str) -> None:
        self._ctx = ctx
        self._url = url
        self._name = name

    async def program(self, messages: list[Message]) -> str:
        """Return the program that the model writes."""
        asked = {"model": self._name, "messages": messages}
        with self._ctx.model_call(self._name, provider="openai") as call:
            answer = await asyncio.to_thread(post, self._url, asked, self._ctx.step_key)
            call.record(usage=answer.get("usage"))
        return str(answer["choices"][0]["message"]["content"])


class Files:
    """The session's files: as they are, and with the changes that are staged."""

    def __init__(self, ctx: RunContext, present: WorkspaceView, staged: WorkspaceView) -> None:
        self._ctx = ctx
        self._present = present
        self._staged = staged

    async def names(self) -> list[str]:
        """Return the names of all files."""
        return [file.path for file in await self._present.list()]

    async def execute(self, program: str) -> str | None:
        """Execute a program over the present files; return what was wrong, None for nothing."""
        # What an earlier program has staged must not count.
        await self.drop()
        box = await self._ctx.sandbox.create(SandboxSpec("program", workspace=self._staged))
        try:
            result = await box.exec("python3", ["-c", program], timeout=10)
        except SandboxRuntimeError as error:
            return str(error)
        finally:
            await self._ctx.sandbox.remove("program")
        return None if result.ok else result.output

    async def patch(self) -> dict[str, str]:
        """Return what is staged: the difference of each file, by its name."""
        return {
            patch.path: difference(patch.path, await self._content(patch.path), patch.content)
            for patch in await self._staged.patches()
        }

    async def keep(self) -> None:
        """Apply what is staged."""
        await self._staged.commit()

    async def drop(self) -> None:
        """Forget what is staged."""
        await self._staged.discard()

    async def _content(self, path: str) -> bytes | None:
        try:
            return await self._present.read(path)
        except FileNotFoundError:
            return None


@coder.skill(
    durable=True,
    timeout=600,
    workspace=WorkspaceAccess.dynamic(
        max_files=200, allowed_modes=(READ_ONLY, OVERLAY), deny_patterns=("**/.env",)
    ),
)
async def change(
    ctx: RunContext,
    wish: str,
    url: str = "http://127.0.0.1:11434/v1",
    model: str = "llama3.2",
) -> list[str]:
    """Change the session's files as the user wishes; return the names of those that changed."""
    api, files = Model(ctx, url, model), await open_files(ctx, wish)
    names = await ctx.step("list", files.names)
    messages = [said("system", RULES), said("user", "\n".join([wish, "", "Files:", *names]))]
    for _ in range(TRIES):
        program = await ctx.step("write", api.program, messages, retry=AGAIN)
        problem = await ctx.step("execute", files.execute, program)
        if problem is None:
            return await keep_if_allowed(ctx, files)
        messages += [said("assistant", program), said("user", f"It failed:\n{problem}")]
    await files.drop()
    raise ValueError(f"{TRIES} programs failed, the last one with:\n{problem}")


async def open_files(ctx: RunContext, wish: str) -> Files:
    """Open the session's files, to read and to stage changes."""
    all_files = {"purpose": wish, "hints": ["**/*"], "max_files": 100, "reason": wish}
    present = await ctx.workspace.open_view(mode=READ_ONLY, **all_files)
    return Files(ctx, present, await ctx.workspace.open_view(mode=OVERLAY, **all_files))


async def keep_if_allowed(ctx: RunContext, files: Files) -> list[str]:
    """Apply what is staged, if the user allows it within a day; return the changed files."""
    patch = await ctx.step("compare", files.patch)
    if not patch:
        return []
    await ctx.emit_text_delta("".join(patch.values()))
    question = f"Keep the changes of {', '.join(patch)}?"
    try:
        allowed = await ctx.ask(question, schema=bool, timeout=A_DAY)
    except (WaitRejected, WaitTimedOut):
        allowed = False
    if not allowed:
        await ctx.step("drop", files.drop)
        return []
    await ctx.step("keep", files.keep)
    return list(patch)


def difference(path: str, old: bytes | None, new: bytes | None) -> str:
    """Return how a file has changed, for text in the format of `diff -u`; None is no file."""
    try:
        before, after = ((data or b"").decode().splitlines() for data in (old, new))
    except UnicodeDecodeError:
        return f"{path}: {len(new or b'')} bytes\n"
    changes = difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm="")
    return "".join(f"{line}\n" for line in changes)


def said(role: str, text: str) -> Message:
    """Return a message of the conversation."""
    return {"role": role, "content": text}


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
