"""What a tree of runs in this process has left of its budgets."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from skillfleet.contracts import Budget
from skillfleet.errors import BudgetExhaustedError


@dataclass
class _Left:
    """What is left of one budget; None for what it leaves open."""

    calls: int | None
    tokens: int | None


class Purse:
    """The budget of one run and of all that it calls; `above` is that of whoever called it.

    Counts as the fleet's ledger does: a call needs something left of every budget above it and
    takes one from each; tokens are charged when they were used, so the last ones may overdraw.
    """

    def __init__(self, budget: Budget | None = None, above: "Purse | None" = None) -> None:
        budget = budget or Budget()
        higher = above.left if above is not None else ()
        self.left: tuple[_Left, ...] = (_Left(budget.calls, budget.tokens), *higher)
        """This budget's, and that of all above."""
        self.ends: datetime | None = above.ends if above is not None else None
        """When the tree's time is up (UTC), once it began; None when it is not bounded."""
        self._seconds = budget.seconds

    def begin(self) -> None:
        """The run may start: its budget of time runs from now on. A second call does nothing."""
        if self._seconds is not None:
            own = datetime.now(UTC) + timedelta(seconds=self._seconds)
            self.ends = own if self.ends is None else min(own, self.ends)
            self._seconds = None

    def take_call(self) -> None:
        """Take one call out of every budget; raises BudgetExhaustedError and takes none then."""
        for left in self.left:
            if left.calls is not None and left.calls < 1:
                raise BudgetExhaustedError("the tree's budget of calls is used up")
            if left.tokens is not None and left.tokens < 1:
                raise BudgetExhaustedError("the tree's budget of tokens is used up")
        for left in self.left:
            if left.calls is not None:
                left.calls -= 1

    def spend(self, tokens: int) -> bool:
        """Charge tokens to every budget; True when one of them is used up by now."""
        exhausted = False
        for left in self.left:
            if left.tokens is not None:
                left.tokens -= tokens
                exhausted |= left.tokens < 1
        return exhausted
