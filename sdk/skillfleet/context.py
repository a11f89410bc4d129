"""The run context: the interface between a skill and the runtime that executes it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Generic, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

from skillfleet.arguments import check_seconds, json_arguments
from skillfleet.auth import scopes_of
from skillfleet.contracts import TEXT_DELTA_KIND, Budget, Limits
from skillfleet.durable.calls import run_call
from skillfleet.durable.checkpoints import RunCheckpoints
from skillfleet.durable.identity import step_key
from skillfleet.durable.journal import journal_of
from skillfleet.durable.steps import Step, run_step
from skillfleet.durable.waits import Question, ask, receive, sleep
from skillfleet.errors import (
    CancelledByCaller,
    CapabilityUnavailableError,
    InvalidArgumentsError,
    MissingScopes,
)
from skillfleet.model_calls import CallReport, ModelCall, ToolCall, model_call, tool_call
from skillfleet.ports.a2a import A2AClient, CallOptions, CallResult
from skillfleet.ports.checkpoint import CheckpointClient
from skillfleet.ports.discovery import DiscoveryClient
from skillfleet.ports.journal import Emission, JournalStore
from skillfleet.ports.sandbox import SandboxClient
from skillfleet.ports.session import Session
from skillfleet.retry import RetryPolicy
from skillfleet.texts import code_text
from skillfleet.types import AgentEvent, ArtifactRef
from skillfleet.validation import (
    ArtifactData,
    artifact_chunks,
    check_artifact_name,
    check_mime_type,
    event_json,
)

__all__ = ["AgentEvent", "ArtifactRef", "AuthT", "RunContext"]

T = TypeVar("T")
AuthT = TypeVar("AuthT", bound=BaseModel, default=Any)


class RunContext(ABC, Generic[AuthT]):
    """One attempt of one run, as its skill sees it.

    A runtime makes a context for each attempt and passes it to the skill as first argument.
    Skills use this interface only, so that they run unchanged in a unit test
    (`LocalRunContext`), on a laptop and in a cluster.

    Concurrency: all methods belong to the event loop that runs the skill, and may be called
    from any of its tasks at once. From a thread, use `asyncio.run_coroutine_threadsafe`.
    Cancellation: cancelling a task that awaits a method abandons that one call. Forbidden:
    using the context after the skill returned, and passing it to another run.

    For runtimes: implement the abstract members. `emit_event`, `write_artifact`,
    `check_cancelled`, `call`, `step`, `ask`, `sleep` and `receive` hold the rules that all
    runtimes share; do not override them.
    """

    task_id: str
    """The run's id. It stays the same over all attempts."""
    auth: AuthT
    """The caller, as the agent's `auth_model`."""
    limits: Limits = Limits()
    """The size limits of events and artifacts."""

    @property
    @abstractmethod
    def attempt(self) -> int:
        """The number of this attempt, from 1; more than 1 after a retry or a lost worker."""

    @property
    @abstractmethod
    def deadline(self) -> datetime | None:
        """The time at which the run is stopped (UTC, aware); None without a deadline."""

    @property
    @abstractmethod
    def shutting_down(self) -> bool:
        """True once this worker drains: finish soon, or the run starts again on another worker."""

    async def emit_event(self, event: AgentEvent) -> None:
        """Append an event to the run's stream.

        The payload must be writable as a JSON object (dict keys are str; pydantic models,
        dataclasses, dates and the like inside it are converted). When the call returns, the
        event is accepted: it enters the stream, once, after all events whose call began
        earlier in the same task. A fleet writes it within milliseconds: only the sudden death of
        the worker's process can lose the last accepted events, and then the run's next attempt
        emits again. A run never succeeds with an accepted event missing.

        In a run with recorded steps, a later attempt does not emit again what is in the stream: the
        events between two steps are counted, so that the same ones must come in the same order.

        Raises `InvalidEventError` (a reserved kind, not JSON), `EventTooLargeError`, or
        `EventsUnwritableError` when the stream cannot be written for too long.
        """
        payload = event_json(event, self.limits)
        journal = journal_of(self)
        if not journal.loaded:
            await journal.load()
        is_written, emission = journal.place_event()
        if not is_written:
            await self._emit(event.kind, payload, emission)

    @abstractmethod
    async def _emit(self, kind: str, payload_json: bytes, emission: Emission | None) -> None:
        """Append a checked event; `payload_json` is a JSON object.

        `emission` is None while nothing has to be kept beside the event.
        """

    @abstractmethod
    def _journal_store(self) -> JournalStore:
        """Return the store of this attempt's journal. Called at most once in an attempt."""

    def _busy(self) -> AbstractContextManager[None]:
        """Keep the run from being parked during a model or tool call. For runtimes."""
        return nullcontext()

    async def write_artifact(self, name: str, data: ArtifactData, mime_type: str) -> ArtifactRef:
        """Store bytes under `name` and return a reference to them.

        `name` is like a relative path ("report.md"); a second write replaces the first.
        `data` is bytes, or an iterable or async iterable of bytes, which is stored piece by
        piece (an iterable that blocks, blocks the event loop). Nothing is stored when the call
        fails or is cancelled. No event is emitted: see `emit_artifact`. Raises
        `InvalidArtifactError`, `ArtifactTooLargeError`, or what the iterable raises.
        """
        check_artifact_name(name)
        check_mime_type(mime_type)
        chunks = artifact_chunks(name, data, self.limits.artifact_bytes)
        return await self._write_artifact(name, chunks, mime_type)

    @abstractmethod
    async def _write_artifact(
        self, name: str, chunks: AsyncIterator[bytes], mime_type: str
    ) -> ArtifactRef:
        """Store an artifact whose name and media type are checked.

        It is stored only as a whole: a cancelled or failed write keeps the former content. Raises
        `ArtifactTooLargeError` over the limit, and what `chunks` raises.
        """

    async def check_cancelled(self) -> None:
        """Raise `CancelledByCaller` if the run was cancelled; else yield to other tasks.

        It is cheap (no round trip), so call it in every loop. Clean up and let the error pass.
        A skill that never checks, or continues, has its task cancelled after a grace period.
        """
        await asyncio.sleep(0)
        reason = self._cancel_reason()
        if reason is not None:
            raise CancelledByCaller(f"the run was cancelled: {reason}" if reason else "cancelled")

    @abstractmethod
    def _cancel_reason(self) -> str | None:
        """Return why the run was cancelled ("" without a reason); None while it was not."""

    @abstractmethod
    def secret(self, name: str) -> str:
        """Return the value of a secret that the skill declared (`secrets=("openai-key",)`).

        Reads memory or a local file; call it each time, since values are rotated. Raises
        `UnknownSecretError`. Forbidden: emitting, logging or returning the value.
        """

    @property
    def session(self) -> Session | None:
        """The session that the run belongs to, with its saved state; None without one."""
        return None

    @property
    @abstractmethod
    def workspace(self) -> Any:
        """The client for the files of the run, a `skillfleet.ports.workspace.WorkspaceClient`.

        Raises `CapabilityUnavailableError` where the runtime has none, and `WorkspaceDenied` in a
        skill that declares no access: write `@agent.skill(workspace=WorkspaceAccess.dynamic())`.
        """

    @property
    @abstractmethod
    def sandbox(self) -> SandboxClient:
        """The client for running code in isolation; raises `SandboxUnavailable` without one."""

    @property
    @abstractmethod
    def discover(self) -> DiscoveryClient:
        """The client that finds agents; raises `CapabilityUnavailableError` without one."""

    @property
    def checkpoints(self) -> RunCheckpoints:
        """The checkpoints of folders; raises `CapabilityUnavailableError` without a client."""
        return RunCheckpoints(self, self._checkpoint_client())

    @abstractmethod
    def _checkpoint_client(self) -> CheckpointClient:
        """Return the client of checkpoints; raises `CapabilityUnavailableError`."""

    async def call(
        self,
        target: str,
        skill: str,
        *,
        args: Mapping[str, Any] | None = None,
        grant: str | None = None,
        timeout: float | None = None,
        key: str | None = None,
        budget: Budget | None = None,
    ) -> CallResult:
        """Run a skill of another agent as a child of this run and wait for its end.

        `target` is the agent's name (or what the runtime's client understands), `args` are
        its JSON arguments. `timeout` in seconds shortens the child's deadline, which is never
        later than this run's. `grant` hands workspace access over. With a `key`, a further
        attempt of this run gets the finished call's result instead of a second child. `budget`
        bounds the child and all below it, within the budgets above.

        Calls may run at once (`asyncio.gather`). When this run ends or is cancelled, its
        children are cancelled. In a run with steps, or of a `durable` skill, the call's end is
        recorded like that of a step; two equal calls at once need keys then. Arguments must be JSON
        and hold no secret of this run (`InvalidArgumentsError`). Raises
        `CapabilityUnavailableError`, what `A2AClient.call` raises before anything runs, and
        `RunFailed`, `RunCancelled` or `RunTimedOut`.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        given = json_arguments(f"{target}.{skill}", {} if args is None else args).plain
        if self._contains_secret(given):
            raise InvalidArgumentsError(
                f"the arguments for {skill!r} of {target} contain the value of a secret: arguments"
                " are stored and shown; let the called skill declare the secret itself"
            )
        options = CallOptions(grant=grant, timeout=timeout, key=key, budget=budget)
        return await run_call(self, self._a2a_client(), (target, skill), given, options)

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        key: str | None = None,
        returns: Any = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., T],
        /,
        *args: Any,
        key: str | None = None,
        returns: Any = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T: ...

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        returns: Any = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function once in the run's life and return its result in every attempt.

            page = await ctx.step("fetch", fetch, url)

        The result is recorded as JSON, in the type that the function's annotation names, or
        `returns`: anything that pydantic can serialise. A function that is not async runs in a
        thread. What the function does in a run that is lost while it executes, it does again:
        pass `ctx.step_key` to services that take an idempotency key.

        A later attempt recognises the step by `key`, else by name, JSON arguments and the count
        among equal ones; arguments are not recorded. Steps may run at once, but not inside of
        each other. `retry` is for errors of the function, `timeout` in seconds for each try.

        Raises `StepFailed`, whose cause is the function's error; in every attempt, unless the
        error leaves the handler and the run is retried: then the step is, too. Raises
        `StepKeyRequired` for steps that a later attempt could not distinguish.
        """
        return await run_step(
            self, Step(name, function, args, kwargs, key, returns, retry, timeout)
        )

    @property
    def step_key(self) -> str:
        """Inside of a step: its idempotency key, the same in every attempt and in no other step.

        64 hexadecimal digits. Raises `CapabilityUnavailableError` outside of a step.
        """
        step = journal_of(self).positions.step
        if step is None:
            raise CapabilityUnavailableError(
                "there is no step_key outside of a step: read it in the step's own function"
            )
        return step_key(self.task_id, step)

    @overload
    async def ask(
        self,
        question: str,
        *,
        timeout: float | None = None,
        key: str | None = None,
        scopes: Sequence[str] = (),
    ) -> str: ...

    @overload
    async def ask(
        self,
        question: str,
        *,
        schema: type[T],
        timeout: float | None = None,
        key: str | None = None,
        scopes: Sequence[str] = (),
    ) -> T: ...

    @overload
    async def ask(
        self,
        question: str,
        *,
        schema: Any,
        timeout: float | None = None,
        key: str | None = None,
        scopes: Sequence[str] = (),
    ) -> Any: ...

    async def ask(
        self,
        question: str,
        *,
        schema: Any = str,
        timeout: float | None = None,
        key: str | None = None,
        scopes: Sequence[str] = (),
    ) -> Any:
        """Ask people or other programs a question and return the validated answer.

            if await ctx.ask("Deploy to production?", schema=bool, timeout=86400): ...

        `schema` is any type that pydantic validates. `scopes` are what those who answer need. The
        answer is recorded once and returned by every attempt, as long as question and schema stay
        the same. A worker does not keep a slot for a waiting run; that of a `durable` skill may
        be parked: its handler is then cancelled, and starts again when the answer is there.

        With a secret in `schema` (`pydantic.SecretStr`, or a model with one) the whole answer is
        encrypted where it is given, and shown nowhere; the secret is redacted like declared ones.

        Raises `WaitRejected`, or `WaitTimedOut` after `timeout` seconds (by default the fleet's
        `SKILLFLEET_MAX_WAIT_SECONDS`).
        """
        return await ask(self, Question(question, schema, timeout, key, scopes))

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds, like `ask` without a slot; the time continues over attempts."""
        await sleep(self, seconds)

    async def receive(self, *, timeout: float | None = None) -> Any:
        """Return the next JSON message that was sent to the run (`run.send`), as plain values.

        Messages come in order, each once, over all attempts. Waits like `ask`; raises
        `WaitTimedOut` after `timeout` seconds.
        """
        return await receive(self, timeout)

    @abstractmethod
    def _a2a_client(self) -> A2AClient:
        """Return the client for this run's calls; raises `CapabilityUnavailableError`."""

    def model_call(self, model: str, *, provider: str, operation: str = "chat") -> ModelCall:
        """Return a context manager that records one call of a model; for clients without telemetry.

            with ctx.model_call("gpt-5", provider="openai") as call:
                reply = await client.responses.create(...)
                call.record(usage=reply.usage, response_model=reply.model)

        `provider` and `operation` ("chat", "embeddings", ...) are OpenTelemetry's names.
        """
        return model_call(model, provider, operation, self._called, self._busy)

    def tool_call(
        self, name: str, *, call_id: str | None = None, tool_type: str = "function"
    ) -> ToolCall:
        """Return a context manager that records one call of a tool; `call_id` is the model's."""
        return tool_call(name, call_id, tool_type, self._called, self._busy)

    def _contains_secret(self, args: Mapping[str, Any] | None) -> bool:
        """Return whether a call's arguments contain one of the run's secrets. For runtimes."""
        del args
        return False

    def _hide(self, secrets: Sequence[str]) -> None:
        """Hide secret texts, which the run was answered, in all that it writes. For runtimes."""

    def _called(self, report: CallReport) -> None:
        """Receive the report of each model or tool call. For runtimes."""

    async def emit_progress(
        self, message: str, *, current: float | None = None, total: float | None = None
    ) -> None:
        """Report progress, in words and, if known, as `current` of `total`."""
        payload: dict[str, Any] = {"message": message}
        if current is not None:
            payload["current"] = current
        if total is not None:
            payload["total"] = total
        await self.emit_event(AgentEvent("progress", payload))

    async def emit_text_delta(self, text: str) -> None:
        """Stream the next piece of a text; readers join the pieces."""
        await self.emit_event(AgentEvent(TEXT_DELTA_KIND, {"text": text}))

    async def emit_artifact(self, ref: ArtifactRef) -> None:
        """Announce to readers that an artifact can be fetched."""
        payload = {
            "name": ref.name,
            "uri": ref.uri,
            "mime_type": ref.mime_type,
            "size_bytes": ref.size_bytes,
        }
        await self.emit_event(AgentEvent("artifact", payload))

    async def emit_error(self, message: str, *, code: str | int | None = None) -> None:
        """Report a problem to readers; the run continues. To fail the run, raise `SkillError`."""
        payload = {"message": message, "code": code_text(code) or None}
        await self.emit_event(AgentEvent("error", payload))

    def require_scopes(self, required: Sequence[str]) -> None:
        """Raise `MissingScopes` unless the caller has all the scopes in `required`.

        A caller whose model has no field `scopes` (`NoAuth`) has none.
        """
        if not required:
            return
        missing = set(required) - scopes_of(self.auth)
        if missing:
            raise MissingScopes(sorted(missing))
