"""The retry policy and its backoff."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillfleet import CancelledByCaller, MissingScopes, SkillError
from skillfleet.errors import FleetUnavailableError, InvalidArgumentsError, UnauthorizedError
from skillfleet.retry import RetryPolicy, backoff, retry_delay

policies = st.builds(
    RetryPolicy,
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1e3),
    cap=st.floats(0, 1e6),
)
retries = st.integers(1, 10_000)
uniforms = st.floats(0, 1, exclude_max=True)


@given(policies, retries, uniforms)
def test_a_backoff_lies_between_zero_and_the_cap(
    policy: RetryPolicy, retry: int, uniform: float
) -> None:
    assert 0 <= backoff(policy, retry, lambda: uniform) <= policy.cap


@given(policies, retries, uniforms)
def test_a_later_retry_never_waits_less_for_the_same_chance(
    policy: RetryPolicy, retry: int, uniform: float
) -> None:
    earlier = backoff(policy, retry, lambda: uniform)
    assert earlier <= backoff(policy, retry + 1, lambda: uniform)


@given(policies, retries, uniforms)
def test_the_jitter_is_full(policy: RetryPolicy, retry: int, uniform: float) -> None:
    ceiling = backoff(policy, retry, lambda: 1.0)
    assert backoff(policy, retry, lambda: uniform) == pytest.approx(ceiling * uniform)
    assert backoff(policy, retry, lambda: 0.0) == 0


def test_the_default_doubles_from_one_second_to_five_minutes() -> None:
    ceilings = [backoff(RetryPolicy(), retry, lambda: 1.0) for retry in range(1, 12)]
    assert ceilings == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_retries_are_numbered_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        backoff(RetryPolicy(), 0, random.random)


@given(retries, st.floats(0, 1e6))
def test_an_errors_own_wish_is_the_least_that_is_waited(retry: int, wish: float) -> None:
    error = SkillError("busy", retryable=True, retry_after=wish)
    assert retry_delay(RetryPolicy(), error, retry, lambda: 0.0) == wish
    assert retry_delay(RetryPolicy(), error, retry, lambda: 0.999) >= wish


def test_a_plain_error_has_no_wish() -> None:
    assert retry_delay(RetryPolicy(), ValueError(), 3, lambda: 0.5) == 2


@pytest.mark.parametrize(
    ("error", "applies"),
    [
        (SkillError("x", retryable=True), True),
        (FleetUnavailableError("x"), True),
        (ConnectionResetError("x"), True),
        (SkillError("x"), False),
        (ValueError("x"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_errors_that_say_so_or_are_listed_are_retried(error: BaseException, applies: bool) -> None:
    policy = RetryPolicy(max_retries=2, on=(ConnectionError,))
    assert policy.applies_to(error, 0) is applies
    assert policy.applies_to(error, 1) is applies
    assert not policy.applies_to(error, 2)


@pytest.mark.parametrize(
    "error",
    [
        CancelledByCaller("x"),
        MissingScopes(["x"]),
        UnauthorizedError("x"),
        InvalidArgumentsError("x"),
    ],
    ids=repr,
)
def test_a_cancellation_and_a_callers_mistakes_are_never_retried(error: Exception) -> None:
    assert not RetryPolicy(max_retries=9, on=(Exception,)).applies_to(error, 0)


def test_nothing_is_retried_by_default() -> None:
    assert not RetryPolicy().applies_to(SkillError("x", retryable=True), 0)
