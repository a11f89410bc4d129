"""Random trees of tasks and steps, killed anywhere: each step gets its own result, once."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from skillfleet import Agent, AgentEvent, LocalRunContext, NoAuth, RunContext, joined_text
from skillfleet.testing import AttemptLostError, LocalJournal, run_skill


@dataclass(frozen=True)
class Step:
    """A step; equal ones of one task differ in their count only."""

    name: str
    pauses: int
    keyed: bool
    sync: bool


@dataclass(frozen=True)
class Emit:
    """An event outside of steps."""


@dataclass(frozen=True)
class Pause:
    """A timer, in whose place another task may go on."""


@dataclass(frozen=True)
class Sequence:
    nodes: tuple[Any, ...]


@dataclass(frozen=True)
class Branches:
    nodes: tuple[Any, ...]
    group: bool


STEPS = st.builds(Step, st.sampled_from("abc"), st.integers(0, 2), st.booleans(), st.booleans())
LEAVES = st.one_of(STEPS, STEPS, st.builds(Emit), st.builds(Pause))
TREES = st.recursive(
    LEAVES,
    lambda nodes: st.one_of(
        st.lists(nodes, max_size=4).map(lambda several: Sequence(tuple(several))),
        st.builds(Branches, st.lists(nodes, max_size=3).map(tuple), st.booleans()),
    ),
    max_leaves=14,
)


@dataclass
class World:
    """What outlives the attempts: the evidence."""

    journal: LocalJournal = field(default_factory=LocalJournal)
    executed: Counter[str] = field(default_factory=Counter)
    recorded_at: dict[str, int] = field(default_factory=dict)
    events: list[AgentEvent] = field(default_factory=list)
    keys: dict[str, set[str]] = field(default_factory=dict)


class Life:
    """One attempt: it is killed after so many ticks."""

    def __init__(self, ctx: RunContext, world: World, ticks: int | None) -> None:
        self.ctx = ctx
        self.world = world
        self.ticks = ticks

    async def tick(self) -> None:
        await asyncio.sleep(0)
        if self.ticks is None:
            return
        self.ticks -= 1
        if self.ticks < 0:
            assert isinstance(self.ctx, LocalRunContext)
            self.ctx.lose()

    async def run(self, node: Any, path: str, task: str) -> list[str]:
        await self.tick()
        match node:
            case Step():
                return [await self.step(node, path, task)]
            case Emit():
                await self.ctx.emit_text_delta(f"<{path}>")
                return []
            case Pause():
                await self.ctx.sleep(0.001)
                return []
            case Sequence(nodes):
                results = [
                    await self.run(each, f"{path}.{n}", task) for n, each in enumerate(nodes)
                ]
            case Branches(nodes, group):
                branches = [
                    self.run(each, f"{path}.{n}", f"{path}.{n}") for n, each in enumerate(nodes)
                ]
                results = await together(branches, group)
        return [name for each in results for name in each]

    async def step(self, node: Step, path: str, task: str) -> str:
        def execute() -> str:
            self.note(path)
            return path

        async def execute_async() -> str:
            self.note(path)
            self.world.keys.setdefault(path, set()).add(self.ctx.step_key)
            for n in range(node.pauses):
                await self.ctx.emit_text_delta(f"<{path}:{n}>")
                await self.tick()
            return path

        function: Any = execute if node.sync else execute_async
        key = f"key {path}" if node.keyed else None
        # The argument names the task: equal steps of two tasks need keys.
        return str(await self.ctx.step(node.name, with_argument(function), task, key=key))

    def note(self, path: str) -> None:
        self.world.executed[path] += 1
        results = {entry.value for entry in self.world.journal.entries.values()}
        assert f'"{path}"'.encode() not in results, f"{path} is recorded and executes again"


def with_argument(function: Any) -> Any:
    async def call(task: str) -> str:
        del task
        return str(await function()) if asyncio.iscoroutinefunction(function) else function()

    return call


async def together(branches: list[Any], group: bool) -> list[list[str]]:
    if not group:
        return list(await asyncio.gather(*branches))
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(each) for each in branches]
    return [task.result() for task in started]


def names(node: Any, path: str) -> list[str]:
    if isinstance(node, Step):
        return [path]
    if isinstance(node, Sequence | Branches):
        return [name for n, each in enumerate(node.nodes) for name in names(each, f"{path}.{n}")]
    return []


def spoken(node: Any, path: str) -> list[str]:
    match node:
        case Emit():
            return [f"<{path}>"]
        case Step(pauses=pauses, sync=False):
            return [f"<{path}:{n}>" for n in range(pauses)]
        case Sequence(nodes) | Branches(nodes):
            return [text for n, each in enumerate(nodes) for text in spoken(each, f"{path}.{n}")]
    return []


async def live(world: World, tree: Any, ticks: int | None) -> list[str]:
    ctx = LocalRunContext(auth=NoAuth(), journal=world.journal)
    lives = Agent("lives")

    @lives.skill
    async def tree_of_steps(ctx: RunContext) -> list[str]:
        # Before the first entry, a run begins again.
        await ctx.step("start", lambda: None)
        return await Life(ctx, world, ticks).run(tree, "0", "main")

    try:
        result: list[str] = await run_skill(tree_of_steps, ctx, {}, grace=5)
        return result
    finally:
        world.events += ctx.events


async def live_to_the_end(world: World, tree: Any, kills: list[int]) -> list[str]:
    for ticks in kills:
        try:
            return await live(world, tree, ticks)
        except AttemptLostError:
            continue
    return await live(world, tree, None)


@settings(max_examples=300)
@given(TREES, st.lists(st.integers(0, 25), max_size=6))
def test_every_step_gets_its_own_result_and_executes_once_when_recorded(
    tree: Any, kills: list[int]
) -> None:
    world = World()
    assert asyncio.run(live_to_the_end(world, tree, kills)) == names(tree, "0")
    assert set(world.executed) == set(names(tree, "0"))
    assert max(world.executed.values(), default=1) <= 1 + len(kills)
    assert all(len(keys) == 1 for keys in world.keys.values())
    assert len(set().union(*world.keys.values())) == len(world.keys)
    joined = joined_text(world.events)
    assert sorted(f"{text}>" for text in joined.split(">") if text) == sorted(spoken(tree, "0"))
    assert not any(event.kind == "error" for event in world.events)
