"""The decision whether a failed attempt is retried, and after what delay."""

from collections.abc import Callable
from dataclasses import dataclass

from skillfleet.contracts import MOST_SECONDS
from skillfleet.errors import (
    CancelledByCaller,
    InvalidArgumentsError,
    LimitExceededError,
    MissingScopes,
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
    """The retries of a run: their number, the errors they follow, and the backoff in seconds.

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
        members = leaves(error)
        if retries >= self.max_retries or any(isinstance(one, _NEVER_RETRIED) for one in members):
            return False
        if isinstance(error, self.on):
            return True
        return all(is_retryable(one) or isinstance(one, self.on) for one in members)


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
