"""What every RunContext must do: an agent that tries it, and a table of what must come out.

One file a subject; `table.py` says how a row is made and judged.
"""

from tests.sdk.conformance import artifacts, budgets, calls, capabilities, endings, events, identity
from tests.sdk.conformance.table import (
    AUTH,
    SECRETS,
    Case,
    Observed,
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
)

__all__ = ["AUTH", "CASES", "SECRETS", "Case", "Observed", "agent", "assert_conforms"]
