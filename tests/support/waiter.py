"""A worker's side of one run, played by a test: it opens waits, records entries, parks."""

from collections.abc import Mapping
from typing import Any

from skillfleet.contracts import EntryKind, WaitKind
from skillfleet.ports.journal import Decision, Entry, WaitSpec
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult

BOOLEAN = {"type": "boolean"}


class Waiter:
    """An attempt that does nothing but wait."""

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        self.ledger = ledger
        self.lease = lease
        self.seq = lease.seq
        self._entries = 0

    async def opens(
        self,
        schema: Mapping[str, Any] | None = BOOLEAN,
        kind: str = "ask",
        *,
        expires_ms: int | None = None,
        **spec: Any,
    ) -> str:
        """Open a wait and return its id."""
        name = spec.pop("identity", kind)
        question = spec.pop("question", "Deploy?")
        wait = WaitSpec(name, WaitKind(kind), name, question, schema, **spec)
        written = await self.ledger.waits.open(self.lease, self.seq, wait, expires_ms)
        assert written.result is WriteResult.RECORDED
        self.seq = written.seq
        return written.wait_id

    async def consumes(self, wait_id: str) -> None:
        """Record what the wait was decided to be, and close it."""
        decision = await self.decision(wait_id)
        entry = self.entry(EntryKind.ASK, f"ask-{wait_id}", decision.value)
        written = await self.ledger.waits.close(self.lease, self.seq, wait_id, entry, {})
        assert written.result is WriteResult.RECORDED
        self.seq = written.seq

    async def records(self, name: str, value: bytes | None, **more: Any) -> None:
        """Record a step."""
        entry = self.entry(EntryKind.STEP, name, value, **more)
        written = await self.ledger.journals.record(
            self.lease, entry, {}, version="1", clears_step=False
        )
        assert written is WriteResult.RECORDED

    def entry(self, kind: EntryKind, name: str, value: bytes | None, **more: Any) -> Entry:
        """Return the next entry, which took a quarter of a second."""
        self._entries += 1
        identity, size = f"{kind}/{name}#{self._entries}", len(value or b"")
        return Entry(
            identity, self._entries, kind, name, self.lease.attempt, 1000, 250, value, size, **more
        )

    async def parks(self, *awaited: str) -> None:
        """Give the lease back while it waits for these."""
        assert await self.ledger.leases.park(self.lease, self.seq, awaited) is WriteResult.PARKED
        await self.ledger.leases.end_parking(self.lease)

    async def decision(self, wait_id: str) -> Decision:
        """The decision of a wait, which it must have."""
        found = await self.ledger.waits.decision(self.lease.run_id, wait_id)
        assert found is not None
        return found
