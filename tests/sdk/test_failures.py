"""The values read from any error can always be written."""

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from enum import Enum, StrEnum
from http import HTTPStatus
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillfleet import Agent, CancelledByCaller, LocalRunContext, NoAuth, RunContext, SkillError
from skillfleet.contracts import MOST_SECONDS
from skillfleet.errors import (
    InvalidArgumentsError,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
)
from skillfleet.failures import (
    error_code,
    error_text,
    failure_of,
    is_cancellation,
    is_retryable,
    leaves,
    retry_after_of,
)
from skillfleet.retry import RetryPolicy, retry_delay
from skillfleet.skills.skill import Skill
from skillfleet.testing.runner import run_to_end
from skillfleet.texts import MOST_CODE_CHARS, MOST_MESSAGE_CHARS


class Plain(Enum):
    QUOTA = "quota"


class Strong(StrEnum):
    QUOTA = "quota"


class Old(str, Enum):  # noqa: UP042 - as it was written before StrEnum
    QUOTA = "quota"


class Loud:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class QuotaError(SkillError):
    """Declares all three, as attributes of the class."""

    code = HTTPStatus.TOO_MANY_REQUESTS  # type: ignore[assignment]
    retryable = True
    retry_after = "7"


class ComputedError(SkillError):
    """Declares them as properties."""

    @property
    def code(self) -> Any:  # type: ignore[override]
        return 507

    @property
    def retryable(self) -> Any:  # type: ignore[override]
        return 1

    @property
    def retry_after(self) -> Any:  # type: ignore[override]
        return timedelta(minutes=1)


class BrokenError(SkillError):
    """Raises whenever it is read."""

    @property
    def code(self) -> Any:  # type: ignore[override]
        raise RuntimeError

    @property
    def retryable(self) -> Any:  # type: ignore[override]
        raise RuntimeError

    @property
    def retry_after(self) -> Any:  # type: ignore[override]
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        ("quota", "quota"),
        (429, "429"),
        (HTTPStatus.TOO_MANY_REQUESTS, "429"),
        (Plain.QUOTA, "quota"),
        (Strong.QUOTA, "quota"),
        (Old.QUOTA, "quota"),
        (b"quota", "quota"),
        (b"\xff", "\\xff"),
        (["a"], "['a']"),
        ("\ud800", "\\ud800"),
        (None, "skill_error"),
        ("", "skill_error"),
        (" ", "skill_error"),
        ("c" * 100_000, "skill_error"),
        (Loud(), "skill_error"),
        (10**5000, "skill_error"),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, (Loud, int)) else "odd",
)
def test_a_code_is_text(code: Any, reported: str) -> None:
    assert error_code(SkillError("m", code=code)) == reported
    assert type(error_code(SkillError("m", code=code))) is str


def test_only_errors_with_a_code_of_ours_have_one() -> None:
    assert error_code(SystemExit(3)) == error_code(ValueError()) == "skill_error"


def test_a_subclass_may_declare_code_and_retry() -> None:
    for error, code, after in (
        (QuotaError("m"), "429", 7.0),
        (ComputedError("m", code="x"), "507", 60.0),
    ):
        assert (error_code(error), is_retryable(error), retry_after_of(error)) == (
            code,
            True,
            after,
        )
    assert (
        error_code(QuotaError("m", code="mine")),
        retry_after_of(QuotaError("m", retry_after=1)),
    ) == (
        "mine",
        1,
    )
    assert not is_retryable(QuotaError("m", retryable=False))


def test_an_error_that_raises_when_it_is_read_still_says_something() -> None:
    error = BrokenError("m", code="c", retryable=True, retry_after=3)
    assert (error_code(error), is_retryable(error), retry_after_of(error)) == (
        "skill_error",
        False,
        None,
    )
    assert "BrokenError" in error_text(error)


@pytest.mark.parametrize(
    ("message", "reported"),
    [
        ("plain", "plain"),
        ("\ud800", "\\ud800"),
        (None, ""),
        (b"raw", "raw"),
        ({"a": 1}, "{'a': 1}"),
        (ValueError("inner"), "inner"),
        (Plain.QUOTA, "quota"),
        (Loud(), "SkillError, which cannot say more"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_message_is_text(message: Any, reported: str) -> None:
    assert error_text(SkillError(message)) == reported


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [
        (0, 0),
        (2.5, 2.5),
        ("3", 3),
        (b"3", 3),
        (" 0.5 ", 0.5),
        (Decimal("1.5"), 1.5),
        (timedelta(seconds=90), 90),
        (1e300, MOST_SECONDS),
        (10**400, MOST_SECONDS),
        (timedelta.max, MOST_SECONDS),
        ("1e300", MOST_SECONDS),
        (None, None),
        (True, None),
        (math.inf, None),
        (math.nan, None),
        (-5, None),
        ("-5", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (timedelta(seconds=-1), None),
        (datetime(2000, 1, 1, tzinfo=UTC), None),
        ("Sat, 01 Jan 2000 00:00:00 GMT", None),
        (object(), None),
        ([1], None),
        (1j, None),
    ],
    ids=lambda value: repr(value)[:40] if type(value) is not object else "object",
)
def test_a_time_to_wait_is_understood_or_left_to_the_backoff(
    wish: Any, seconds: float | None
) -> None:
    error = SkillError("busy", retryable=True, retry_after=wish)
    assert retry_after_of(error) == seconds
    assert retry_delay(RetryPolicy(), error, 3, lambda: 0.25) == max(1, seconds or 0)


@pytest.mark.parametrize("form", ["header", "date", "naive"])
def test_a_date_is_a_time_to_wait(form: str) -> None:
    moment = datetime.now(UTC) + timedelta(hours=1)
    wish: Any = {
        "header": format_datetime(moment, usegmt=True),
        "date": moment,
        "naive": moment.astimezone().replace(tzinfo=None),
    }[form]
    assert retry_after_of(SkillError("busy", retry_after=wish)) == pytest.approx(3600, abs=120)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs"]))
    | st.binary()
    | st.timedeltas()
    | st.datetimes()
    | st.decimals()
    | st.builds(Loud)
    | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(anything, anything, anything)
def test_what_is_read_can_be_written_for_any_error(message: Any, code: Any, after: Any) -> None:
    error = SkillError(message, code=code, retry_after=after)
    for each in (error, ExceptionGroup("g", [error, ValueError(message)])):
        failure, seconds = failure_of(each), retry_after_of(each)
        orjson.dumps([failure.code, failure.message])
        assert 1 <= len(failure.code) <= MOST_CODE_CHARS
        assert seconds is None or 0 <= seconds <= MOST_SECONDS


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("several", errors)


BUSY = SkillError("busy", code="busy", retryable=True, retry_after=2)
SLOW = SkillError("slow", code="busy", retryable=True, retry_after=30)
BAD_KEY = SkillError("bad key", code="bad_key")


def test_of_a_group_every_member_is_reported() -> None:
    code, message = failure_of(group(BUSY, group(BAD_KEY, KeyError("k")), SystemExit(2)))
    assert code == "skill_error"
    assert message == (
        "4 errors: busy: busy; bad_key: bad key; KeyError: 'k'; the handler raised SystemExit(2)"
    )


def test_members_that_share_a_code_give_it_to_their_group() -> None:
    assert failure_of(group(BUSY, SLOW)).code == "busy"
    assert failure_of(group(group(BUSY))) == ("busy", "busy")


def test_a_group_is_retried_only_when_each_member_may_be() -> None:
    policy = RetryPolicy(max_retries=1, on=(ConnectionError,))
    assert policy.applies_to(group(BUSY, SLOW, ConnectionResetError()), 0)
    assert not policy.applies_to(group(BUSY, BAD_KEY), 0)
    assert not policy.applies_to(group(BUSY, SystemExit()), 0)
    assert not policy.applies_to(group(BUSY, SLOW), 1)


def test_a_group_whose_type_is_listed_is_retried_unless_a_member_forbids_it() -> None:
    policy = RetryPolicy(max_retries=1, on=(ExceptionGroup,))
    assert policy.applies_to(group(BAD_KEY, ValueError()), 0)
    assert not policy.applies_to(group(BUSY, InvalidArgumentsError("x")), 0)


def test_a_group_waits_for_its_slowest_member() -> None:
    assert retry_after_of(group(BUSY, ValueError(), group(SLOW))) == 30


def test_a_group_of_cancellations_is_one_and_any_other_is_none() -> None:
    assert is_cancellation(group(CancelledByCaller("a"), group(CancelledByCaller("b"))))
    assert not is_cancellation(group(CancelledByCaller("a"), ValueError()))
    assert not is_cancellation(asyncio.CancelledError())


def test_a_group_that_holds_itself_many_times_is_read_once() -> None:
    error = group(BUSY, SLOW)
    for _ in range(5000):
        error = group(error, error)
    assert leaves(error) == (BUSY, SLOW)


def test_the_message_of_many_members_is_bounded_and_each_has_its_share() -> None:
    long = [SkillError(f"number {n} " + "word " * 10_000) for n in range(20)]
    message = failure_of(group(*long)).message
    assert len(message) <= MOST_MESSAGE_CHARS + 100
    assert all(f"number {n} word" in message for n in range(20))
    assert failure_of(group(*map(ValueError, range(1000)))).message.endswith("; 950 more")


agent = Agent("failing")


@agent.skill(max_retries=3)
async def fails(ctx: RunContext, how: str) -> int:
    if ctx.attempt == 2:
        return ctx.attempt
    now = SkillError("busy", code="busy", retryable=True, retry_after=0)
    errors: dict[str, list[Exception]] = {
        "retried": [now, SkillError("again", retryable=True, retry_after="no time")],
        "mixed": [now, BAD_KEY],
        "cancelled and wrong": [CancelledByCaller("x"), ValueError("wrong")],
        "cancelled": [CancelledByCaller("x"), CancelledByCaller("y")],
    }
    raise ExceptionGroup("several", errors[how])


async def outcome(skill: Skill[..., Any], ctx: LocalRunContext[Any], **arguments: Any) -> Any:
    """The result of a run, or the error that reports its end."""
    try:
        return await run_to_end(skill, ctx, arguments)
    except RunError as error:
        return error


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("mixed", RunFailed, "2 errors: busy: busy; bad_key: bad key"),
        ("cancelled and wrong", RunFailed, "ValueError: wrong"),
        ("cancelled", RunCancelled, "x"),
    ],
)
async def test_a_run_ends_as_its_group_says(how: str, kind: type[Exception], message: str) -> None:
    end = await outcome(fails, LocalRunContext(auth=NoAuth()), how=how)
    assert isinstance(end, kind)
    assert message in str(end)


async def test_a_run_is_tried_again_after_a_group_of_errors_that_may_pass() -> None:
    assert await outcome(fails, LocalRunContext(auth=NoAuth()), how="retried") == 2


@agent.skill(max_retries=3)
async def fails_late(ctx: RunContext, how: str) -> None:
    assert ctx.deadline is not None
    match how:
        case "by itself":
            while datetime.now(UTC) < ctx.deadline:
                time.sleep(0.01)  # noqa: ASYNC251 - its end and its deadline come at once
            raise SkillError("late", retryable=True, retry_after=0)
        case "for its child":
            raise ExceptionGroup("child", [RunTimedOut("x", run_id="child", deadline=ctx.deadline)])
        case "for its child's own time":
            end = ctx.deadline - timedelta(seconds=0.01)
            raise RunTimedOut("x", run_id="child", deadline=end)


@pytest.mark.parametrize(
    ("how", "seconds", "kind"),
    [
        ("by itself", 0.05, RunTimedOut),
        ("for its child", 600, RunTimedOut),
        ("for its child's own time", 600, RunFailed),
    ],
)
async def test_a_run_that_fails_for_its_deadline_is_timed_out(
    how: str, seconds: float, kind: type[RunError]
) -> None:
    ctx = LocalRunContext(auth=NoAuth())
    ctx.deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    end = await outcome(fails_late, ctx, how=how)
    assert type(end) is kind
    assert (end.code, end.run_id) == ("deadline_exceeded", ctx.task_id)


@agent.skill
async def fails_when_cancelled(ctx: RunContext) -> None:
    try:
        while True:
            await ctx.check_cancelled()
    except CancelledByCaller:
        raise ValueError("while cleaning up") from None


async def test_a_cancelled_run_that_fails_is_cancelled() -> None:
    ctx = LocalRunContext(auth=NoAuth())
    asyncio.get_running_loop().call_soon(ctx.cancel, "enough")
    end = await outcome(fails_when_cancelled, ctx)
    assert type(end) is RunCancelled
