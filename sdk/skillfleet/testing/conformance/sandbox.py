"""Conformance of sandbox clients."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import InvalidArgumentsError, SandboxRuntimeError, SkillfleetError
from skillfleet.ports.sandbox import SandboxClient, SandboxProvider, SandboxSpec
from skillfleet.ports.scope import RunScope
from skillfleet.testing.conformance.object_graph import reachable

Body = Callable[[SandboxClient], Awaitable[None]]


class SandboxSuite(ABC):
    """Subclass it as `Test...` and implement `provider`."""

    output_bytes: ClassVar[int] = 1 << 20
    """The part of a stream that the provider's sandboxes keep."""

    @abstractmethod
    def provider(self) -> AbstractAsyncContextManager[SandboxProvider]:
        """Return a provider whose sandboxes have Python and a shell."""

    def run(self, body: Body) -> None:
        """Await `body` with a client that was opened for a run."""

        async def main() -> None:
            async with self.provider() as provider:
                ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
                try:
                    await body(ctx.sandbox)
                finally:
                    await ctx.aclose()
                    await provider.aclose()

        asyncio.run(main())

    def test_python_and_shell_are_executed_with_output_and_exit_code(self) -> None:
        async def body(client: SandboxClient) -> None:
            result = await client.run_python("import sys; print('out'); sys.exit('err')")
            assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 1)
            assert (result.output, result.ok) == ("out\nerr\n", False)
            assert (await client.run_shell("echo $((40 + 2))")).stdout == "42\n"
            assert (await client.run_shell("kill -9 $$")).exit_code == 137
            assert await client.list() == []

        self.run(body)

    def test_commands_of_a_sandbox_share_its_files(self) -> None:
        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))
            await box.put("deep/data.bin", bytes(range(256)) * 1000)
            assert (await box.shell("wc -c < deep/data.bin; echo hi > new")).stdout == "256000\n"
            assert await box.get("new") == b"hi\n"
            assert await box.get("deep/data.bin") == bytes(range(256)) * 1000
            with pytest.raises(SandboxRuntimeError):
                await box.get("missing")

        self.run(body)

    def test_input_and_output_are_streamed(self) -> None:
        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))
            seen: list[tuple[str, bytes]] = []

            async def note(stream: str, data: bytes) -> None:
                seen.append((stream, data))

            result = await box.shell("cat; echo e >&2", stdin=b"a" * 300_000, on_output=note)
            assert result.stdout == "a" * 300_000
            assert b"".join(data for stream, data in seen if stream == "stdout") == b"a" * 300_000
            assert ("stderr", b"e\n") in seen
            assert "e" in (await box.logs(1))

        self.run(body)

    def test_output_over_the_limit_is_dropped(self) -> None:
        async def body(client: SandboxClient) -> None:
            code = f"print('x' * {3 * self.output_bytes})"
            result = await client.run_python(code)
            assert (len(result.stdout), result.truncated, result.ok) == (
                self.output_bytes,
                True,
                True,
            )

        self.run(body)

    def test_a_timeout_ends_all_that_a_command_started(self) -> None:
        script = "(setsid sh -c 'trap \"\" TERM INT HUP; sleep 600 & sleep 600' &); sleep 600"

        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))
            began = time.monotonic()
            with pytest.raises(SandboxRuntimeError) as failed:
                await box.shell(script, timeout=1)
            assert failed.value.timeout_seconds == 1
            assert time.monotonic() - began < 300
            assert (await box.shell("echo still")).stdout == "still\n"

        self.run(body)

    def test_a_cancelled_command_is_ended(self) -> None:
        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))
            started = asyncio.Event()

            async def note(_: str, __: bytes) -> None:
                started.set()

            task = asyncio.ensure_future(box.shell("echo go; sleep 600", on_output=note))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await box.shell("echo still")).stdout == "still\n"

        self.run(body)

    def test_a_reader_of_output_that_fails_ends_the_command(self) -> None:
        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))

            async def fail(_: str, __: bytes) -> None:
                raise ValueError("enough")

            with pytest.raises(ValueError, match="enough"):
                await box.shell("while :; do echo more; done", on_output=fail)
            assert (await box.shell("echo still")).stdout == "still\n"

        self.run(body)

    def test_a_background_process_ends_with_its_command(self) -> None:
        loop = "while :; do echo x >> grows; sleep 0.01; done"

        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))
            await box.shell(f"({loop}) & until [ -s grows ]; do sleep 0.01; done")
            before = (await box.shell("wc -c < grows; sleep 0.3; wc -c < grows")).stdout.split()
            assert before[0] == before[1]

        self.run(body)

    def test_kill_ends_a_command(self) -> None:
        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))
            started = asyncio.Event()

            async def note(_: str, __: bytes) -> None:
                started.set()

            task = asyncio.ensure_future(box.shell("echo go; sleep 600", on_output=note))
            await started.wait()
            await box.kill()
            with pytest.raises(SandboxRuntimeError):
                await task
            with pytest.raises(SandboxRuntimeError):
                await box.shell("true")

        self.run(body)

    def test_sandboxes_have_names_and_own_files(self) -> None:
        async def body(client: SandboxClient) -> None:
            one, two = [await client.create(SandboxSpec(name)) for name in ("one", "two")]
            await one.put("secret", b"1")
            assert not (await two.shell("cat secret")).ok
            assert await client.list() == ["one", "two"]
            assert await client.get("two") is two
            with pytest.raises(InvalidArgumentsError):
                await client.create(SandboxSpec("one"))
            await client.remove("one")
            await client.remove("one")
            await one.stop()
            with pytest.raises(SandboxRuntimeError):
                await client.get("one")
            assert not (await (await client.create(SandboxSpec("one"))).shell("cat secret")).ok

        self.run(body)

    def test_what_cannot_be_provided_is_refused(self) -> None:
        async def body(client: SandboxClient) -> None:
            with pytest.raises(SkillfleetError):
                await client.create(SandboxSpec("box", image="no.such.registry/image:0"))
            box = await client.create(SandboxSpec("box"))
            with pytest.raises(SkillfleetError):
                await box.exec("echo", ["zero\0byte"])
            assert (await box.exec("no-such-program")).exit_code == 127

        self.run(body)

    def test_a_client_does_not_show_its_scope_to_the_skill(self) -> None:
        async def body(client: SandboxClient) -> None:
            box = await client.create(SandboxSpec("box"))
            shown = [
                path
                for each in (client, box)
                for path, found in reachable(each)
                if isinstance(found, RunScope)
            ]
            assert not shown, "keep the scope in a skillfleet.hidden_state.HiddenState"

        self.run(body)
