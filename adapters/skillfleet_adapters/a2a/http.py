"""Calling agents elsewhere over HTTP, in A2A 1.0, through a2a-sdk's client."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from a2a.client import A2ACardResolver, Client, ClientCallContext, ClientConfig, ClientFactory
from a2a.types import (
    AgentInterface,
    CancelTaskRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    StreamResponse,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import ParseDict
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from skillfleet.contracts import Budget, ReasonCode
from skillfleet.errors import (
    CapabilityUnavailableError,
    RunFailed,
    RunTimedOut,
    TargetRefusedError,
)
from skillfleet.ports.a2a import A2AClient, Caller, CallResult
from skillfleet_adapters.a2a.remote_task import RemoteTask
from skillfleet_adapters.a2a.transport import GuardedTransport
from skillfleet_engine.celery_hooks.slots import release_slot
from skillfleet_engine.loop import bridge
from skillfleet_telemetry.redaction import redact
from skillfleet_worker.attempts.context import FleetRunContext

_BINDINGS = ("JSONRPC", "HTTP+JSON")
"""Over httpx, so that our transport checks every request; gRPC would connect by itself."""
_CANCEL_SECONDS = 5.0
_CALLS = uuid.UUID("5f3a9b0e-93c5-4f0e-8a3c-6f0a8f6d1b77")


@dataclass(frozen=True)
class HttpA2AClient(A2AClient):
    """Sends a skill's name and arguments as one data part and follows the task to its end.

    `target` is the agent's URL, under which its card lies. Calls last `timeout_seconds` at the
    most, and no longer than the caller's run.
    """

    transport: GuardedTransport
    timeout_seconds: float
    caller: FleetRunContext | None = None

    def for_caller(self, caller: Caller) -> A2AClient:
        """The client that makes calls on behalf of a run of this fleet."""
        if not isinstance(caller, FleetRunContext):
            raise CapabilityUnavailableError("only a run of this fleet can call through it")
        return HttpA2AClient(self.transport, self.timeout_seconds, caller)

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
        """See `A2AClient.call`. A host that is not listed raises `TargetRefusedError`.

        With a `key`, the message has the same id in each attempt, so that an agent which heeds
        ids does not start again. The call counts as one of the caller's tree; what the agent
        calls itself is its own affair. The tokens that it reports (`usage` in the metadata of
        what it answers) are charged to the tree, and a task that has used up the `budget`'s is
        cancelled.
        """
        if grant is not None:
            raise CapabilityUnavailableError("workspace grants are not handed over by HTTP")
        self.transport.check(_url(target))
        if self.caller is not None:
            await self.caller.pay_call()
        budget = budget or Budget()
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers)
        message = self._message(target, skill, args or {}, key)
        seconds = self._seconds(timeout, budget.seconds)
        try:
            async with release_slot():
                return await bridge.at_home(self._call(target, message, headers, seconds, budget))
        except TimeoutError:
            if seconds == budget.seconds:
                raise RunTimedOut(
                    f"the call of {target} has used up its budget of {seconds:g} s",
                    code=ReasonCode.BUDGET_EXHAUSTED,
                ) from None
            raise RunTimedOut(f"the call of {target} took more than {seconds:g} s") from None

    def _message(
        self, target: str, skill: str, args: Mapping[str, Any], key: str | None
    ) -> Message:
        made = uuid.uuid4()
        if key is not None and self.caller is not None:
            made = uuid.uuid5(_CALLS, f"{self.caller.task_id}\0{target}\0{skill}\0{key}")
        message = Message(message_id=str(made), role=Role.ROLE_USER)
        ParseDict({"skill": skill}, message.metadata)
        message.parts.append(ParseDict({"data": {"skill": skill, "args": dict(args)}}, Part()))
        return message

    def _seconds(self, *wanted: float | None) -> float:
        limits = [self.timeout_seconds, *wanted]
        if self.caller is not None and self.caller.deadline is not None:
            limits.append((self.caller.deadline - datetime.now(UTC)).total_seconds())
        return max(min(limit for limit in limits if limit is not None), 0.0)

    async def _call(
        self,
        target: str,
        message: Message,
        headers: dict[str, str],
        seconds: float,
        budget: Budget,
    ) -> CallResult:
        """Raises TimeoutError after so many seconds."""
        task = RemoteTask(target)
        client: Client | None = None
        context = ClientCallContext(service_parameters=headers, timeout=seconds)
        try:
            async with asyncio.timeout(seconds), self._http(seconds) as http:
                try:
                    client = await _client(http, target)
                    request = SendMessageRequest(message=message)
                    async for response in client.send_message(request, context=context):
                        self._take(task, response, budget)
                    return task.result()
                except BaseException:
                    if client is not None and task.running:
                        await _cancel(client, task.id, context)
                    raise
        except (A2AError, httpx.HTTPError, ValueError) as error:
            refused = _refusal(error)
            if refused is not None:
                raise refused from None
            told = redact(f"the call of {target} failed: {error}")
            raise RunFailed(told, code="remote_error") from error

    def _take(self, task: RemoteTask, response: StreamResponse, budget: Budget) -> None:
        """Take a response and charge what it says was used; raises RunFailed beyond the budget."""
        before = task.tokens
        task.take(response)
        if self.caller is not None and task.tokens > before:
            self.caller.charge(task.tokens - before)
        if task.running and budget.tokens is not None and task.tokens >= budget.tokens:
            message = "the call's budget of tokens is used up"
            raise RunFailed(message, code=ReasonCode.BUDGET_EXHAUSTED, run_id=task.id)

    @contextlib.asynccontextmanager
    async def _http(self, seconds: float) -> AsyncIterator[httpx.AsyncClient]:
        """A client of its own, so that no call sees another's cookies; connections are shared."""
        yield httpx.AsyncClient(
            transport=self.transport,
            timeout=seconds,
            follow_redirects=False,
            trust_env=False,
        )


def _url(target: str) -> httpx.URL:
    try:
        return httpx.URL(target)
    except httpx.InvalidURL as error:
        raise TargetRefusedError(f"the target {target!r} is no URL: {error}") from None


async def _client(http: httpx.AsyncClient, target: str) -> Client:
    card = await A2ACardResolver(http, target).get_agent_card()
    offered = list(card.supported_interfaces)
    spoken = [each for each in offered if _speaks(each)]
    if not spoken:
        names = ", ".join(f"{each.protocol_binding} {each.protocol_version}" for each in offered)
        raise CapabilityUnavailableError(
            f"the agent at {target} offers {names or 'no interface'};"
            f" a fleet speaks {' and '.join(_BINDINGS)} of A2A 1.x"
        )
    del card.supported_interfaces[:]
    card.supported_interfaces.extend(spoken)
    config = ClientConfig(httpx_client=http, supported_protocol_bindings=list(_BINDINGS))
    return ClientFactory(config).create(card)


def _speaks(interface: AgentInterface) -> bool:
    major = interface.protocol_version.partition(".")[0]
    return interface.protocol_binding in _BINDINGS and major == "1"


async def _cancel(client: Client, task_id: str, context: ClientCallContext) -> None:
    """Best effort: the agent elsewhere may be gone, or the task over."""

    async def cancel() -> None:
        with contextlib.suppress(A2AError, httpx.HTTPError, TimeoutError, ValueError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await client.cancel_task(CancelTaskRequest(id=task_id), context=context)

    # The caller's own cancellation must not cut this one short.
    await asyncio.shield(asyncio.ensure_future(cancel()))


def _refusal(error: BaseException | None) -> TargetRefusedError | None:
    while error is not None:
        if isinstance(error, TargetRefusedError):
            return error
        error = error.__cause__ or error.__context__
    return None
