"""The client of remote agents: A2A 1.0 over HTTP, through a2a-sdk."""

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
from skillfleet.ports.a2a import NO_OPTIONS, A2AClient, A2AProvider, CallOptions, CallResult
from skillfleet.ports.scope import RunScope
from skillfleet_adapters.a2a.remote_task import RemoteTask
from skillfleet_adapters.a2a.transport import GuardedTransport
from skillfleet_telemetry.redaction import redact

_BINDINGS = ("JSONRPC", "HTTP+JSON")
"""Bindings over httpx, whose requests our transport checks; gRPC would connect by itself."""
_CANCEL_SECONDS = 5.0
_MESSAGE_NAMESPACE = uuid.UUID("5f3a9b0e-93c5-4f0e-8a3c-6f0a8f6d1b77")


class HttpA2AProvider(A2AProvider):
    """The provider of a process's clients, which share one transport.

    Calls take `timeout_seconds` at the most.
    """

    def __init__(self, transport: GuardedTransport, timeout_seconds: float) -> None:
        self._transport = transport
        self._timeout_seconds = timeout_seconds

    def open(self, scope: RunScope) -> A2AClient:
        """Return the client of one attempt."""
        return HttpA2AClient(self._transport, self._timeout_seconds, scope)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


@dataclass(frozen=True)
class HttpA2AClient(A2AClient):
    """A client that sends a skill's name and arguments as one data part and follows the task.

    `target` is the agent's URL, which its card is found under. Calls take `timeout_seconds` at
    the most, and no longer than the caller's run.
    """

    transport: GuardedTransport
    timeout_seconds: float
    scope: RunScope

    async def call(
        self,
        target: str,
        skill: str,
        args: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> CallResult:
        """See `A2AClient.call`. A host that is not listed raises `TargetRefusedError`.

        With a `key`, the message has the same id in each attempt, so that an agent which
        respects ids does not start again. The call counts as one of the caller's tree; calls of
        the remote agent do not. The tokens that it reports (`usage` in the metadata of its
        responses) are charged to the tree, and a task that has used up the tokens of its
        `budget` is cancelled.
        """
        if options.grant is not None:
            raise CapabilityUnavailableError("workspace grants cannot be handed over by HTTP")
        self.transport.check(_url(target))
        await self.scope.charge_call()
        budget = options.budget or Budget()
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers)
        message = self._message(target, skill, args or {}, options.key)
        given, left = self._given(options.timeout, budget.seconds), self._left()
        seconds = given if left is None else min(given, left)
        try:
            async with self.scope.release_slot():
                call = self._call(target, message, headers, seconds, budget)
                return await self.scope.on_home_loop(call)
        except TimeoutError:
            if seconds == budget.seconds:
                raise RunTimedOut(
                    f"the call of {target} has used up its budget of {seconds:g} s",
                    code=ReasonCode.BUDGET_EXHAUSTED,
                ) from None
            # A call that ends with its caller's deadline, a moment before or after it, is overdue.
            raise RunTimedOut(
                f"the call of {target} took more than {seconds:g} s",
                deadline=self.scope.deadline if seconds == left else None,
            ) from None

    def _message(
        self, target: str, skill: str, args: Mapping[str, Any], key: str | None
    ) -> Message:
        message_id = uuid.uuid4()
        if key is not None:
            name = f"{self.scope.run_id}\0{target}\0{skill}\0{key}"
            message_id = uuid.uuid5(_MESSAGE_NAMESPACE, name)
        message = Message(message_id=str(message_id), role=Role.ROLE_USER)
        ParseDict({"skill": skill}, message.metadata)
        message.parts.append(ParseDict({"data": {"skill": skill, "args": dict(args)}}, Part()))
        return message

    def _given(self, *limits: float | None) -> float:
        """Return the time limit of a call itself."""
        return min(limit for limit in (self.timeout_seconds, *limits) if limit is not None)

    def _left(self) -> float | None:
        """Return the time left until the deadline of the caller's run; None without one."""
        if self.scope.deadline is None:
            return None
        return max((self.scope.deadline - datetime.now(UTC)).total_seconds(), 0.0)

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
            reason = redact(f"the call of {target} failed: {error}")
            raise RunFailed(reason, code="remote_error") from error

    def _take(self, task: RemoteTask, response: StreamResponse, budget: Budget) -> None:
        """Take a response and charge the tokens it reports; raises RunFailed beyond the budget."""
        before = task.tokens
        task.take(response)
        if task.tokens > before:
            self.scope.charge_tokens(task.tokens - before)
        if task.running and budget.tokens is not None and task.tokens >= budget.tokens:
            message = "the call's budget of tokens is used up"
            raise RunFailed(message, code=ReasonCode.BUDGET_EXHAUSTED, run_id=task.id)

    @contextlib.asynccontextmanager
    async def _http(self, seconds: float) -> AsyncIterator[httpx.AsyncClient]:
        """A client for this call alone, so that no call sees another's cookies."""
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
        raise TargetRefusedError(f"the target {target!r} is not a URL: {error}") from None


async def _client(http: httpx.AsyncClient, target: str) -> Client:
    card = await A2ACardResolver(http, target).get_agent_card()
    offered = list(card.supported_interfaces)
    supported = [each for each in offered if _is_supported(each)]
    if not supported:
        names = ", ".join(f"{each.protocol_binding} {each.protocol_version}" for each in offered)
        raise CapabilityUnavailableError(
            f"the agent at {target} offers {names or 'no interface'};"
            f" a fleet supports {' and '.join(_BINDINGS)} of A2A 1.x"
        )
    del card.supported_interfaces[:]
    card.supported_interfaces.extend(supported)
    config = ClientConfig(httpx_client=http, supported_protocol_bindings=list(_BINDINGS))
    return ClientFactory(config).create(card)


def _is_supported(interface: AgentInterface) -> bool:
    major = interface.protocol_version.partition(".")[0]
    return interface.protocol_binding in _BINDINGS and major == "1"


async def _cancel(client: Client, task_id: str, context: ClientCallContext) -> None:
    """Best effort: the remote agent may be gone, or the task over."""

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
