"""A model of one run in plain Python: the promises of the ledger's scripts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from skillfleet.contracts import RunState, WaitKind
from skillfleet_ledger.runs.records import ClaimStatus, Lease, WriteResult
from tests.ledger.model_waits import MAX_DELIVERIES, ModelWaits

MOST_RELEASES = 100
IDLE = (RunState.QUEUED, RunState.WAITING)


@dataclass
class ModelRun(ModelWaits):
    """The expected state of a run; every method is one script."""

    attempt: int = 0
    delayed: bool = False
    due: bool = False
    released: int = 0
    overdue: bool = False
    orphaned: int = 0
    claim_id: str = ""
    settled: int = 0
    leases: list[Lease] = field(default_factory=list)
    parent: "ModelRun | None" = None
    children: list["ModelRun"] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """True when it has ended or must end: runs below it may not start any more."""
        return self.cancelled or self.state.terminal

    @property
    def spent(self) -> bool:
        """True when it was given back too often and only waits for its end."""
        return self.state is RunState.QUEUED and self.lost >= MAX_DELIVERIES

    @property
    def calls(self) -> bool:
        """True when it has to end a run that it called."""
        return self.over and not all(child.over for child in self.children)

    def end(self, state: RunState) -> None:
        assert not self.state.terminal
        self.state = state
        self.seq += 1
        self.lapsed = self.delayed = False
        self.waits.clear()
        caller = self.parent
        if caller and caller.has_journal and WaitKind.CALL in caller.waiting:
            caller.wake()

    def claim(self, claim_id: str) -> ClaimStatus:
        if self.state is RunState.RUNNING:
            same = claim_id == self.claim_id and self.orphaned != self.token
            return ClaimStatus.CLAIMED if same else ClaimStatus.DUPLICATE
        if self.state is RunState.WAITING:
            return ClaimStatus.DUPLICATE
        if self.state.terminal:
            return ClaimStatus.ENDED
        if refused := self._refused():
            return refused
        self.state = RunState.RUNNING
        self.token += 1
        self.attempt += 1
        self.start_attempt()
        self.claim_id = claim_id
        self.delayed = self.due = self.lapsed = False
        return ClaimStatus.CLAIMED

    def _refused(self) -> ClaimStatus | None:
        self.cancelled |= self.parent is not None and self.parent.over
        if self.cancelled:
            return ClaimStatus.CANCELLED
        if self.spent:
            return ClaimStatus.EXHAUSTED
        if self.overdue:
            return ClaimStatus.OVERDUE
        return ClaimStatus.EARLY if self.delayed and not self.due else None

    def append(self, lease: Lease, first: int, count: int) -> int | None:
        if not self.holds(lease):
            return None
        if first <= self.seq + 1:
            self.seq = max(self.seq, first + count - 1)
        return self.seq

    def settle(self, lease: Lease, seq: int, state: RunState) -> WriteResult:
        if lease.token == self.token and self.settled == lease.token:
            return WriteResult.SETTLED
        if not self.holds(lease):
            return WriteResult.LOST
        if seq != self.seq:
            return WriteResult.GAP
        self.settled = lease.token
        self.end(state)
        return WriteResult.SETTLED

    def requeue(
        self, lease: Lease, seq: int, outcome: str, dropped: Sequence[str] = (), *, delay: bool
    ) -> WriteResult:
        if self.given_back == lease.token:
            return WriteResult.REQUEUED
        if not self.holds(lease):
            return WriteResult.LOST
        if seq != self.seq:
            return WriteResult.GAP
        self.given_back = lease.token
        self.drop(dropped)
        self._queue()
        self.token += 1
        self.delayed, self.due = delay, False
        if outcome == "released":
            self.released += 1
            self.lost += self.released > MOST_RELEASES
        return WriteResult.REQUEUED

    def _queue(self) -> None:
        self.state = RunState.QUEUED
        self.seq += 1
        self.lapsed = False

    def renew(self, lease: Lease) -> str:
        if not self.holds(lease):
            return "lost"
        self.lapsed = False
        return "!enough" if self.cancelled else ""

    def cancel(self) -> bool:
        if self.state in IDLE:
            self.end(RunState.CANCELLED)
            cancelled = True
        else:
            cancelled = self.state is RunState.RUNNING
            self.cancelled |= cancelled
        for child in self.children:
            child.cancel()
        return cancelled

    def mark(self) -> str:
        """Play the first step of a cancellation, after which its caller may die."""
        if self.state.terminal:
            return "ended"
        if self.children:
            self.cancelled = True
            return "marked"
        if self.state in IDLE:
            self.end(RunState.CANCELLED)
            return "cancelled"
        self.cancelled = True
        return "asked"

    def clean_up(self) -> None:
        """Play the reaper's work for a run with a cleanup."""
        if self.cancelled and not self.state.terminal:
            self.cancel()
        else:
            for child in self.children:
                child.cancel()

    def end_unclaimed(self, token: int | None) -> str:
        if self.state.terminal:
            return "ended_before"
        if token != self.token and not (token is None and self.state in IDLE):
            return "changed"
        self.end(RunState.DEAD)
        return "ended_now"

    def reap(self, *, cleanup: bool) -> set[str]:
        """Return the reaper's decision: 'publish', 'cleanups', or why the run must be ended.

        `cleanup`: its cleanup is due.
        """
        found = set()
        if self.state is RunState.RUNNING and self.lapsed:
            found.add(self._reap_lapsed())
        if cleanup and self.calls:
            found.add("cleanups")
        elif cleanup and self.state in IDLE and (self.cancelled or self.spent):
            found.add("cancelled" if self.cancelled else "released")
        if self.state is RunState.QUEUED and self.delayed and self.due:
            self.delayed = self.due = False
            found.add("publish")
        if self.expire():
            found.add("publish")
        if self.parking_due and self.end_parking(self.parking):
            found.add("publish")
        return found

    def _reap_lapsed(self) -> str:
        # A candidate's lease is read again some seconds later.
        self.lapsed = False
        if self.orphaned != self.token:
            self.count_loss()
            self.token += 1
            self.orphaned = self.token
        if self.cancelled:
            return "cancelled"
        if self.overdue:
            return "overdue"
        if self.lost >= MAX_DELIVERIES:
            return "dead"
        self._queue()
        return "publish"
