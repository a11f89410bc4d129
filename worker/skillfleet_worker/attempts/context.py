"""The run context of a worker: events, artifacts and cancellation in the ledger."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Final

from pydantic import BaseModel

from skillfleet import ArtifactRef, RunContext
from skillfleet.contracts import Limits
from skillfleet.errors import (
    CapabilityUnavailableError,
    InvalidArtifactError,
    SandboxUnavailable,
)
from skillfleet.hidden_state import HiddenState
from skillfleet.model_calls import CallReport
from skillfleet.ports.a2a import A2AClient, A2AProvider
from skillfleet.ports.admission import Admission
from skillfleet.ports.checkpoint import CheckpointClient, CheckpointProvider
from skillfleet.ports.discovery import DiscoveryClient, DiscoveryProvider
from skillfleet.ports.grants import GrantAuthority
from skillfleet.ports.journal import Emission, JournalStore
from skillfleet.ports.sandbox import SandboxClient, SandboxProvider
from skillfleet.ports.secrets import Secrets
from skillfleet.ports.workspace import WorkspaceClient, WorkspaceProvider
from skillfleet.redaction import Redactor
from skillfleet.skills.spec import SkillSpec
from skillfleet_auth.sealing import AnswerKeys
from skillfleet_engine.loop import bridge
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_producer import AsyncFleet
from skillfleet_telemetry.model_calls import measure_call
from skillfleet_telemetry.redaction import process_secrets
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.calls import RoutedCalls
from skillfleet_worker.attempts.children import ChildCalls
from skillfleet_worker.attempts.declared_secrets import DeclaredSecrets
from skillfleet_worker.attempts.event_buffer import EventBuffer
from skillfleet_worker.attempts.journal import LedgerJournal
from skillfleet_worker.attempts.outcomes import Outcome
from skillfleet_worker.attempts.redaction import RedactingEventBuffer, redact_outcome
from skillfleet_worker.attempts.scope import AttemptScope, ScopeState
from skillfleet_worker.attempts.session import FleetSession, session_of
from skillfleet_worker.attempts.waiting import WaitingRoom
from skillfleet_worker.settings import WorkerSettings


@dataclass(frozen=True)
class Capabilities:
    """The services that the contexts of a process share."""

    ledger: Ledger
    secrets: Secrets
    settings: WorkerSettings
    admission: Admission
    grants: GrantAuthority
    room: WaitingRoom
    """The runs that wait in the memory of this process."""
    fleet: str = "fleet"
    """The fleet's name, for the label of external resources."""
    a2a: A2AProvider | None = None
    discovery: DiscoveryProvider | None = None
    workspace: WorkspaceProvider | None = None
    sandbox: SandboxProvider | None = None
    checkpoint: CheckpointProvider | None = None
    answer_keys: AnswerKeys | None = None
    """The keys that decrypt secret answers; None: questions for secrets are refused."""
    show_waiting: Callable[[str, str], None] | None = None
    """Shows monitors what a run waits for in this process, by its id; '' when it goes on."""

    @property
    def patience_seconds(self) -> float:
        """The time that a handler's write waits for Redis to come back."""
        return self.settings.events_patience_seconds

    @cached_property
    def limits(self) -> Limits:
        """The size limits of what a run may write."""
        settings = self.ledger.settings
        return Limits(
            arguments_bytes=settings.max_arguments_bytes,
            result_bytes=settings.max_result_bytes,
            artifact_bytes=settings.max_artifact_bytes,
        )

    @cached_property
    def producer(self) -> AsyncFleet:
        """Enqueues child runs."""
        return AsyncFleet(ledger=self.ledger)


class ContextState:
    """The state of one attempt's context, for the executor; skills see a `FleetRunContext`."""

    def __init__(
        self,
        attempt: Attempt,
        buffer: EventBuffer,
        auth: BaseModel,
        spec: SkillSpec,
        capabilities: Capabilities,
        version: str,
    ) -> None:
        """`version` is that of the agent."""
        declared_secrets = spec.secrets
        self.access = spec.workspace
        self.attempt = attempt
        self.auth = auth
        self.capabilities = capabilities
        self.secrets = DeclaredSecrets(declared_secrets, capabilities.secrets)
        self.redactor = Redactor(declared_secrets, process_secrets)
        self.buffer: EventBuffer | RedactingEventBuffer = buffer
        if declared_secrets:
            self.buffer = RedactingEventBuffer(buffer, self.redactor)
        self._events = buffer
        self._workspace: WorkspaceClient | None = None
        self._version = version
        if attempt.durable:
            # A drain gives its run back even if it never records anything.
            _ = self.journal
        self.charges = ScopeState(
            attempt,
            auth,
            capabilities.ledger,
            capabilities.fleet,
            capabilities.patience_seconds,
            capabilities.grants,
            self.secrets,
        )
        # A client that an earlier run created may use them, although this run never asks.
        for name in declared_secrets:
            self.secrets.read(name)

    async def finish(self, outcome: Outcome) -> Outcome:
        """End the context after the handler; returns the outcome without secrets in it."""
        await self.charges.finish_charges()
        if isinstance(self.buffer, RedactingEventBuffer):
            await self.buffer.finish()
            return redact_outcome(outcome, self.redactor)
        return outcome

    def hide(self, secrets: Sequence[str]) -> None:
        """Redact secrets that the run was answered in all that it writes from now on."""
        for value in secrets:
            process_secrets.register(value)
        self.redactor.learn(secrets)
        if not isinstance(self.buffer, RedactingEventBuffer):
            self.buffer = RedactingEventBuffer(self._events, self.redactor)

    async def append_held(self) -> None:
        """Write the text that redaction holds back."""
        if isinstance(self.buffer, RedactingEventBuffer):
            await self.buffer.append_held()

    @cached_property
    def journal(self) -> LedgerJournal:
        """The journal of the run."""
        return LedgerJournal(
            self.attempt, self._events, self.capabilities, self.append_held, self._version
        )

    @property
    def has_journal(self) -> bool:
        """True once the handler has used the journal, or an earlier attempt has."""
        return "journal" in self.__dict__ or self.attempt.lease.has_journal

    @cached_property
    def session(self) -> FleetSession | None:
        """The run's session; None without one."""
        shared = self.capabilities
        if session_of(self.attempt, shared.ledger) is None:
            return None
        return FleetSession(self.attempt, shared.ledger, self.redactor, shared.patience_seconds)

    @cached_property
    def scope(self) -> AttemptScope:
        """The view of this attempt that its clients get."""
        return AttemptScope(self.charges)

    @cached_property
    def discovery(self) -> DiscoveryClient:
        """The client that finds agents."""
        provider = self.capabilities.discovery
        if provider is None:
            raise CapabilityUnavailableError("this worker cannot find agents")
        return provider.open(self.scope)

    def open_workspace(self, context: RunContext[Any]) -> WorkspaceClient:
        """Return the client for the files of the run, the same one at each call."""
        provider = self.capabilities.workspace
        if provider is None:
            raise CapabilityUnavailableError(
                "this worker provides no workspaces: set SKILLFLEET_WORKSPACE"
            )
        if self._workspace is None:
            # A worker without workspaces must not load their modules.
            from skillfleet.workspaces.opening import open_workspace  # noqa: PLC0415

            self._workspace = open_workspace(context, provider, self.scope, self.access)
        return self._workspace

    @cached_property
    def sandbox(self) -> SandboxClient:
        """The client that executes code in isolation."""
        provider = self.capabilities.sandbox
        if provider is None:
            raise SandboxUnavailable("this fleet provides no sandboxes: see SKILLFLEET_SANDBOX")
        return provider.open(self.scope)

    @cached_property
    def checkpoints(self) -> CheckpointClient:
        """The client that stores folders."""
        provider = self.capabilities.checkpoint
        if provider is None:
            raise CapabilityUnavailableError(
                "this worker makes no checkpoints: set SKILLFLEET_CHECKPOINT=archive"
            )
        return provider.open(self.scope)

    @cached_property
    def calls(self) -> A2AClient:
        """The client that calls agents."""
        shared = self.capabilities
        children = partial(
            ChildCalls,
            shared.producer,
            self.attempt,
            self.auth,
            shared.patience_seconds,
            self.charges.grants,
        )
        remote = None if shared.a2a is None else partial(shared.a2a.open, self.scope)
        return RoutedCalls(children, remote)


_states: Final[HiddenState[ContextState]] = HiddenState()


class FleetRunContext(RunContext[Any]):
    """One attempt's context. Its methods may be awaited on any loop of the process.

    Its attributes are those of `RunContext`; lease and connections are not reachable through it.
    """

    def __init__(self, state: ContextState) -> None:
        self.task_id = state.attempt.run_id
        self.auth = state.auth
        self.limits = state.capabilities.limits
        _states.attach(self, state)

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return _states.of(self).attempt.lease.attempt

    @property
    def deadline(self) -> datetime | None:
        """The time at which the run is stopped (UTC); None without a deadline."""
        return _states.of(self).charges.deadline

    @property
    def shutting_down(self) -> bool:
        """True once this worker drains."""
        return _states.of(self).attempt.shutting_down

    async def _emit(self, kind: str, payload_json: bytes, emission: Emission | None) -> None:
        await _states.of(self).buffer.append(kind, payload_json, emission)

    def _journal_store(self) -> JournalStore:
        return _states.of(self).journal

    def _busy(self) -> AbstractContextManager[None]:
        return _states.of(self).attempt.waiting.busy()

    async def _write_artifact(
        self, name: str, chunks: AsyncIterator[bytes], mime_type: str
    ) -> ArtifactRef:
        state = _states.of(self)
        for part, text in (("name", name), ("media type", mime_type)):
            if state.redactor.redact(text) != text:
                raise InvalidArtifactError(f"the artifact's {part} contains the value of a secret")
        store, lease = state.capabilities.ledger.artifacts, state.attempt.lease
        try:
            pieces = _from_this_loop(chunks)
            patience = state.capabilities.patience_seconds
            with state.attempt.waiting.busy():
                info = await bridge.at_home(store.write(lease, name, pieces, mime_type, patience))
        except LeaseLostError:
            state.attempt.lose()
            raise
        uri = f"skillfleet://{lease.run_id}/{name}"
        return ArtifactRef(name, uri, info.mime_type, info.size_bytes)

    def _cancel_reason(self) -> str | None:
        return _states.of(self).attempt.cancel_reason

    def secret(self, name: str) -> str:
        """Return the value of a declared secret; raises UnknownSecretError."""
        return _states.of(self).secrets.value(name)

    @property
    def session(self) -> FleetSession | None:
        """The session that the run belongs to; None without one."""
        return _states.of(self).session

    @property
    def workspace(self) -> WorkspaceClient:
        """The client for the files of the run; raises WorkspaceDenied without declared access."""
        return _states.of(self).open_workspace(self)

    @property
    def sandbox(self) -> SandboxClient:
        """The client for running code in isolation; raises SandboxUnavailable without one."""
        return _states.of(self).sandbox

    @property
    def discover(self) -> DiscoveryClient:
        """The client that finds the agents that live workers of this fleet serve."""
        return _states.of(self).discovery

    def _contains_secret(self, args: Mapping[str, Any] | None) -> bool:
        return _states.of(self).redactor.occurs_in(args or {})

    def _hide(self, secrets: Sequence[str]) -> None:
        _states.of(self).hide(secrets)

    def _called(self, report: CallReport) -> None:
        measure_call(report)
        if tokens := report.charged_tokens:
            _states.of(self).charges.charge_tokens(tokens)

    def _checkpoint_client(self) -> CheckpointClient:
        return _states.of(self).checkpoints

    def _a2a_client(self) -> A2AClient:
        return _states.of(self).calls


def _from_this_loop(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces to a consumer on the home loop; the handler's code stays on its loop."""
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
