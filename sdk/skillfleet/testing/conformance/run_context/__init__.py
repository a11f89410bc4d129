"""Conformance of runtimes: an agent that tries every member of `RunContext`, and its results.

A runtime's test runs the skills of `agent` for each of `CASES`, with the claims `AUTH` and the
secrets `SECRETS`, collects an `Observed`, and passes it to `assert_conforms`:

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
    def test_the_runtime_conforms(case):
        assert_conforms(case, run_with_the_runtime(case))

`CALLED_BY_OTHERS` are skills that only other skills of the agent call. There is one module for
each subject; `table.py` has the form of a case.
"""

from skillfleet.testing.conformance.run_context import (
    artifacts,
    budgets,
    calls,
    capabilities,
    endings,
    events,
    identity,
    sessions,
    steps,
    waits,
)
from skillfleet.testing.conformance.run_context.table import (
    AUTH,
    SECRETS,
    Case,
    Observed,
    Reject,
    agent,
    assert_conforms,
)

CASES: tuple[Case, ...] = (
    *identity.CASES,
    *events.CASES,
    *artifacts.CASES,
    *capabilities.CASES,
    *endings.CASES,
    *calls.CASES,
    *budgets.CASES,
    *sessions.CASES,
    *steps.CASES,
    *waits.CASES,
)

CALLED_BY_OTHERS = frozenset({"calls_back", "echo", "leaf", "unique", "who_calls"})

__all__ = [
    "AUTH",
    "CALLED_BY_OTHERS",
    "CASES",
    "SECRETS",
    "Case",
    "Observed",
    "Reject",
    "agent",
    "assert_conforms",
]
