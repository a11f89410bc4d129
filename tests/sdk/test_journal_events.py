"""Events and the journal: their addresses, and what a later attempt does not emit again."""

import asyncio
from typing import Any

import pytest

from skillfleet import LocalRunContext, NoAuth, StepFailed, joined_text
from skillfleet.contracts import EntryKind
from skillfleet.durable.journal import Journal, begin_journal, journal_of
from skillfleet.ports.journal import Emission, Recorded
from skillfleet.testing import LocalJournal


def context(journal: LocalJournal | None = None) -> LocalRunContext[NoAuth]:
    return LocalRunContext(auth=NoAuth(), journal=journal)


async def emit(ctx: LocalRunContext[Any], *texts: str) -> None:
    for text in texts:
        await ctx.emit_text_delta(text)


def texts(ctx: LocalRunContext[Any]) -> list[str]:
    return [event.payload["text"] for event in ctx.events if event.kind == "text_delta"]


async def test_a_run_without_entries_loads_and_keeps_nothing() -> None:
    ctx = context()
    store = ctx._journal_store()

    async def never() -> Recorded:
        raise AssertionError("it loads a journal that does not exist")

    store.load = never  # type: ignore[method-assign]
    journal = Journal(store, 1)
    assert journal.loaded
    assert [journal.place_event() for _ in range(2)] == [(False, None)] * 2
    assert await journal.unused() == ()
    assert not journal.keeps_calls


async def test_a_later_attempt_emits_what_is_not_in_the_stream() -> None:
    async def handler(ctx: LocalRunContext[NoAuth], *, dies: bool) -> None:
        await emit(ctx, "a", "b")
        await ctx.step("one", lambda: 1)
        await emit(ctx, "c")
        if dies:
            return
        await emit(ctx, "d")
        await ctx.step("two", lambda: 2)
        await emit(ctx, "e")

    first = context()
    await handler(first, dies=True)
    second = context(first.journal)
    await handler(second, dies=False)
    assert (texts(first), texts(second)) == (["a", "b", "c"], ["d", "e"])
    third = context(first.journal)
    await handler(third, dies=False)
    assert texts(third) == []


async def test_before_the_first_entry_a_later_attempt_begins_again() -> None:
    first = context()
    await emit(first, "a")
    second = context(first.journal)
    await emit(second, "a")
    assert texts(second) == ["a"]


async def test_tasks_count_their_events_apart() -> None:
    async def branch(ctx: LocalRunContext[NoAuth], name: str, dies: bool) -> None:
        await emit(ctx, f"{name}1")
        if dies and name == "b":
            return
        await ctx.step("work", lambda: name, key=name)
        await emit(ctx, f"{name}2")

    async def handler(ctx: LocalRunContext[NoAuth], *, dies: bool) -> None:
        await ctx.step("start", lambda: 1)
        await asyncio.gather(*(branch(ctx, name, dies) for name in "ab"))
        await emit(ctx, "end")

    first = context()
    await handler(first, dies=True)
    assert texts(first) == ["a1", "b1", "a2", "end"]
    second = context(first.journal)
    await handler(second, dies=False)
    assert texts(second) == ["b2"]


async def test_a_task_starts_at_the_address_of_its_creator_at_that_time() -> None:
    ctx = context()
    await ctx.step("start", lambda: 1)
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        await emit(ctx, "from the task")

    task = asyncio.create_task(later())
    await ctx.step("next", lambda: 2)
    go.set()
    await task
    (address,) = (address for address in ctx.journal.emitted if address)
    assert address.startswith("1@step/start#")


async def test_tasks_that_pass_the_same_entry_count_their_events_apart() -> None:
    async def branch(ctx: LocalRunContext[NoAuth], name: str) -> None:
        await ctx.step("shared", lambda: 1, key="shared")
        await emit(ctx, name)

    ctx = context()
    await asyncio.gather(*(branch(ctx, name) for name in "ab"))
    assert sorted(ctx.journal.emitted) == ["1@step=shared", "step=shared"]


async def test_events_of_a_step_belong_to_it() -> None:
    ctx = context()

    async def speak() -> None:
        await emit(ctx, "a")
        await asyncio.gather(emit(ctx, "b"))

    await ctx.step("speak", speak, key="k")
    await emit(ctx, "c")
    assert [event.step for event in ctx.events] == ["step=k", "step=k", None]
    assert ctx.journal.unfinished == set()
    assert ctx.journal.emitted == {"step=k": 1}


async def test_events_of_a_task_that_outlives_its_step_belong_to_no_step() -> None:
    ctx = context()
    go = asyncio.Event()
    tasks = []

    async def outlive() -> None:
        await go.wait()
        await emit(ctx, "late")

    async def begin() -> None:
        tasks.append(asyncio.create_task(outlive()))

    await ctx.step("begin", begin)
    go.set()
    await tasks[0]
    assert [(event.kind, event.step) for event in ctx.events] == [("text_delta", None)]
    assert ctx.journal.unfinished == set()


async def test_what_follows_a_failure_is_emitted_again_when_the_failure_is_dropped() -> None:
    async def handler(ctx: LocalRunContext[NoAuth], *, fails: bool) -> None:
        def work() -> int:
            return 1 // (0 if fails else 1)

        try:
            await ctx.step("work", work)
        except StepFailed:
            await emit(ctx, "it failed")
            raise
        await emit(ctx, "it went well")

    first = context()
    with pytest.raises(StepFailed) as raised:
        await handler(first, fails=True)
    first.journal.drop(journal_of(first).failures_in(raised.value))
    second = context(first.journal)
    await handler(second, fails=False)
    assert (texts(first), texts(second)) == (["it failed"], ["it went well"])


async def test_what_follows_a_failure_that_stays_is_not_emitted_again() -> None:
    async def handler(ctx: LocalRunContext[NoAuth]) -> None:
        with pytest.raises(StepFailed):
            await ctx.step("work", lambda: 1 // 0)
        await emit(ctx, "it failed")

    first = context()
    await handler(first)
    second = context(first.journal)
    await handler(second)
    assert texts(second) == []


async def test_an_unfinished_step_is_void_for_the_next_attempt() -> None:
    first = context()
    reached = asyncio.Event()

    async def speak() -> None:
        await emit(first, "Hel")
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(first.step("speak", speak, key="k"))
    await reached.wait()
    first.lose()
    task.cancel()
    await asyncio.wait({task})
    second = context(first.journal)

    async def again() -> None:
        await emit(second, "Hello")

    await second.step("speak", again, key="k")
    assert joined_text([*first.events, *second.events]) == "Hello"
    assert second.events[0].kind == "superseded"


async def test_a_step_that_its_handler_cancels_is_void_at_once() -> None:
    ctx = context()

    async def speak() -> None:
        await emit(ctx, "Hel")
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ctx.step("speak", speak)
    assert joined_text(ctx.events) == ""


async def test_addresses_stay_short() -> None:
    ctx = context()
    await ctx.step("start", lambda: 1, key="x" * 200)

    async def nest(depth: int) -> None:
        await emit(ctx, str(depth))
        if depth:
            await asyncio.create_task(nest(depth - 1))

    await nest(400)
    assert len(ctx.journal.emitted) == 401
    assert max(map(len, ctx.journal.emitted)) <= 500


async def test_two_contexts_in_one_task_do_not_disturb_each_other() -> None:
    one, two = context(), context()
    for ctx in (one, two, one):
        await ctx.step("work", lambda: 1, key="k")
        await emit(ctx, "a")
    assert one.journal.emitted == {"step=k": 2}
    assert two.journal.emitted == {"step=k": 1}


async def test_the_place_of_an_event_is_counted_from_zero() -> None:
    ctx = context()
    await ctx.step("work", lambda: 1, key="k")
    journal = journal_of(ctx)
    assert [journal.place_event()[1] for _ in range(2)] == [
        Emission("step=k", 0, None),
        Emission("step=k", 1, None),
    ]
    assert begin_journal(ctx) is journal_of(ctx) is not journal


async def test_the_counts_of_events_before_the_journal_come_with_its_first_entry() -> None:
    ctx = context()
    await emit(ctx, "a", "b")
    assert ctx.journal.emitted == {}
    await ctx.step("work", lambda: 1)
    assert ctx.journal.emitted == {"": 2}
    assert [entry.kind for entry in ctx.journal.entries.values()] == [EntryKind.STEP]
