"""The local run context: everything in memory, for unit tests and plain scripts."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from weakref import ref

import orjson
from pydantic import BaseModel

from skillfleet.cleanups import Cleanups
from skillfleet.context import AuthT, RunContext
from skillfleet.contracts import TEXT_DELTA_KIND, Budget, Wait, WaitOutcome, WorkspaceAccess
from skillfleet.durable.journal import begin_journal
from skillfleet.errors import (
    CapabilityUnavailableError,
    InvalidArtifactError,
    SandboxUnavailable,
    UnknownSecretError,
)
from skillfleet.model_calls import CallReport
from skillfleet.ports.a2a import A2AClient, A2AProvider
from skillfleet.ports.checkpoint import CheckpointClient, CheckpointProvider
from skillfleet.ports.discovery import DiscoveryClient, DiscoveryProvider
from skillfleet.ports.grants import GrantAuthority, GrantParty, RunGrants
from skillfleet.ports.journal import Decision, Emission, JournalStore
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment, Provider
from skillfleet.ports.sandbox import SANDBOX, SandboxClient, SandboxProvider
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL, Cleanup, RunScope
from skillfleet.ports.secrets import SHORTEST
from skillfleet.ports.workspace import WorkspaceProvider
from skillfleet.redaction import Redactor, SecretRegistry
from skillfleet.testing.budget_tracker import BudgetTracker
from skillfleet.testing.clock import Clock, WallClock
from skillfleet.testing.local_grants import awaited, local_authority
from skillfleet.testing.local_journal import LocalJournal
from skillfleet.testing.local_session import LocalSession
from skillfleet.testing.local_store import AttemptLostError, LocalAttempt, LocalJournalStore
from skillfleet.testing.local_workspace import EVERYTHING, local_workspace
from skillfleet.types import AgentEvent, ArtifactRef
from skillfleet.workspaces.opening import open_workspace

T = TypeVar("T")


class LocalRunContext(RunContext[AuthT]):
    """A `RunContext` that keeps everything in memory, where a test can read and control it.

        ctx = LocalRunContext(auth=NoAuth())
        report = await survey(ctx, folder="docs")
        assert ctx.events[-1].kind == "text_delta"

    Pass `a2a=InProcessA2AClient([...])` and `discover=LocalDiscovery([...])` of
    `skillfleet.testing` for skills that call others. Each capability is a client or a provider,
    whose client is then opened at its first use; `sandbox="auto"` opens real sandboxes of this
    machine, as `SKILLFLEET_SANDBOX=auto` does on a worker. `attempt` and `deadline` may be set; a
    deadline, and the time and tokens of a `budget`, are enforced by
    `skillfleet.testing.run_skill`, which runs a skill under the fleet's rules and runs the
    cleanups at its end. After a direct call of a skill, `await ctx.aclose()` does that.

    Steps and waits are kept in `journal`. `answers` has what questions are answered with, by key
    or question: a value, an error (`WaitRejected("no")`), or a function that gets the
    `skillfleet.contracts.Wait` and returns one of them, which may be async; for others call
    `answer` or `reject`. `inbox` has the messages that `receive` returns. Pass
    `clock=InstantClock()` of `skillfleet.testing` to let pauses and timeouts end at once, and the
    `journal` of another context to continue its run. `lose` simulates the death of the worker.
    `session=LocalSession("chat")` is the session that the run belongs to. `workspace` has the
    files of `ctx.workspace`: a dict of contents by path, the path of a folder, or a provider.

    Concurrency: one event loop; `cancel` and `shut_down` must be called in its thread.
    """

    _durable = False
    _access: WorkspaceAccess | None = EVERYTHING
    _lost = False
    _ending = False
    _store: LocalJournalStore | None = None
    _deadline: datetime | None = None
    _shutting_down = False
    _reason: str | None = None

    def __init__(  # noqa: PLR0913 - what a test may control, all by name
        self,
        *,
        auth: AuthT,
        task_id: str = "local-task",
        secrets: Mapping[str, str] | None = None,
        workspace: Any = None,
        sandbox: SandboxClient | Provider[Any] | str | None = None,
        a2a: A2AClient | A2AProvider | None = None,
        discover: DiscoveryClient | DiscoveryProvider | None = None,
        checkpoints: CheckpointClient | CheckpointProvider | None = None,
        budget: Budget | None = None,
        answers: Mapping[str, Any] | None = None,
        inbox: Iterable[Any] = (),
        journal: LocalJournal | None = None,
        clock: Clock | None = None,
        session: LocalSession | None = None,
    ) -> None:
        self.auth = auth
        self.task_id = task_id
        self.root_id = task_id
        """The `task_id` of the run that called the first run of this tree."""
        self.agent = ""
        """The name of the run's agent, as an audience of grants."""
        self.authority: GrantAuthority = local_authority()
        """What makes and verifies grants; the contexts that these are handed to share it."""
        self.handed_over: str | None = None
        """The token of the grant that the run's caller has handed over."""
        self.events: list[AgentEvent] = []
        """The emitted events, as a reader would get them (payloads of plain JSON values)."""
        self.artifacts: dict[str, bytes] = {}
        """The content of each artifact."""
        self.artifact_refs: dict[str, ArtifactRef] = {}
        """The reference that `write_artifact` returned for each artifact."""
        self.budget_tracker = BudgetTracker(budget)
        """The rest of the budgets of the run and its callers."""
        self.overspent = False
        """True once the run has used up a budget of tokens: `run_skill` stops it."""
        self.cleanups = Cleanups()
        """The cleanups that `run_skill` runs at the end of the attempt."""
        self.answers = dict(answers or {})
        """The answers to questions, by key or question."""
        self.clock = clock or WallClock()
        """The time by which waits end."""
        self.journal = journal or LocalJournal()
        """What the run has recorded, and what it waits for."""
        for message in inbox:
            self.journal.put(message)
        self._session = session
        self._secrets = dict(secrets or {})
        self._redactor = _redactor(self._secrets)
        self._capabilities = {"workspace": local_workspace(workspace), "sandbox": sandbox}
        self._capabilities |= {"a2a": a2a, "discover": discover, "checkpoints": checkpoints}
        self._opened: dict[str, Any] = {}
        self._attempt = self.journal.attempts + 1
        self._stopped = asyncio.Event()
        self._cancelled = asyncio.Event()
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
        """The time at which `run_skill` stops the run; a test may set it (with a time zone)."""
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
            self._cancelled.set()
            self._stopped.set()

    def lose(self) -> None:
        """Act as a worker that dies: what the attempt still writes is refused.

        `run_skill` stops the handler and raises `AttemptLostError`; `run_to_end` begins the next
        attempt. After a direct call of a skill, continue with another context.
        """
        self._lost = True
        self.journal.token += 1
        self.journal.notify()
        self._stopped.set()

    @property
    def lost(self) -> bool:
        """True once the attempt is lost."""
        return self._lost

    def begin_attempt(
        self, *, durable: bool = False, workspace: WorkspaceAccess | None = None
    ) -> None:
        """Begin an attempt: `run_skill` calls it with what the skill declares."""
        self._durable = durable
        self._access = workspace
        self._ending = False
        if self._lost:
            self._lost = False
            self._stopped.clear()
        if self._session is not None:
            self._session.begin()
        begin_journal(self)

    def end_attempt(self) -> None:
        """Note that the attempt ends: what it leaves open is not given up."""
        self._ending = True

    @property
    def waits(self) -> list[Wait]:
        """The open waits, as `run.waits()` returns them."""
        waits = self.journal.waits.values()
        return [wait.shown(self.task_id) for wait in waits if wait.decision is None]

    def answer(self, value: Any, wait: str | None = None) -> None:
        """Answer a question, by its id, key or text; None: the only open one.

        Raises `UnknownWaitError`, or `WaitConflictError` for one that was decided before.
        """
        found = self.journal.find(wait)
        encoded = self.journal.kept_answer(found.spec, value)
        self.journal.decide(found, Decision(WaitOutcome.ANSWERED, encoded, by="test"))

    def reject(self, reason: str = "", wait: str | None = None) -> None:
        """Reject a question, like `answer`."""
        self.journal.decide(
            self.journal.find(wait), Decision(WaitOutcome.REJECTED, reason=reason, by="test")
        )

    def send(self, message: Any) -> None:
        """Send a JSON message to the run's inbox."""
        self.journal.put(message)

    @property
    def cancel_reason(self) -> str | None:
        """The reason for the cancellation ("" without one); None while the run is not cancelled."""
        return self._reason

    async def wait_cancelled(self) -> None:
        """Return once the run is cancelled."""
        await self._cancelled.wait()

    async def wait_stopped(self) -> None:
        """Return once the run is cancelled or overspent."""
        self._loop = asyncio.get_running_loop()
        await self._stopped.wait()

    def adopt(self, child: "LocalRunContext") -> None:
        """Share this run's cancellation and drain, past ones included, with a called run."""
        self._children.append(child)
        if self._reason is not None:
            child.cancel(self._reason)
        if self._shutting_down:
            child.shut_down()

    async def aclose(self) -> None:
        """End the attempt: run its cleanups, the last one first."""
        self._opened.clear()
        await self.cleanups.run(self.task_id)

    def release(self, child: "LocalRunContext") -> None:
        """Remove a called run that has ended."""
        self._children.remove(child)

    def redacted(self, value: Any) -> Any:
        """Return a JSON value without secrets, as the fleet stores a result."""
        return self._redactor.redact_value(value)

    async def _emit(self, kind: str, payload_json: bytes, emission: Emission | None) -> None:
        if self._store is not None:
            self._store.emitted(emission)
        payload = orjson.loads(payload_json)
        if kind == TEXT_DELTA_KIND and isinstance(payload.get("text"), str):
            text = self._redactor.feed(payload.pop("text")) + self._redactor.flush()
            payload = {"text": text} | self._redactor.redact_value(payload)
        else:
            payload = self._redactor.redact_value(payload)
        self.events.append(AgentEvent(kind, payload, step=emission and emission.step))

    def _journal_store(self) -> JournalStore:
        self.journal.attempts = max(self.journal.attempts, self._attempt)
        known = ref(self)

        def is_stopping() -> bool:
            context = known()
            return context is None or context._is_stopping  # noqa: SLF001 - the context's own

        self._store = LocalJournalStore(
            LocalAttempt(
                run_id=self.task_id,
                journal=self.journal,
                clock=self.clock,
                answers=self.answers,
                note=self.events.append,
                is_stopping=is_stopping,
                durable=self._durable,
            )
        )
        return self._store

    @property
    def _is_stopping(self) -> bool:
        overdue = self._deadline is not None and datetime.now(UTC) >= self._deadline
        return self._ending or self._stopped.is_set() or overdue

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

    def _contains_secret(self, args: Mapping[str, Any] | None) -> bool:
        return self._redactor.occurs_in(args or {})

    def _hide(self, secrets: Sequence[str]) -> None:
        self._redactor.learn(secrets)

    def _called(self, report: CallReport) -> None:
        self.charge_tokens(report.charged_tokens)

    def charge_tokens(self, tokens: int) -> None:
        """Charge tokens to the budgets; the run that overdraws one is stopped. Any thread."""
        if self._loop is None or self._loop is _running_loop():
            self._charge(tokens)
        else:
            self._loop.call_soon_threadsafe(self._charge, tokens)

    def _charge(self, tokens: int) -> None:
        if tokens and self.budget_tracker.charge_tokens(tokens):
            self.overspent = True
            self._stopped.set()

    def _cancel_reason(self) -> str | None:
        return self._reason

    def secret(self, name: str) -> str:
        """Return the secret of that name among `secrets`; raises `UnknownSecretError`."""
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
    def session(self) -> LocalSession | None:
        """The session that was passed; None without one."""
        if self._session is not None:
            self._session.finds_secret = self._contains_secret
        return self._session

    def settle_session(self, *, succeeded: bool) -> None:
        """Write what the run has saved for its session; `run_skill` calls it at the end."""
        if self._session is not None:
            self._session.settle(succeeded=succeeded)

    @property
    def workspaces(self) -> WorkspaceProvider | None:
        """The provider of the files that were passed, for runs that this one calls, too."""
        given = self._capabilities["workspace"]
        return given if isinstance(given, WorkspaceProvider) else None

    @property
    def workspace(self) -> Any:
        """The client for the files that were passed, or the client that was passed.

        Raises `CapabilityUnavailableError` without one, `WorkspaceDenied` in a skill that
        `run_skill` runs and that declares no access. A direct call of a skill has all access.
        """
        given = self._capabilities["workspace"]
        if given is None:
            raise CapabilityUnavailableError("this run has no workspace: pass workspace=...")
        if not isinstance(given, WorkspaceProvider):
            return given
        if "workspace" not in self._opened:
            scope = LocalRunScope(self)
            self._opened["workspace"] = open_workspace(self, given, scope, self._access)
        return self._opened["workspace"]

    @property
    def sandbox(self) -> SandboxClient:
        """The client that was passed or named; raises `SandboxUnavailable` without one."""
        client: SandboxClient | None = self._client("sandbox")
        if client is None:
            raise SandboxUnavailable('this run has no sandbox: pass sandbox="auto"')
        return client

    @property
    def discover(self) -> DiscoveryClient:
        """The client that was passed; raises `CapabilityUnavailableError` without one."""
        client: DiscoveryClient | None = self._client("discover")
        if client is None:
            raise CapabilityUnavailableError(
                "this run cannot find agents: pass discover=LocalDiscovery([...])"
            )
        return client

    def _checkpoint_client(self) -> CheckpointClient:
        client: CheckpointClient | None = self._client("checkpoints")
        if client is None:
            raise CapabilityUnavailableError("this run has no checkpoints: pass checkpoints=...")
        return client

    def _a2a_client(self) -> A2AClient:
        client: A2AClient | None = self._client("a2a")
        if client is None:
            raise CapabilityUnavailableError(
                "this run cannot call agents: pass a2a=InProcessA2AClient([...])"
            )
        return client

    def _client(self, capability: str) -> Any:
        """Return the capability's client, opened once for each attempt; None without one."""
        given = self._capabilities[capability]
        if not isinstance(given, Provider | str):
            return given
        if capability not in self._opened:
            provider = self._load_sandboxes(given) if isinstance(given, str) else given
            self._opened[capability] = provider and provider.open(LocalRunScope(self))
        return self._opened[capability]

    def _load_sandboxes(self, name: str) -> SandboxProvider | None:
        environment = AdapterEnvironment(variables=os.environ)  # noqa: TID251 - the adapter's
        provider = load(SANDBOX, name, environment)
        if provider is not None:
            self.cleanups.add(provider.aclose)
        return provider


class LocalRunScope(RunScope):
    """The scope of the attempt of a `LocalRunContext`."""

    def __init__(self, context: LocalRunContext[Any]) -> None:
        self.context = context
        """The context itself, for calls inside this process."""

    @property
    def run_id(self) -> str:
        """The context's `task_id`."""
        return self.context.task_id

    @property
    def root_id(self) -> str:
        """The `task_id` of the first caller."""
        return self.context.root_id

    @property
    def session_id(self) -> str | None:
        """The id of the context's session; None without one."""
        session = self.context.session
        return None if session is None else session.id

    @property
    def attempt(self) -> int:
        """The context's `attempt`."""
        return self.context.attempt

    @property
    def auth(self) -> BaseModel:
        """The context's `auth`."""
        auth: BaseModel = self.context.auth
        return auth

    @property
    def grants(self) -> RunGrants:
        """The grants of the context's run."""
        context, auth = self.context, self.context.auth
        party = GrantParty(
            run_id=context.task_id,
            agent=context.agent,
            root_id=context.root_id,
            session=None if context.session is None else context.session.id,
            subject=str(getattr(auth, "sub", "") or ""),
        )
        return RunGrants(context.authority, party, awaited, context.handed_over)

    @property
    def deadline(self) -> datetime | None:
        """The context's `deadline`."""
        return self.context.deadline

    @property
    def cancel_reason(self) -> str | None:
        """The reason that was passed to `LocalRunContext.cancel`; None before."""
        return self.context.cancel_reason

    async def wait_cancelled(self) -> None:
        """Return once `LocalRunContext.cancel` was called."""
        await self.context.wait_cancelled()

    async def charge_call(self) -> None:
        """Charge the context's budget and those of its callers."""
        await self.context.check_cancelled()
        self.context.budget_tracker.charge_call()

    def charge_tokens(self, tokens: int) -> None:
        """Charge the context's budget and those of its callers."""
        self.context.charge_tokens(tokens)

    @asynccontextmanager
    async def release_slot(self) -> AsyncIterator[bool]:
        """Yield False: there are no slots."""
        yield False

    async def on_home_loop(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await the coroutine here: there is one loop."""
        return await coro

    def defer(self, cleanup: Cleanup) -> None:
        """Run `cleanup` at the end of `run_skill`, or in `LocalRunContext.aclose`."""
        self.context.cleanups.add(cleanup)

    async def check_lease(self) -> None:
        """Raise `AttemptLostError` after `LocalRunContext.lose`."""
        if self.context.lost:
            raise AttemptLostError("the attempt was lost")

    def secret(self, name: str) -> str:
        """Return the context's secret of that name."""
        return self.context.secret(name)

    def resource_labels(self) -> Mapping[str, str]:
        """Return the labels of no fleet: a worker never reaps resources that carry them."""
        return {FLEET_LABEL: "local", RUN_LABEL: self.run_id, LEASE_LABEL: str(self.attempt)}


def _redactor(secrets: Mapping[str, str]) -> Redactor:
    registry = SecretRegistry()
    for name, value in secrets.items():
        registry.register(value, name)
    return Redactor(tuple(secrets), registry)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop of this thread; None in a thread without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
