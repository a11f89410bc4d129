"""Timers: pauses whose end is kept in the ledger."""

from skillfleet.contracts import EntryKind
from skillfleet.durable.journal import Journal
from skillfleet.durable.spans import entry_span
from skillfleet.ports.journal import Entry, WaitSpec


async def wait_for_timer(journal: Journal, spec: WaitSpec) -> Entry:
    """Return at the end of a timer, which may have begun in an earlier attempt; its entry."""
    started = journal.start(spec.identity, EntryKind.TIMER, spec.name)
    wait_id = await journal.open_wait(spec)
    with entry_span(EntryKind.TIMER, spec.name, spec.identity):
        await journal.store.decision(wait_id)
    entry = journal.entry(started, b"null")
    await journal.record(entry, wait_id)
    return entry
