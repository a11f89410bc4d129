"""A model of what a run records and waits for: the part of `ModelRun` about durable runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from skillfleet.contracts import RunState, WaitKind, WaitOutcome
from skillfleet.ports.journal import Decision, WaitSpec
from skillfleet_ledger.runs.records import Lease, Submission, WriteResult
from skillfleet_ledger.runs.waits import DecideStatus

MAX_DELIVERIES = 2
MOST_LOST = 10 * MAX_DELIVERIES
QUESTIONS = (WaitKind.ASK, WaitKind.GRANT)
HIDDEN = (WaitKind.TIMER, WaitKind.CALL)


@dataclass
class ModelWait:
    """An open wait. `called` is the run that one of kind `call` waits for."""

    spec: WaitSpec
    expires: bool
    called: "ModelWaits | None" = None
    decision: Decision | None = None
    due: bool = False

    @property
    def is_shown(self) -> bool:
        return self.spec.kind not in HIDDEN


@dataclass
class ModelWaits:
    """The expected journal, waits and inbox of a run; every method is one script."""

    new: Submission
    state: RunState = RunState.QUEUED
    token: int = 0
    seq: int = 0
    cancelled: bool = False
    lapsed: bool = False
    lost: int = 0
    given_back: int = 0
    parking: int = 0
    """The token of the attempt that was parked and whose handler may still execute; 0 without."""
    parking_due: bool = False
    noted: bool = False
    has_journal: bool = False
    journal: dict[str, bytes | None] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    seen: int = 0
    lost_free: int = 0
    waits: dict[str, ModelWait] = field(default_factory=dict)
    opened: int = 0
    announced: bool = False
    known: dict[str, tuple[WaitOutcome, bytes]] = field(default_factory=dict)
    """Answers and rejections by wait, of closed ones as well."""
    inbox: list[bytes] = field(default_factory=list)

    @property
    def waiting(self) -> list[WaitKind]:
        """The kinds of all undecided waits."""
        return [wait.spec.kind for wait in self.waits.values() if wait.decision is None]

    def holds(self, lease: Lease) -> bool:
        return self.state is RunState.RUNNING and lease.token == self.token

    def wake(self) -> bool:
        """Return True when the run was parked and is queued now."""
        if self.state is not RunState.WAITING:
            return False
        if self.parking:
            self.noted = True
            return False
        self.state = RunState.QUEUED
        return True

    def end_parking(self, token: int) -> bool:
        """Return True when the run continues now."""
        if not self.parking or self.parking != token:
            return False
        noted, self.noted = self.noted, False
        self.parking, self.parking_due = 0, False
        return noted and self.wake()

    def announce(self) -> None:
        """Write the change of the state that the run shows."""
        if bool(self.waiting) != self.announced:
            self.announced = bool(self.waiting)
            self.seq += 1

    def start_attempt(self) -> None:
        """Play what a claim does with what earlier attempts have left."""
        void = self.unfinished - set(self.journal)
        self.seq += len(void) + 1 + bool(self.waiting)
        self.unfinished -= void
        self.announced = bool(self.waiting)

    def count_loss(self) -> None:
        if self.lost + self.lost_free + 1 >= MOST_LOST:
            self.lost = MAX_DELIVERIES
        elif self.has_journal and len(self.journal) > self.seen:
            self.lost_free += 1
            self.seen = len(self.journal)
        else:
            self.lost += 1

    def append_steps(self, lease: Lease, first: int, steps: Sequence[str]) -> int | None:
        """Append an event for each step; '' is one outside of steps."""
        if not self.holds(lease):
            return None
        if first <= self.seq + 1:
            appended = list(steps)[self.seq + 1 - first :]
            self.seq += len(appended)
            self.unfinished |= set(filter(None, appended))
            self.has_journal |= bool(appended)
        return self.seq

    def record(self, lease: Lease, identity: str, value: bytes | None) -> WriteResult:
        if not self.holds(lease):
            return WriteResult.LOST
        if identity not in self.journal:
            self.journal[identity] = value
            self.has_journal = True
            self.unfinished.discard(identity)
        return WriteResult.RECORDED

    def drop(self, identities: Sequence[str]) -> None:
        for identity in identities:
            self.journal.pop(identity, None)

    def open(
        self, lease: Lease, seq: int, spec: WaitSpec, called: "ModelWaits | None", *, expires: bool
    ) -> tuple[WriteResult, str]:
        if not self.holds(lease):
            return WriteResult.LOST, ""
        other = None
        for wait_id, wait in self.waits.items():
            if wait.spec.identity == spec.identity:
                if wait.spec == spec:
                    return WriteResult.RECORDED, wait_id
                other = wait_id
        if seq != self.seq:
            return WriteResult.GAP, ""
        if other is not None:
            self._close(other)
        self.opened += 1
        wait = ModelWait(spec, expires, called)
        self.waits[str(self.opened)] = wait
        self.has_journal = True
        self.seq += wait.is_shown
        self.announce()
        return WriteResult.RECORDED, str(self.opened)

    def _close(self, wait_id: str) -> None:
        wait = self.waits.pop(wait_id)
        if wait.decision is not None and wait.decision.outcome is WaitOutcome.EXPIRED:
            del self.known[wait_id]
        self.seq += wait.is_shown
        self.announce()

    def close(self, lease: Lease, seq: int, wait_id: str, value: bytes) -> WriteResult:
        identity = self.waits[wait_id].spec.identity if wait_id in self.waits else wait_id
        if not self.holds(lease):
            return WriteResult.LOST
        if seq != self.seq:
            return WriteResult.RECORDED if identity in self.journal else WriteResult.GAP
        if identity not in self.journal:
            self.journal[identity] = value
            if wait_id in self.waits:
                self._close(wait_id)
        return WriteResult.RECORDED

    def withdraw(self, lease: Lease, seq: int, wait_id: str) -> WriteResult:
        if not self.holds(lease):
            return WriteResult.LOST
        if wait_id in self.waits:
            if seq != self.seq:
                return WriteResult.GAP
            self._close(wait_id)
        return WriteResult.RECORDED

    def reopen(self, lease: Lease, seq: int, wait_id: str) -> WriteResult:
        if not self.holds(lease):
            return WriteResult.LOST
        wait = self.waits.get(wait_id)
        if wait is not None and wait.decision is not None:
            if seq != self.seq:
                return WriteResult.GAP
            wait.decision = None
            del self.known[wait_id]
            self.seq += wait.is_shown
            self.announce()
        return WriteResult.RECORDED

    def decide(self, wait_id: str, decision: Decision) -> tuple[DecideStatus, bool]:
        given = (decision.outcome, decision.value)
        if wait_id in self.known:
            same = self.known[wait_id] == given
            return (DecideStatus.SAME if same else DecideStatus.CONFLICT), False
        if self.state.terminal:
            return DecideStatus.ENDED, False
        wait = self.waits.get(wait_id)
        if wait is None:
            was_opened = int(wait_id) <= self.opened
            return (DecideStatus.CONFLICT if was_opened else DecideStatus.UNKNOWN), False
        if decision.outcome is WaitOutcome.EXPIRED:
            if not wait.due:
                return DecideStatus.EARLY, False
        elif wait.spec.kind not in QUESTIONS:
            return DecideStatus.UNKNOWN, False
        wait.decision = decision
        self.known[wait_id] = given
        return DecideStatus.DECIDED, self.wake()

    def expire(self) -> bool:
        """Play the reaper's part; return True when the run was parked and is queued now."""
        woken = False
        for wait_id, wait in self.waits.items():
            if wait.due and wait.decision is None:
                woken |= self.decide(wait_id, Decision(WaitOutcome.EXPIRED))[1]
        return woken

    def send(self, value: bytes) -> tuple[bool, bool]:
        """Return whether the message was sent, and whether it has woken the run."""
        if self.state.terminal:
            return False, False
        self.inbox.append(value)
        self.has_journal = True
        return True, WaitKind.MESSAGE in self.waiting and self.wake()

    def receive(
        self, lease: Lease, seq: int, identity: str, wait_id: str
    ) -> tuple[WriteResult, bytes | None]:
        if not self.holds(lease):
            return WriteResult.LOST, None
        if identity in self.journal:
            return WriteResult.RECORDED, self.journal[identity]
        if seq != self.seq:
            return WriteResult.GAP, None
        if not self.inbox:
            return WriteResult.EMPTY, None
        self.journal[identity] = self.inbox.pop(0)
        self.has_journal = True
        if wait_id:
            self._close(wait_id)
        return WriteResult.RECORDED, self.journal[identity]

    def park(self, lease: Lease, seq: int, awaited: Sequence[str]) -> WriteResult:
        if self.given_back == lease.token:
            return WriteResult.PARKED
        if not self.holds(lease):
            return WriteResult.LOST
        if seq != self.seq:
            return WriteResult.GAP
        if self.cancelled or not awaited or not all(map(self._still_awaited, awaited)):
            return WriteResult.REFUSED
        self.given_back = lease.token
        self.state = RunState.WAITING
        self.parking, self.parking_due, self.noted = lease.token, self.lapsed, False
        self.token += 1
        self.lapsed = False
        return WriteResult.PARKED

    def _still_awaited(self, wait_id: str) -> bool:
        wait = self.waits.get(wait_id)
        if wait is None or wait.decision is not None:
            return False
        if wait.spec.kind is WaitKind.MESSAGE:
            return not self.inbox
        return wait.called is None or not wait.called.state.terminal
