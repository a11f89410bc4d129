"""A context in memory, for unit tests and for running a skill in a plain script."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import orjson

from skillfleet.context import AuthT, RunContext
from skillfleet.contracts import Budget
from skillfleet.errors import (
    CapabilityUnavailableError,
    InvalidArtifactError,
    SandboxUnavailable,
    UnknownSecretError,
)
from skillfleet.model_calls import CallReport
from skillfleet.ports.a2a import A2AClient
from skillfleet.ports.discovery import DiscoveryClient
from skillfleet.ports.sandbox import SandboxClient
from skillfleet.ports.secrets import SHORTEST
from skillfleet.ports.workspace import WorkspaceClient
from skillfleet.redaction import Redactor, SecretRegistry
from skillfleet.testing.budget_tracker import Purse
from skillfleet.types import AgentEvent, ArtifactRef


class LocalRunContext(RunContext[AuthT]):
    """A `RunContext` that keeps everything in memory, where a test looks at it and steers it.

        ctx = LocalRunContext(auth=NoAuth())
        report = await survey(ctx, folder="docs")
        assert ctx.events[-1].kind == "text_delta"

    Pass `a2a=InProcessA2AClient([...])` and `discover=LocalDiscovery([...])` of
    `skillfleet.testing.in_process` for skills that call others. `attempt` and `deadline` may be
    set; a deadline, and the time and tokens of a `budget`, are enforced by
    `skillfleet.testing.runner.run_skill`, which runs a skill under the fleet's rules.

    Concurrency: one event loop; `cancel` and `shut_down` must be called in its thread.
    """

    def __init__(
        self,
        *,
        auth: AuthT,
        task_id: str = "local-task",
        secrets: Mapping[str, str] | None = None,
        workspace: WorkspaceClient | None = None,
        sandbox: SandboxClient | None = None,
        a2a: A2AClient | None = None,
        discover: DiscoveryClient | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.auth = auth
        self.task_id = task_id
        self.events: list[AgentEvent] = []
        """What was emitted, as a reader would see it (payloads of plain JSON values)."""
        self.artifacts: dict[str, bytes] = {}
        """The content of each artifact."""
        self.artifact_refs: dict[str, ArtifactRef] = {}
        """The reference that `write_artifact` returned for each artifact."""
        self.purse = Purse(budget)
        """What the run, and all that it calls, may still use up."""
        self.overspent = False
        """True once the run has used up a budget of tokens: `run_skill` stops it."""
        self._secrets = dict(secrets or {})
        registry = SecretRegistry()
        for name, value in self._secrets.items():
            registry.register(value, name)
        self._redactor = Redactor(tuple(self._secrets), registry)
        self._workspace = workspace
        self._sandbox = sandbox
        self._a2a = a2a
        self._discover = discover
        self._attempt = 1
        self._deadline: datetime | None = None
        self._shutting_down = False
        self._reason: str | None = None
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._children: list[LocalRunContext] = []

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1; a test may set it."""
        return self._attempt

    @attempt.setter
    def attempt(self, number: int) -> None:
        if number < 1:
            raise ValueError(f"attempts are numbered from 1, got {number}")
        self._attempt = number

    @property
    def deadline(self) -> datetime | None:
        """When `run_skill` stops the run; a test may set it (with a time zone)."""
        return self._deadline

    @deadline.setter
    def deadline(self, moment: datetime | None) -> None:
        if moment is not None and moment.tzinfo is None:
            raise ValueError("a deadline needs a time zone: use datetime.now(UTC) + ...")
        self._deadline = moment

    @property
    def shutting_down(self) -> bool:
        """True after `shut_down`."""
        return self._shutting_down

    def shut_down(self) -> None:
        """Act as a worker that begins to drain, for this run and those it called."""
        self._shutting_down = True
        for child in self._children:
            child.shut_down()

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the run and those it called, leaves first; a second call changes nothing.

        From now on `check_cancelled` raises. Run by `run_skill`, the skill's task is
        cancelled too, after a grace period.
        """
        for child in self._children:
            child.cancel(reason)
        if self._reason is None:
            self._reason = reason or ""
            self._stopped.set()

    async def wait_stopped(self) -> None:
        """Return once the run is cancelled or overspent."""
        self._loop = asyncio.get_running_loop()
        await self._stopped.wait()

    def adopt(self, child: "LocalRunContext") -> None:
        """Let a called run share this run's cancellation and drain, also one long since begun."""
        self._children.append(child)
        if self._reason is not None:
            child.cancel(self._reason)
        if self._shutting_down:
            child.shut_down()

    def release(self, child: "LocalRunContext") -> None:
        """Forget a called run that ended."""
        self._children.remove(child)

    def redacted(self, value: Any) -> Any:
        """Return a JSON value without the secrets in it, as the fleet stores a result."""
        return self._redactor.redact_value(value)

    async def _emit(self, kind: str, payload_json: bytes) -> None:
        payload = orjson.loads(payload_json)
        if kind == "text_delta" and isinstance(payload.get("text"), str):
            text = self._redactor.feed(payload.pop("text")) + self._redactor.flush()
            payload = {"text": text} | self._redactor.redact_value(payload)
        else:
            payload = self._redactor.redact_value(payload)
        self.events.append(AgentEvent(kind, payload))

    async def _write_artifact(
        self, name: str, chunks: AsyncIterator[bytes], mime_type: str
    ) -> ArtifactRef:
        for part, text in (("name", name), ("media type", mime_type)):
            if self._redactor.redact(text) != text:
                raise InvalidArtifactError(f"the artifact's {part} holds the value of a secret")
        data = b"".join([chunk async for chunk in chunks])
        ref = ArtifactRef(name, f"memory://{self.task_id}/{name}", mime_type, len(data))
        self.artifacts[name] = data
        self.artifact_refs[name] = ref
        return ref

    def _reveals(self, args: Mapping[str, Any] | None) -> bool:
        return bool(self._secrets) and self._redactor.occurs_in(args or {})

    def _called(self, report: CallReport) -> None:
        tokens = report.charged_tokens
        if self._loop is None or self._loop is _running_loop():
            self._charge(tokens)
        else:
            self._loop.call_soon_threadsafe(self._charge, tokens)

    def _charge(self, tokens: int) -> None:
        if tokens and self.purse.spend(tokens):
            self.overspent = True
            self._stopped.set()

    def _cancel_reason(self) -> str | None:
        return self._reason

    def secret(self, name: str) -> str:
        """The secret of that name among `secrets`; raises `UnknownSecretError`."""
        if (value := self._secrets.get(name)) is None:
            raise UnknownSecretError(
                f"unknown secret {name!r}: declare it with @agent.skill(secrets=({name!r},)) and "
                "pass its value as secrets={...} to LocalRunContext or InProcessA2AClient"
            )
        if len(value) < SHORTEST:
            raise UnknownSecretError(
                f"the secret {name!r} has fewer than {SHORTEST} characters: it could not be hidden"
            )
        return value

    @property
    def workspace(self) -> WorkspaceClient:
        """The client that was passed; raises `CapabilityUnavailableError` without one."""
        if self._workspace is None:
            raise CapabilityUnavailableError("this run has no workspace: pass workspace=...")
        return self._workspace

    @property
    def sandbox(self) -> SandboxClient:
        """The client that was passed; raises `SandboxUnavailable` without one."""
        if self._sandbox is None:
            raise SandboxUnavailable("this run has no sandbox: pass sandbox=...")
        return self._sandbox

    @property
    def discover(self) -> DiscoveryClient:
        """The client that was passed; raises `CapabilityUnavailableError` without one."""
        if self._discover is None:
            raise CapabilityUnavailableError(
                "this run cannot find agents: pass discover=LocalDiscovery([...])"
            )
        return self._discover

    def _a2a_client(self) -> A2AClient:
        if self._a2a is None:
            raise CapabilityUnavailableError(
                "this run cannot call agents: pass a2a=InProcessA2AClient([...])"
            )
        return self._a2a


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of this thread; None in a thread without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
