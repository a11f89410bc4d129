"""The decision whether a failed attempt is retried, and after what delay."""

from collections.abc import Callable
from dataclasses import dataclass

from skillfleet.contracts import MOST_SECONDS
from skillfleet.errors import (
    CancelledByCaller,
    InvalidArgumentsError,
    LimitExceededError,
    MissingScopes,
    StepFailed,
    UnauthorizedError,
)
from skillfleet.failures import is_retryable, leaves, retry_after_of

_NEVER_RETRIED = (
    CancelledByCaller,
    InvalidArgumentsError,
    LimitExceededError,
    MissingScopes,
    UnauthorizedError,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The retries of a run or step: number, errors that they follow, backoff in seconds.

    `on` lists exception types that are retried besides errors that are retryable themselves
    (`SkillfleetError.retryable`). A cancellation, a limit of the tree of runs and a caller's
    mistakes are never retried. A group is retried when each of its members is, or when its own
    type is listed and no member forbids it. New attempts after a lost or drained worker are not
    retries and are not counted.
    """

    max_retries: int = 0
    on: tuple[type[Exception], ...] = ()
    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0

    def applies_to(self, error: BaseException, retries: int) -> bool:
        """Return whether a run is retried after `error`, given its `retries` so far."""
        members = [origin for leaf in leaves(error) for origin in _origins(leaf)]
        if retries >= self.max_retries or any(isinstance(one, _NEVER_RETRIED) for one in members):
            return False
        if isinstance(error, self.on):
            return True
        return all(is_retryable(one) or self._lists(one) for one in members)

    def _lists(self, error: BaseException) -> bool:
        if isinstance(error, StepFailed):
            # Of an earlier attempt's step only the name of its error is known.
            return any(kind.__name__ == error.error_type for kind in self.on)
        return isinstance(error, self.on)


def _origins(error: BaseException) -> tuple[BaseException, ...]:
    """Return the errors that failed a step, where they are known; for others the error itself."""
    if isinstance(error, StepFailed) and error.__cause__ is not None:
        return leaves(error.__cause__)
    return (error,)


def backoff(policy: RetryPolicy, retry: int, uniform: Callable[[], float]) -> float:
    """Return the seconds to wait before retry number `retry` (from 1).

    Exponential with full jitter: anywhere between 0 and `base * factor ** (retry - 1)`, but
    at most `cap`, so that runs that failed together are not retried together. `uniform`
    returns a number from 0 up to 1, like `random.random`.
    """
    if retry < 1:
        raise ValueError(f"retry is numbered from 1, got {retry}")
    try:
        ceiling = policy.base * policy.factor ** (retry - 1)
    except OverflowError:
        ceiling = policy.cap
    return min(ceiling, policy.cap) * uniform()


def retry_delay(
    policy: RetryPolicy, error: BaseException, retry: int, uniform: Callable[[], float]
) -> float:
    """Return the seconds to wait before retry number `retry` (from 1) after `error`.

    An error's own `retry_after` is the minimum, whatever the policy's cap; of a group it is the
    longest of its members'. Never more than ten years.
    """
    wanted = retry_after_of(error) or 0.0
    return min(max(backoff(policy, retry, uniform), wanted), float(MOST_SECONDS))
