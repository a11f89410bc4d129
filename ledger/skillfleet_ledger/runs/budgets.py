"""Budgets of calls and tokens: a run's own, and those of the runs above it."""

from skillfleet.errors import BudgetExhaustedError, LimitExceededError
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.records import Lease

USED_UP = {b"no_calls": "calls", b"no_tokens": "tokens"}
"""The budget that a script's reply reports as used up."""
CALLER_ENDED = "the calling run has ended or is being cancelled"


class Budgets(RunOperations):
    """Charges runs and reads what they were given."""

    async def charge_tokens(self, run_id: str, tokens: int) -> bool:
        """Charge tokens to the budgets of the run and those above it; True when one is used up."""
        return bool(await self._run("charge_tokens", run_id, tokens))

    async def charge_call(self, lease: Lease) -> None:
        """Charge the call of a remote agent to the budgets of the run and those above it.

        Raises BudgetExhaustedError, and LimitExceededError for a run that may make no more calls.
        Repeated after a lost reply it may charge two: a budget errs on the strict side.
        """
        reply = await self._run("charge_call", lease.run_id, lease.token)
        if reply in USED_UP:
            raise BudgetExhaustedError(f"the tree's budget of {USED_UP[reply]} is used up")
        if reply:
            raise LimitExceededError(CALLER_ENDED)

    async def limits(self, run_id: str) -> tuple[int | None, int | None]:
        """Return the calls and tokens that the run was given at enqueue; None: no limit."""
        found = await self._connection.execute(
            "HMGET", self._key("run", run_id), "budget_calls", "budget_tokens"
        )
        calls, tokens = (None if value is None else int(value) for value in found)
        return calls, tokens
