"""Replay: what a recorded entry gives to a later attempt."""

from typing import Any

from skillfleet.durable.failures import recorded_error
from skillfleet.durable.journal import Journal
from skillfleet.durable.values import ValueType
from skillfleet.errors import NestedStepError
from skillfleet.ports.journal import Entry


async def replayed(journal: Journal, entry: Entry, kind: ValueType) -> Any:
    """Return the value of a recorded entry, or raise its failure; the task has passed it."""
    if entry.failure is not None:
        journal.passed(entry)
        error = recorded_error(entry, entry.failure)
        journal.raised(error, entry.identity)
        raise error
    encoded = await journal.value(entry)
    if kind.secret:
        encoded = await journal.store.reveal(encoded)
    journal.passed(entry)
    return kind.decode(encoded)


def refuse_nested(journal: Journal, what: str) -> None:
    """Raise `NestedStepError` inside of a step."""
    if journal.positions.step is not None:
        raise NestedStepError(
            f"{what} is inside of a step: steps and waits belong to the handler, one after another"
            " or at once; call the function directly"
        )
