"""Admission and claim: turns a delivery into a lease, or into the reason why it gets none."""

import itertools
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from skillfleet.contracts import ReasonCode, RunState
from skillfleet.errors import UnauthorizedError
from skillfleet.ports.admission import Admission, ForeignMessageError
from skillfleet.skills.spec import SkillSpec
from skillfleet.tags import TENANT, value_problem
from skillfleet_ledger.runs.records import Claim, ClaimStatus, EndResult, Lease, RunLimits
from skillfleet_telemetry.metrics import DUPLICATES, RUNS, record, tag_labels
from skillfleet_worker.attempts.delivery import Delivery
from skillfleet_worker.attempts.execution import Registration
from skillfleet_worker.attempts.messages import register_foreign_run
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Outcome,
    Released,
    TimedOut,
    timed_out,
)
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.versions import is_left_to_another, versions_of

logger = logging.getLogger(__name__)


class Claimed(NamedTuple):
    """A lease, for a delivery whose caller was admitted."""

    lease: Lease
    delivery: Delivery
    requested_at: float
    """The time the claim was sent, by the home loop's clock: the lease counts from then."""
    requested_ns: int
    """The same in nanoseconds since the epoch."""


class Claims:
    """Admits callers and claims runs for one process. Concurrency: any number at once."""

    def __init__(self, process: WorkerProcess, admission: Admission) -> None:
        self._process = process
        self._admission = admission
        self._numbers = itertools.count(1)

    async def take(self, served: Registration, delivery: Delivery) -> Claimed | Claim | Outcome:
        """Admit the caller, then claim the run. On the home loop.

        Returns the outcome of a delivery that is refused, and the claim when it gave no lease.
        Raises FleetUnavailableError: the ledger is unchanged then, or repeats the claim's answer.
        """
        try:
            admitted = delivery.admitted(await self._admission.admit(delivery.call))
        except ForeignMessageError:
            message = "a message that is not the run's own was dropped"
            logger.warning("run %s: %s", delivery.run_id, message)
            return Released(message)
        except UnauthorizedError as error:
            return await self._refuse(delivery, error)
        requested_at, requested_ns = self._process.loop_time(), time.time_ns()
        try:
            claim = await self._claim(served, admitted)
        except UnauthorizedError as error:
            return await self._refuse(admitted, error)
        if claim.lease is None:
            record(DUPLICATES, 1, claim.status)
            return claim
        return Claimed(claim.lease, admitted, requested_at, requested_ns)

    async def _refuse(self, delivery: Delivery, error: UnauthorizedError) -> Outcome | Claim:
        """End the run of a caller who may not start it."""
        logger.warning("run %s is refused: %s", delivery.run_id, error)
        foreign = delivery.foreign_record(self._process.settings)
        if foreign is not None:
            await register_foreign_run(self._process.ledger, foreign)
        refused = Failed(error.code, str(error), error)
        closed = await self._process.ledger.leases.end_unclaimed(
            delivery.run_id, delivery.task, refused.end()
        )
        if closed is EndResult.ENDED_BEFORE:
            return Claim(ClaimStatus.ENDED, 0)
        # Its record's tags are not those of a caller who is known.
        labels = tag_labels({}, self._process.settings.tag_keys)
        record(RUNS, 1, delivery.task, RunState.FAILED, *labels)
        return refused

    async def _claim(self, served: Registration, delivery: Delivery) -> Claim:
        spec = served.skill.spec
        claim = await self._claim_as(spec, delivery, versions_of(served.agent))
        if claim.status is not ClaimStatus.OTHER_VERSION:
            return claim
        if await is_left_to_another(self._process.ledger, delivery, claim):
            return claim
        return await self._claim_as(spec, delivery, ())

    async def _claim_as(
        self, spec: SkillSpec, delivery: Delivery, versions: Sequence[str]
    ) -> Claim:
        ledger, settings = self._process.ledger, self._process.settings
        claim = await ledger.leases.claim(
            delivery.run_id,
            self._process.name,
            # Differs for each delivery, in all processes.
            f"{self._process.name}-{next(self._numbers)}",
            settings.lease_ms,
            delivery.foreign_record(settings),
            RunLimits(_executing_ms(spec, delivery), spec.max_deliveries or 0),
            _tenant(settings.tenant_claim, delivery),
            versions,
        )
        if claim.status is ClaimStatus.OTHER_TENANT:
            raise UnauthorizedError(f"the run's tag {TENANT!r} is not the tenant of its caller")
        ended: Cancelled | TimedOut | None = None
        if claim.status is ClaimStatus.CANCELLED:
            ended = Cancelled(claim.detail, claim.code or ReasonCode.CANCELLED_BY_CALLER)
        elif claim.status is ClaimStatus.OVERDUE:
            header = delivery.header
            ended = timed_out(header, header.deadline_ms if header else None)
        if ended is not None:
            await ledger.leases.end_unclaimed(
                delivery.run_id, delivery.task, ended.end(), claim.token
            )
        return claim


def _executing_ms(spec: SkillSpec, delivery: Delivery) -> int:
    """Return the executing time that a run has, by its skill and its calling run; 0: any."""
    own = None if spec.timeout is None else int(spec.timeout * 1000)
    inherited = delivery.header.allowance_ms if delivery.header else None
    return min((max(limit, 1) for limit in (own, inherited) if limit is not None), default=0)


def _tenant(claim: str | None, delivery: Delivery) -> str | None:
    """Return the tenant that a run must have, '' for none; None where it is not checked.

    A child has the tenant of its parent, which may have no such claim. Raises UnauthorizedError for
    a claim that cannot be a tag.
    """
    if claim is None:
        return None
    tenant = (delivery.auth or {}).get(claim)
    if tenant is None:
        return None if delivery.depth else ""
    if (problem := value_problem(tenant)) is not None:
        raise UnauthorizedError(f"the caller's claim {claim!r}, the run's tenant, {problem}")
    return str(tenant)
