"""The RunContext of the fleet: events, artifacts and cancellation in the ledger."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from skillfleet import ArtifactRef, RunContext
from skillfleet.contracts import Limits, from_millis
from skillfleet.errors import (
    BudgetExhaustedError,
    CapabilityUnavailableError,
    FleetUnavailableError,
    InvalidArtifactError,
    LimitExceededError,
    SandboxUnavailable,
    UnknownSecretError,
)
from skillfleet.model_calls import CallReport
from skillfleet.ports.a2a import A2AClient
from skillfleet.ports.discovery import DiscoveryClient
from skillfleet.ports.sandbox import SandboxClient
from skillfleet.ports.secrets import SHORTEST, Secrets
from skillfleet.ports.workspace import WorkspaceClient
from skillfleet.redaction import Redactor
from skillfleet_engine.loop import bridge
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.retrying import retry_until
from skillfleet_ledger.runs.records import Lease
from skillfleet_telemetry.model_calls import measure_call
from skillfleet_telemetry.redaction import process_secrets
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.event_buffer import EventBuffer
from skillfleet_worker.attempts.outcomes import Outcome
from skillfleet_worker.attempts.redaction import RedactingEventBuffer, redact_outcome
from skillfleet_worker.attempts.stop_request import StopKind, StopRequest


@dataclass(frozen=True)
class Capabilities:
    """What a worker process lends to all its contexts."""

    ledger: Ledger
    secrets: Secrets
    a2a: A2AClient
    discovery: DiscoveryClient
    patience_seconds: float = 60.0
    """How long a handler's write waits for Redis to come back."""

    @cached_property
    def limits(self) -> Limits:
        """What a run may write at most."""
        return Limits(artifact_bytes=self.ledger.settings.max_artifact_bytes)


class FleetRunContext(RunContext[Any]):
    """One attempt's context. Its methods may be awaited on any loop of the process."""

    def __init__(
        self,
        attempt: Attempt,
        outbox: EventBuffer,
        auth: BaseModel,
        declared_secrets: tuple[str, ...],
        capabilities: Capabilities,
    ) -> None:
        self.task_id = attempt.run_id
        self.auth = auth
        self.limits = capabilities.limits
        self.run = attempt
        self._declared_secrets = declared_secrets
        self._capabilities = capabilities
        self._spending: set[asyncio.Task[None]] = set()
        self._redactor = Redactor(declared_secrets, process_secrets)
        self._outbox = RedactingEventBuffer(outbox, self._redactor) if declared_secrets else outbox
        # A client that an earlier run made may know them, without this one's asking.
        for name in declared_secrets:
            self._read_secret(name)

    async def finish(self, outcome: Outcome) -> Outcome:
        """The handler is over: the last events go out. The outcome without secrets in it."""
        if self._spending:
            await asyncio.wait(self._spending)
        if isinstance(self._outbox, RedactingEventBuffer):
            await self._outbox.finish()
            return redact_outcome(outcome, self._redactor)
        return outcome

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.run.lease.attempt

    @property
    def deadline(self) -> datetime | None:
        """When the run is stopped (UTC); None without a deadline."""
        deadline = self.run.deadline_ms
        return None if deadline is None else from_millis(deadline)

    @property
    def shutting_down(self) -> bool:
        """True once this worker drains."""
        return self.run.shutting_down

    async def _emit(self, kind: str, payload_json: bytes) -> None:
        await self._outbox.put(kind, payload_json)

    async def _write_artifact(
        self, name: str, chunks: AsyncIterator[bytes], mime_type: str
    ) -> ArtifactRef:
        for part, told in (("name", name), ("media type", mime_type)):
            if self._redactor.redact(told) != told:
                raise InvalidArtifactError(f"the artifact's {part} holds the value of a secret")
        lease: Lease = self.run.lease
        store = self._capabilities.ledger.artifacts
        try:
            pieces = _from_this_loop(chunks)
            patience = self._capabilities.patience_seconds
            info = await bridge.at_home(store.write(lease, name, pieces, mime_type, patience))
        except LeaseLostError:
            self.run.lose()
            raise
        uri = f"skillfleet://{lease.run_id}/{name}"
        return ArtifactRef(name, uri, info.mime_type, info.size_bytes)

    def _cancel_reason(self) -> str | None:
        return self.run.cancel_reason

    def secret(self, name: str) -> str:
        """The value of a declared secret; raises UnknownSecretError."""
        if name not in self._declared_secrets:
            raise UnknownSecretError(
                f"this skill did not declare the secret {name!r}: write secrets=({name!r},)"
            )
        value = self._read_secret(name)
        if value is None:
            raise UnknownSecretError(f"no source of this worker has the secret {name!r}")
        if len(value) < SHORTEST:
            raise UnknownSecretError(
                f"the secret {name!r} has fewer than {SHORTEST} characters: it could not be hidden"
            )
        return value

    def _read_secret(self, name: str) -> str | None:
        """The present value, which is hidden in all that the run writes from now on."""
        value = self._capabilities.secrets.get(name)
        if value is not None:
            process_secrets.register(value, name)
        return value

    @property
    def workspace(self) -> WorkspaceClient:
        """Raises CapabilityUnavailableError: this fleet has no workspaces."""
        raise CapabilityUnavailableError("this fleet provides no workspaces")

    @property
    def sandbox(self) -> SandboxClient:
        """Raises SandboxUnavailable: this fleet has no sandboxes."""
        raise SandboxUnavailable("this fleet provides no sandboxes")

    @property
    def discover(self) -> DiscoveryClient:
        """Finds the agents that live workers of this fleet serve."""
        return self._capabilities.discovery

    def _reveals(self, args: Mapping[str, Any] | None) -> bool:
        return bool(self._declared_secrets) and self._redactor.occurs_in(args or {})

    def _called(self, report: CallReport) -> None:
        measure_call(report)
        if tokens := report.charged_tokens:
            self.charge(tokens)

    def charge(self, tokens: int) -> None:
        """Charge tokens to the tree's budget, soon. Any thread."""
        self.run.loop.call_soon_threadsafe(self._charge, tokens)

    async def pay_call(self) -> None:
        """Take a call that is no run of this fleet out of the tree's budget.

        Raises BudgetExhaustedError, LimitExceededError, CancelledByCaller.
        """
        ledger, patience = self._capabilities.ledger, self._capabilities.patience_seconds
        try:
            await bridge.at_home(
                retry_until(patience, lambda: ledger.budgets.charge_call(self.run.lease))
            )
        except BudgetExhaustedError:
            raise
        except LimitExceededError:
            await self.check_cancelled()
            raise

    def _charge(self, tokens: int) -> None:
        task = asyncio.create_task(bridge.at_home(self._spend(tokens)))
        self._spending.add(task)
        task.add_done_callback(self._spending.discard)

    async def _spend(self, tokens: int) -> None:
        """Charge the tree's budget; the run that uses it up is stopped."""
        with contextlib.suppress(FleetUnavailableError):
            if await self._capabilities.ledger.budgets.charge_tokens(self.task_id, tokens):
                self.run.request_stop(
                    StopRequest(StopKind.BUDGET, "the tree's budget of tokens is used up")
                )

    def _a2a_client(self) -> A2AClient:
        return self._capabilities.a2a


def _from_this_loop(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces for a consumer on the home loop; the handler's code stays on its own loop."""
    own = asyncio.get_running_loop()
    if own is bridge.home_loop():
        return pieces

    async def step() -> bytes | None:
        return await anext(pieces, None)

    async def relay() -> AsyncIterator[bytes]:
        while True:
            future = asyncio.run_coroutine_threadsafe(step(), own)
            piece = await asyncio.wrap_future(future)
            if piece is None:
                return
            yield piece

    return relay()
