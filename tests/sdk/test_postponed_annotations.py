"""Skills of modules whose annotations are strings, with types of a function's own."""

from __future__ import annotations

from dataclasses import dataclass

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext


@dataclass
class Count:
    files: int


async def test_types_of_the_module_are_found() -> None:
    agent = Agent("tools")

    @agent.skill
    async def count(ctx: RunContext, before: Count) -> Count:
        return Count(before.files + 1)

    assert count.bind({"before": {"files": 1}}) == {"before": Count(1)}
    assert count.dump(await count(LocalRunContext(auth=NoAuth()), Count(1))) == {"files": 2}


def test_types_declared_inside_a_function_are_found() -> None:
    @dataclass
    class Inner:
        lines: int

    agent = Agent("tools")

    @agent.skill
    async def bare(ctx: RunContext[NoAuth], inner: Inner) -> Inner:
        return inner

    @agent.skill(timeout=1)
    async def called(ctx: RunContext[NoAuth], inner: Inner | None = None) -> list[Inner]:
        return [inner] if inner else []

    assert bare.bind({"inner": {"lines": 3}}) == {"inner": Inner(3)}
    assert called.dump([Inner(4)]) == [{"lines": 4}]
