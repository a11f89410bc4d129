"""Durable runs in memory: what attempts share, and what is refused."""

import asyncio
import functools
import logging
import threading
from typing import Any

import pytest

from skillfleet import (
    Agent,
    LocalRunContext,
    NoAuth,
    RetryPolicy,
    RunContext,
    SkillError,
    StepFailed,
    StepKeyRequired,
    WaitRejected,
    WaitTimedOut,
    joined_text,
)
from skillfleet.contracts import EntryKind, WaitKind
from skillfleet.durable.journal import begin_journal, journal_of
from skillfleet.errors import (
    CancelledByCaller,
    DeclarationError,
    InvalidArgumentsError,
    JournalFullError,
    LimitExceededError,
    RunFailed,
    UnknownWaitError,
    WaitConflictError,
)
from skillfleet.testing import (
    AttemptLostError,
    InProcessA2AClient,
    InstantClock,
    LocalJournal,
    local_journal,
    run_skill,
    run_to_end,
)
from skillfleet.testing.clock import WallClock
from tests.support.waiting import wait_until_async

Context = LocalRunContext[NoAuth]


def context(former: Context | None = None, **options: Any) -> Context:
    journal = None if former is None else former.journal
    return LocalRunContext(auth=NoAuth(), journal=journal, **options)


async def counts(ctx: Context, calls: list[int], **options: Any) -> int:
    def work() -> int:
        calls.append(1)
        return len(calls)

    return await ctx.step("work", work, **options)


# Identity.


async def test_equal_steps_of_one_task_are_counted_in_order() -> None:
    calls: list[int] = []
    first = context()
    assert [await counts(first, calls) for _ in range(3)] == [1, 2, 3]
    second = context(first)
    assert [await counts(second, calls) for _ in range(4)] == [1, 2, 3, 4]


async def test_a_key_names_one_step_in_all_tasks_and_attempts() -> None:
    calls: list[int] = []
    ctx = context()
    assert await asyncio.gather(*(counts(ctx, calls, key="k") for _ in range(3))) == [1, 1, 1]
    assert await counts(context(ctx), calls, key="k") == 1


async def test_equal_steps_of_two_live_tasks_need_keys() -> None:
    ctx = context()
    asked = asyncio.Event()

    async def first() -> None:
        await ctx.step("work", lambda: 1)
        asked.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(first())
    await asked.wait()
    with pytest.raises(StepKeyRequired, match="'work'"):
        await ctx.step("work", lambda: 1)
    task.cancel()
    await asyncio.wait({task})
    assert await ctx.step("work", lambda: 2) == 2


async def test_a_cancelled_holder_of_a_key_lets_the_next_one_execute() -> None:
    ctx = context()

    async def forever() -> int:
        await asyncio.Event().wait()
        return 1

    async def short() -> int:
        return 2

    task = asyncio.create_task(ctx.step("work", forever, key="k"))
    await asyncio.sleep(0)
    other = asyncio.create_task(ctx.step("work", short, key="k"))
    await asyncio.sleep(0)
    task.cancel()
    assert await other == 2


# Execution.


async def test_a_function_that_is_not_async_runs_in_a_thread_and_sees_its_key() -> None:
    ctx = context()
    seen: list[Any] = []

    def work() -> str:
        seen.append(threading.current_thread() is threading.main_thread())
        return ctx.step_key

    assert len(await ctx.step("work", work)) == 64
    assert seen == [False]


def in_a_lambda(function: Any) -> Any:
    return lambda: function()  # noqa: PLW0108 - what skills write


@pytest.mark.parametrize("wrap", [lambda f: f, functools.partial, in_a_lambda])
async def test_async_functions_run_on_the_loop(wrap: Any) -> None:
    async def work() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await context().step("work", wrap(work), returns=bool)


async def test_a_result_is_recorded_although_its_caller_is_cancelled() -> None:
    ctx = context()
    recording, go = asyncio.Event(), asyncio.Event()
    store = journal_of(ctx).store
    record = store.record

    async def slow(*args: Any) -> None:
        recording.set()
        await go.wait()
        await record(*args)

    store.record = slow  # type: ignore[assignment, method-assign]
    calls: list[int] = []
    task = asyncio.create_task(counts(ctx, calls, key="k"))
    await recording.wait()
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await counts(ctx, calls, key="k") == 1


async def test_large_values_come_back() -> None:
    first = context()
    await first.step("large", lambda: "x" * 100_000)
    (entry,) = first.journal.entries.values()
    assert (entry.value, entry.size) == (None, 100_002)
    second = context(first)
    assert len(await second.step("large", lambda: "")) == 100_000


async def test_a_full_journal_is_no_failure_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_journal, "_MOST_BYTES", 1000)
    ctx = context()
    await ctx.step("first", lambda: "x" * 600)
    with pytest.raises(JournalFullError):
        await ctx.step("second", lambda: "x" * 600)
    assert [step.name for step in ctx.journal.steps()] == ["first"]


@pytest.mark.parametrize(
    "error", [CancelledByCaller("cancelled"), asyncio.CancelledError(), AttemptLostError("lost")]
)
async def test_what_ends_the_attempt_is_no_failure_of_a_step(error: BaseException) -> None:
    ctx = context()

    async def work() -> None:
        raise error

    with pytest.raises(type(error)):
        await ctx.step("work", work)
    assert ctx.journal.entries == {}


async def test_a_failure_in_a_cancelled_run_is_not_recorded() -> None:
    ctx = context()

    async def work() -> None:
        ctx.cancel("enough")
        raise ConnectionError("the client's own words for a cancellation")

    with pytest.raises(ConnectionError):
        await ctx.step("work", work)
    assert ctx.journal.entries == {}


async def test_a_failures_message_shows_no_secret() -> None:
    ctx = context(secrets={"token": "a long secret value"})

    def work() -> None:
        raise SkillError(f"refused: {ctx.secret('token')}", code="a long secret value")

    with pytest.raises(StepFailed) as raised:
        await ctx.step("work", work)
    assert "a long secret" not in f"{raised.value} {raised.value.code}"
    assert "a long secret" not in repr(ctx.journal.steps())


async def test_a_step_fails_as_a_whole_group() -> None:
    async def work() -> None:
        raise ExceptionGroup("several", [SkillError("a", code="x"), SkillError("b", code="x")])

    with pytest.raises(StepFailed, match="2 errors") as raised:
        await context().step("work", work)
    assert (raised.value.code, raised.value.error_type) == ("x", "ExceptionGroup")


# Retries.


def failing(times: int, calls: list[int]) -> Any:
    async def work() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise SkillError("busy", retryable=True, retry_after=30)
        return len(calls)

    return work


async def test_a_long_pause_between_tries_is_a_timer() -> None:
    calls: list[int] = []
    ctx = context(clock=InstantClock())
    policy = RetryPolicy(max_retries=3)
    assert await ctx.step("work", failing(2, calls), retry=policy) == 3
    kinds = [(step.kind, step.name, step.tries) for step in ctx.journal.steps()]
    assert kinds == [
        (EntryKind.TIMER, "work: retry 1", 1),
        (EntryKind.TIMER, "work: retry 2", 1),
        (EntryKind.STEP, "work", 3),
    ]
    assert await journal_of(context(ctx)).unused() != ()


async def test_tries_and_their_pause_go_on_in_the_next_attempt() -> None:
    calls: list[int] = []
    first = context()
    policy = RetryPolicy(max_retries=2)
    task = asyncio.create_task(first.step("work", failing(9, calls), retry=policy))
    await wait_until_async(lambda: waits(first, WaitKind.TIMER))
    first.lose()
    await asyncio.wait({task})
    assert isinstance(task.exception(), AttemptLostError)
    second = context(first, clock=InstantClock())
    with pytest.raises(StepFailed, match="busy") as raised:
        await second.step("work", failing(9, calls), retry=policy)
    assert len(calls) == 3
    assert [step.tries for step in second.journal.steps() if step.kind == "step"] == [3]
    second.journal.drop(journal_of(second).failures_in(raised.value))
    assert second.journal.entries == {}


async def test_errors_that_the_policy_does_not_list_are_not_retried() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise ValueError("never")

    with pytest.raises(StepFailed):
        await context().step("work", work, retry=RetryPolicy(max_retries=5, on=(OSError,)))
    assert len(calls) == 1


async def test_the_runs_retry_looks_at_what_failed_the_step() -> None:
    policy = RetryPolicy(max_retries=1, on=(ConnectionError,))
    first = context()

    def work() -> None:
        raise ConnectionError("down")

    with pytest.raises(StepFailed) as raised:
        await first.step("work", work)
    assert policy.applies_to(raised.value, 0)
    with pytest.raises(StepFailed) as replayed:
        await context(first).step("work", work)
    assert replayed.value.__cause__ is None
    assert policy.applies_to(replayed.value, 0)
    assert not RetryPolicy(max_retries=1, on=(ValueError,)).applies_to(replayed.value, 0)


async def test_a_retryable_failure_stays_so() -> None:
    first = context()
    for ctx in (first, context(first)):
        with pytest.raises(StepFailed) as raised:
            await ctx.step("work", failing(9, []))
        assert raised.value.retryable


# The end of the handler.


async def test_the_failures_in_an_error_are_found_at_any_depth() -> None:
    ctx = context()
    errors = []
    for name in ("a", "b", "c"):
        with pytest.raises(StepFailed) as raised:
            await ctx.step(name, lambda: 1 // 0, key=name)
        errors.append(raised.value)
    wrapped = SkillError("wrapped")
    wrapped.__cause__ = errors[1]
    group = ExceptionGroup("all", [errors[0], ExceptionGroup("inner", [wrapped])])
    assert sorted(journal_of(ctx).failures_in(group)) == ["step=a", "step=b"]
    context_only = SkillError("a fallback failed, too")
    context_only.__context__ = errors[2]
    assert journal_of(ctx).failures_in(context_only) == ()


async def test_what_the_handler_does_not_ask_for_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Whatever level another test of this process has set.
    caplog.set_level(logging.WARNING)
    agent = Agent("changed")

    @agent.skill
    async def work(ctx: RunContext, name: str) -> None:
        await ctx.step(name, lambda: 1)

    first = context()
    await run_skill(work, first, {"name": "old"})
    assert first.events == []
    second = context(first)
    await run_skill(work, second, {"name": "new"})
    (event,) = second.events
    assert (event.kind, event.payload["code"]) == ("error", "journal_mismatch")
    assert "step 'old'" in event.payload["message"]
    assert "step 'old'" in caplog.text


async def test_a_lost_worker_costs_one_step() -> None:
    agent = Agent("lost")
    executed: list[int] = []

    @agent.skill
    async def work(ctx: RunContext) -> list[int]:
        def step(n: int) -> int:
            executed.append(n)
            return n

        results = []
        for n in range(5):
            results.append(await ctx.step("step", step, n))
            if n == ctx.attempt:
                assert isinstance(ctx, LocalRunContext)
                ctx.lose()
                await asyncio.Event().wait()
        return results

    ctx = context()
    assert await run_to_end(work, ctx) == [0, 1, 2, 3, 4]
    assert (executed, ctx.attempt) == ([0, 1, 2, 3, 4], 5)


async def test_what_precedes_the_first_step_is_not_repeated_when_that_is_lost() -> None:
    first = context()

    async def work(ctx: Context, started: asyncio.Event) -> int:
        await ctx.emit_text_delta("before ")

        async def step() -> int:
            await ctx.emit_text_delta("<")
            started.set()
            if ctx is first:
                await asyncio.Event().wait()
            return 1

        return await ctx.step("step", step)

    started = asyncio.Event()
    task = asyncio.create_task(work(first, started))
    await started.wait()
    # Another task's event, while the step is executed.
    await first.emit_text_delta("beside ")
    first.lose()
    task.cancel()
    await asyncio.wait({task})
    second = context(first)
    await asyncio.create_task(work(second, started))
    assert second.journal.emitted == {"": 1, "1@": 1}
    events = [*first.events, *second.events]
    texts = [event.payload["text"] for event in events if event.kind == "text_delta"]
    assert texts == ["before ", "<", "beside ", "<"]
    assert joined_text(events) == "before beside <"


async def test_a_step_without_events_before_it_writes_nothing_when_it_begins() -> None:
    first, started = context(), asyncio.Event()

    async def step() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(first.step("step", step))
    await started.wait()
    assert not first.journal.exists
    task.cancel()
    await asyncio.wait({task})


async def test_an_attempt_that_was_lost_can_write_nothing_more() -> None:
    first = context()
    second = context(first)
    await first.step("before", lambda: 1)
    await second.step("mine", lambda: 2)
    with pytest.raises(AttemptLostError):
        await first.step("late", lambda: 3)
    with pytest.raises(AttemptLostError):
        await first.emit_text_delta("late")
    with pytest.raises(AttemptLostError):
        await first.ask("late?")


# Waits.


async def waits(ctx: Context, kind: WaitKind) -> bool:
    return any(wait.spec.kind is kind for wait in ctx.journal.waits.values())


async def test_a_question_is_answered_by_id_key_text_or_alone() -> None:
    ctx = context()
    for wait in (None, "1", "Name?", "the key"):
        task = asyncio.create_task(ctx.ask("Name?", key="the key" if wait == "the key" else None))
        await wait_until_async(lambda: waits(ctx, WaitKind.ASK))
        name = ctx.waits[0].id if wait == "1" else wait
        ctx.answer(f"by {wait}", name)
        assert await task == f"by {wait}"
    assert ctx.waits == []


async def test_an_answer_is_accepted_once() -> None:
    ctx = context()
    task = asyncio.create_task(ctx.ask("Name?"))
    await wait_until_async(lambda: waits(ctx, WaitKind.ASK))
    (wait,) = ctx.waits
    ctx.answer("Ada", wait.id)
    ctx.answer("Ada", wait.id)
    with pytest.raises(WaitConflictError):
        ctx.answer("Eve", wait.id)
    with pytest.raises(UnknownWaitError, match="Name"):
        ctx.answer("Ada")
    assert await task == "Ada"
    with pytest.raises(UnknownWaitError, match="none"):
        ctx.answer("Ada", wait.id)


async def test_an_open_question_is_found_again() -> None:
    first = context()
    task = asyncio.create_task(first.ask("Name?"))
    await wait_until_async(lambda: waits(first, WaitKind.ASK))
    first.lose()
    await asyncio.wait({task})
    (wait,) = first.waits
    second = context(first)
    second.answer("Ada")
    assert await second.ask("Name?") == "Ada"
    assert [event.kind for event in (*first.events, *second.events)] == ["wait", "wait_ended"]
    assert second.events[0].payload["id"] == wait.id


@pytest.mark.parametrize("key", [None, "k"])
async def test_another_question_in_its_place_withdraws_the_open_one(key: str | None) -> None:
    first = context()
    task = asyncio.create_task(first.ask("Delete a?", schema=bool, key=key))
    await wait_until_async(lambda: waits(first, WaitKind.ASK))
    first.lose()
    await asyncio.wait({task})
    second = context(first, answers={"Delete b?": False})
    assert await second.ask("Delete b?", schema=bool, key=key) is False
    ended = [event.payload["outcome"] for event in second.events if event.kind == "wait_ended"]
    assert ended == ["withdrawn", "answered"]
    assert second.journal.waits == {}


@pytest.mark.parametrize("key", [None, "k"])
async def test_an_accepted_answer_is_never_lost_nor_given_to_another_question(
    key: str | None,
) -> None:
    first = context()
    task = asyncio.create_task(first.ask("Delete a?", schema=bool, key=key))
    await wait_until_async(lambda: waits(first, WaitKind.ASK))
    first.answer(True)
    first.lose()
    await asyncio.wait({task})
    second = context(first, answers={"Delete b?": False})
    assert await second.ask("Delete b?", schema=bool, key=key) is False
    assert await second.ask("Delete a?", schema=bool, key=key) is True


async def test_questions_of_several_tasks_are_not_taken_for_stale() -> None:
    first = context()

    async def both(ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.ask("A?"), ctx.ask("B?")))

    task = asyncio.create_task(both(first))
    await wait_until_async(lambda: two_waits(first))
    first.lose()
    await asyncio.wait({task})
    second = context(first, answers={"A?": "a", "B?": "b"})
    assert await both(second) == ["a", "b"]
    assert [event.kind for event in second.events] == ["wait_ended"] * 2


async def test_a_question_that_another_task_may_still_ask_is_not_withdrawn() -> None:
    first = context()
    task = asyncio.create_task(first.ask("Later?"))
    await wait_until_async(lambda: waits(first, WaitKind.ASK))
    first.lose()
    await asyncio.wait({task})
    second = context(first, answers={"New?": "new", "Later?": "later"})
    go = asyncio.Event()

    async def later() -> str:
        await second.step("begin", lambda: 1)
        await go.wait()
        return await second.ask("Later?")

    other = asyncio.create_task(later())
    await wait_until_async(lambda: has_entries(second))
    assert await second.ask("New?") == "new"
    assert [wait.question for wait in second.waits] == ["Later?"]
    go.set()
    assert await other == "later"


async def has_entries(ctx: Context) -> bool:
    return bool(ctx.journal.entries)


async def two_waits(ctx: Context) -> bool:
    return len(ctx.waits) == 2


async def test_a_question_that_its_handler_gives_up_is_withdrawn() -> None:
    ctx = context()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ctx.ask("Name?")
    assert ctx.journal.waits == {}
    assert ctx.events[-1].payload["outcome"] == "withdrawn"


async def test_an_invalid_prepared_answer_fails_the_test_that_gave_it() -> None:
    ctx = context(answers={"Number?": "seven"})
    with pytest.raises(InvalidArgumentsError, match=r"seven.*valid integer"):
        await ctx.ask("Number?", schema=int)


async def test_prepared_answers_may_be_functions_and_errors() -> None:
    async def later(wait: Any) -> str:
        return f"{wait.question} {wait.value_schema}"

    ctx = context(
        answers={
            "a": later,
            "No?": WaitRejected("no", by="me"),
            "Late?": WaitTimedOut("late"),
            "Twice?": lambda wait: WaitRejected("twice"),
        }
    )
    assert await ctx.ask("Text?", key="a") == "Text? {'type': 'string'}"
    for question, message in (("No?", "no"), ("Twice?", "twice")):
        with pytest.raises(WaitRejected, match=message):
            await ctx.ask(question)
    with pytest.raises(WaitTimedOut, match="Late"):
        await ctx.ask("Late?")
    again = context(ctx)
    with pytest.raises(WaitRejected) as raised:
        await again.ask("No?")
    assert (raised.value.reason, raised.value.by) == ("no", "me")


async def test_a_run_has_a_bounded_number_of_open_waits() -> None:
    ctx = context()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.ask(f"{n}?")) for n in range(100)]
        await wait_until_async(lambda: hundred_waits(ctx))
        with pytest.raises(LimitExceededError):
            await ctx.ask("one more?")
        for task in tasks:
            task.cancel()


async def hundred_waits(ctx: Context) -> bool:
    return len(ctx.waits) == 100


async def test_messages_arrive_in_order_and_once() -> None:
    ctx = context(inbox=["a"])
    assert await ctx.receive() == "a"
    task = asyncio.create_task(ctx.receive())
    await wait_until_async(lambda: waits(ctx, WaitKind.MESSAGE))
    ctx.send({"b": 1})
    assert await task == {"b": 1}
    again = context(ctx)
    again.send("c")
    assert await again.receive() == "a"
    assert await asyncio.create_task(again.receive()) == {"b": 1}
    assert await again.receive() == "c"
    with pytest.raises(WaitTimedOut):
        await again.receive(timeout=0.001)


async def test_tasks_may_receive_and_sleep_at_once_without_keys() -> None:
    ctx = context(inbox=[1, 2], clock=InstantClock())

    async def branch() -> Any:
        await ctx.sleep(60)
        return await ctx.receive()

    assert sorted(await asyncio.gather(branch(), branch())) == [1, 2]


async def test_pauses_end_in_order_of_their_times() -> None:
    clock = InstantClock(start=1000)
    ctx = context(clock=clock)
    order: list[int] = []

    async def pause(seconds: int) -> None:
        await ctx.sleep(seconds)
        order.append(seconds)

    await asyncio.gather(*(pause(seconds) for seconds in (3600, 60, 86400)))
    assert (order, clock.now()) == ([60, 3600, 86400], 1000 + 86400)
    assert WallClock().now() > clock.now()


async def test_a_pause_that_began_ends_at_its_time() -> None:
    clock = InstantClock(start=0)
    first = context(clock=WallClock())
    task = asyncio.create_task(first.sleep(3600))
    await wait_until_async(lambda: waits(first, WaitKind.TIMER))
    first.lose()
    await asyncio.wait({task})
    (wait,) = first.journal.waits.values()
    second = context(first, clock=clock)
    await second.sleep(3600)
    assert clock.now() == wait.expires
    (entry,) = second.journal.steps()
    assert entry.duration_seconds < 60, "a clock that differs makes no time of its own"


async def test_a_wait_by_a_test_clock_begins_at_the_time_of_day() -> None:
    first = context(clock=InstantClock(start=1000))
    task = asyncio.create_task(first.ask("Name?"))
    await wait_until_async(lambda: waits(first, WaitKind.ASK))
    first.lose()
    await asyncio.wait({task})
    second = context(first, clock=InstantClock(start=1000), answers={"Name?": "Ann"})
    assert await second.ask("Name?") == "Ann"
    (entry,) = second.journal.steps()
    assert entry.duration_seconds < 60


# Calls and declarations.

helpers = Agent("helpers")


@helpers.skill
async def asks_back(ctx: RunContext) -> str:
    return await ctx.ask("Name?")


@helpers.skill
async def numbers(ctx: RunContext, of: str) -> str:
    numbers_of[of] = numbers_of.get(of, 0) + 1
    return f"{of}{numbers_of[of]}"


numbers_of: dict[str, int] = {}


async def test_a_called_run_has_its_callers_answers_and_clock() -> None:
    ctx = context(a2a=InProcessA2AClient([helpers]), answers={"Name?": "Ada"})
    assert (await ctx.call("helpers", "asks_back")).result == "Ada"


async def test_calls_of_a_durable_run_are_entries_from_the_start() -> None:
    agent = Agent("calling")

    @agent.skill(durable=True)
    async def durable(ctx: RunContext) -> str:
        return str((await ctx.call("helpers", "numbers", args={"of": ctx.task_id})).result)

    @agent.skill
    async def other(ctx: RunContext) -> str:
        return str((await ctx.call("helpers", "numbers", args={"of": ctx.task_id})).result)

    for skill, task_id, entries in ((durable, "durable-", 1), (other, "other-", 0)):
        first = context(a2a=InProcessA2AClient([helpers]), task_id=task_id)
        assert await run_skill(skill, first) == f"{task_id}1"
        assert len(first.journal.entries) == entries
        again = context(first, a2a=InProcessA2AClient([helpers]), task_id=task_id)
        assert await run_skill(skill, again) == f"{task_id}{2 - entries}"
    assert durable.spec.durable
    assert durable.spec.card().durable
    assert not other.spec.durable


async def test_a_call_inside_of_a_step_is_found_by_the_same_step_only() -> None:
    calls = InProcessA2AClient([helpers])
    ctx = context(a2a=calls)

    async def call() -> str:
        return str((await ctx.call("helpers", "numbers", args={"of": "in a step"})).result)

    assert await ctx.step("one", call) == "in a step1"
    begin_journal(ctx)
    ctx.attempt = 2
    assert await ctx.step("one", call) == "in a step1"
    assert await ctx.step("two", call) == "in a step2"


async def test_calls_at_once_that_are_equal_need_keys_in_a_run_with_a_journal() -> None:
    ctx = context(a2a=InProcessA2AClient([helpers]))
    await ctx.step("start", lambda: 1)
    with pytest.raises(StepKeyRequired):
        await asyncio.gather(*(ctx.call("helpers", "numbers", args={"of": "x"}) for _ in range(2)))


async def test_a_failed_call_is_dropped_for_the_retry() -> None:
    agent = Agent("failing")
    tried: list[int] = []

    @agent.skill
    async def fail(ctx: RunContext) -> None:
        tried.append(1)
        if len(tried) == 1:
            raise SkillError("not yet", code="early")

    @agent.skill(max_retries=1, retry_on=(RunFailed,))
    async def call(ctx: RunContext) -> int:
        await ctx.step("start", lambda: 1)
        await ctx.call("failing", "fail")
        return len(tried)

    ctx = context(a2a=InProcessA2AClient([agent]))
    assert await run_to_end(call, ctx) == 2


def test_a_skill_is_durable_or_not() -> None:
    agent = Agent("declared", compatible_versions=("0.1.0", "0.2.0"))
    assert agent.compatible_versions == ("0.1.0", "0.2.0")
    maybe: Any = "maybe"
    with pytest.raises(DeclarationError, match="durable='maybe'"):

        @agent.skill(durable=maybe)
        async def unsure(ctx: RunContext) -> None: ...

    with pytest.raises(DeclarationError, match="compatible_versions"):
        Agent("declared", compatible_versions="0.1.0")


async def test_a_journal_continues_in_another_event_loop() -> None:
    journal = LocalJournal()

    def live(send: bool) -> list[Any]:
        ctx = LocalRunContext(auth=NoAuth(), journal=journal, inbox=["b"] if send else ["a"])
        begin_journal(ctx)
        return asyncio.run(receive_all(ctx, 2 if send else 1))

    first = await asyncio.to_thread(live, send=False)
    second = await asyncio.to_thread(live, send=True)
    assert (first, second) == (["a"], ["a", "b"])


async def receive_all(ctx: Context, count: int) -> list[Any]:
    return [await ctx.receive() for _ in range(count)]
