"""The limits of a tree of runs: no cycles, and no more than its budget."""

import pytest

from skillfleet.errors import BudgetExhaustedError, LimitExceededError
from skillfleet_ledger import Ledger
from tests.ledger.helpers import child_of, claimed, running


async def test_the_same_call_below_itself_is_a_cycle_at_any_depth(ledger: Ledger) -> None:
    root = await running(ledger)
    between = child_of(root, root.run_id)
    await ledger.submissions.submit(between)
    lease = await claimed(ledger, between.id)
    again = child_of(lease, root.run_id, digest="d1")
    with pytest.raises(LimitExceededError, match="cycle"):
        await ledger.submissions.submit(again)
    assert await ledger.submissions.submit(child_of(lease, root.run_id, digest="d1", skill="other"))
    assert await ledger.submissions.submit(child_of(lease, root.run_id, digest="d1", agent="other"))


async def test_the_same_call_beside_itself_is_not_a_cycle(ledger: Ledger) -> None:
    root = await running(ledger)
    assert await ledger.submissions.submit(child_of(root, root.run_id, digest="same"))
    assert await ledger.submissions.submit(child_of(root, root.run_id, digest="same"))


async def test_a_budget_of_calls_counts_all_that_is_below_it(ledger: Ledger) -> None:
    root = await running(ledger, budget_calls=2)
    child = child_of(root, root.run_id)
    await ledger.submissions.submit(child)
    lease = await claimed(ledger, child.id)
    await ledger.submissions.submit(child_of(lease, root.run_id))
    with pytest.raises(BudgetExhaustedError, match="calls"):
        await ledger.submissions.submit(child_of(root, root.run_id, digest="third"))


async def test_a_called_runs_own_budget_narrows_its_part_of_the_tree(ledger: Ledger) -> None:
    root = await running(ledger, budget_calls=10)
    child = child_of(root, root.run_id, budget_calls=1)
    await ledger.submissions.submit(child)
    lease = await claimed(ledger, child.id)
    await ledger.submissions.submit(child_of(lease, root.run_id))
    with pytest.raises(BudgetExhaustedError):
        await ledger.submissions.submit(child_of(lease, root.run_id, digest="second"))
    assert await ledger.submissions.submit(child_of(root, root.run_id, digest="remote"))


async def test_a_repeated_call_is_charged_once(ledger: Ledger) -> None:
    root = await running(ledger, budget_calls=1)
    child = child_of(root, root.run_id)
    assert await ledger.submissions.submit(child)
    assert not await ledger.submissions.submit(child)


async def test_tokens_are_charged_to_every_budget_above(ledger: Ledger) -> None:
    root = await running(ledger, budget_tokens=100)
    child = child_of(root, root.run_id, budget_tokens=50)
    await ledger.submissions.submit(child)
    lease = await claimed(ledger, child.id)
    assert not await ledger.budgets.charge_tokens(child.id, 49)
    assert await ledger.budgets.charge_tokens(child.id, 1)
    assert not await ledger.budgets.charge_tokens(root.run_id, 49)
    assert await ledger.budgets.charge_tokens(root.run_id, 1)
    with pytest.raises(BudgetExhaustedError, match="tokens"):
        await ledger.submissions.submit(child_of(lease, root.run_id))


async def test_tokens_without_a_budget_or_a_run_leave_no_trace(ledger: Ledger) -> None:
    root = await running(ledger)
    assert not await ledger.budgets.charge_tokens(root.run_id, 10)
    assert not await ledger.budgets.charge_tokens("unknown", 10)
    assert await ledger.queries.invocation("unknown") is None


async def test_a_remote_call_is_charged_by_every_budget_above(ledger: Ledger) -> None:
    root = await running(ledger, budget_calls=3)
    child = child_of(root, root.run_id, budget_calls=5)
    await ledger.submissions.submit(child)
    lease = await claimed(ledger, child.id)
    await ledger.budgets.charge_call(lease)
    await ledger.budgets.charge_call(root)
    for caller in (lease, root):
        with pytest.raises(BudgetExhaustedError, match="calls"):
            await ledger.budgets.charge_call(caller)
    with pytest.raises(BudgetExhaustedError, match="calls"):
        await ledger.submissions.submit(child_of(root, root.run_id, digest="another"))


async def test_a_remote_call_is_refused_once_the_tokens_are_used_up(ledger: Ledger) -> None:
    root = await running(ledger, budget_tokens=10)
    await ledger.budgets.charge_call(root)
    await ledger.budgets.charge_tokens(root.run_id, 10)
    with pytest.raises(BudgetExhaustedError, match="tokens"):
        await ledger.budgets.charge_call(root)


async def test_who_holds_no_lease_or_is_cancelled_makes_no_remote_calls(ledger: Ledger) -> None:
    root = await running(ledger, budget_calls=1)
    for lease in (root._replace(token=root.token + 1), root._replace(run_id="unknown")):
        with pytest.raises(LimitExceededError, match="has ended"):
            await ledger.budgets.charge_call(lease)
    await ledger.cancellation.cancel(root.run_id, "enough")
    with pytest.raises(LimitExceededError, match="is being cancelled"):
        await ledger.budgets.charge_call(root)
