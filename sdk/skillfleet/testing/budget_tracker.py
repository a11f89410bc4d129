"""The budgets of a tree of runs in this process."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from skillfleet.contracts import Budget
from skillfleet.errors import BudgetExhaustedError


@dataclass
class _Remaining:
    """The rest of one budget; None without a limit."""

    calls: int | None
    tokens: int | None


class BudgetTracker:
    """The budget of one run and of all runs it calls; `parent` is its caller's tracker.

    It counts like the fleet's ledger: a call takes one call from every budget up to the root,
    each of which must have one left; tokens are charged after their use, so the last ones may
    overdraw.
    """

    def __init__(self, budget: Budget | None = None, parent: "BudgetTracker | None" = None) -> None:
        budget = budget or Budget()
        inherited = parent.left if parent is not None else ()
        self.left: tuple[_Remaining, ...] = (_Remaining(budget.calls, budget.tokens), *inherited)
        """The rest of this budget, then of the caller's, up to the root's."""
        self.ends: datetime | None = parent.ends if parent is not None else None
        """The end of the tree's time (UTC), once it began; None without a limit."""
        self._seconds = budget.seconds

    def begin(self) -> None:
        """Start the budget of time; a second call does nothing."""
        if self._seconds is not None:
            own = datetime.now(UTC) + timedelta(seconds=self._seconds)
            self.ends = own if self.ends is None else min(own, self.ends)
            self._seconds = None

    def charge_call(self) -> None:
        """Charge one call to every budget; raises BudgetExhaustedError and charges none then."""
        for left in self.left:
            if left.calls is not None and left.calls < 1:
                raise BudgetExhaustedError("the tree's budget of calls is used up")
            if left.tokens is not None and left.tokens < 1:
                raise BudgetExhaustedError("the tree's budget of tokens is used up")
        for left in self.left:
            if left.calls is not None:
                left.calls -= 1

    def charge_tokens(self, tokens: int) -> bool:
        """Charge tokens to every budget; True when one of them is used up now."""
        exhausted = False
        for left in self.left:
            if left.tokens is not None:
                left.tokens -= tokens
                exhausted |= left.tokens < 1
        return exhausted
