"""Steps: functions whose results are recorded once and returned by every attempt."""

import asyncio
import functools
import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import FunctionType
from typing import Any, Final, NoReturn, Protocol

import orjson

from skillfleet.arguments import check_seconds
from skillfleet.contracts import SUPERSEDED_KIND, EntryKind, WaitKind
from skillfleet.durable import identity as identities
from skillfleet.durable.failures import SecretKeeper, step_failed, step_failure, stops
from skillfleet.durable.journal import Journal, JournalOwner, journal_of
from skillfleet.durable.replay import refuse_nested, replayed
from skillfleet.durable.spans import entry_span
from skillfleet.durable.timers import wait_for_timer
from skillfleet.durable.values import ValueType, type_of_result
from skillfleet.errors import InvalidArgumentsError, InvalidResultError
from skillfleet.ports.journal import Emission, Entry, WaitSpec
from skillfleet.retry import RetryPolicy, retry_delay

_SHORT_SECONDS: Final = 1.0
"""A shorter pause between two tries is made in memory, a longer one is a timer of the run."""
_ONCE: Final = RetryPolicy()


class StepContext(JournalOwner, SecretKeeper, Protocol):
    """The part of a run context that a step needs."""

    @property
    def deadline(self) -> datetime | None:
        """The time at which the run is stopped."""

    async def _emit(self, kind: str, payload_json: bytes, emission: Emission | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """A step as the handler asks for it. `timeout` is in seconds, for each try."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    key: str | None = None
    returns: Any = None
    retry: RetryPolicy | None = None
    timeout: float | None = None

    def check(self) -> None:
        """Raise `InvalidArgumentsError` for what cannot be a step."""
        identities.check_name("a step's name", self.name)
        if not callable(self.function):
            raise InvalidArgumentsError(
                f"step {self.name!r}: {self.function!r} is not a function: write"
                " ctx.step(name, function, *arguments), without calling it"
            )
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise InvalidArgumentsError(f"step {self.name!r}: retry must be a RetryPolicy")
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)

    @property
    def digest(self) -> str:
        """The digest of the arguments, where they name the step."""
        if self.key is not None:
            return ""
        return identities.arguments_digest(self.name, self.args, self.kwargs or {})

    async def call(self) -> Any:
        """Call the function once, within the time limit; a sync one in a thread."""
        if self.timeout is None:
            return await self._call()
        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await self._call()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(f"it took longer than {self.timeout:g} s") from error

    async def _call(self) -> Any:
        call = functools.partial(self.function, *self.args, **(self.kwargs or {}))
        value = call() if _is_async(self.function) else await asyncio.to_thread(call)
        return await value if inspect.isawaitable(value) else value


async def run_step(context: StepContext, step: Step) -> Any:
    """Return a step's result: the recorded one, or that of the function, which is called now."""
    journal = journal_of(context)
    refuse_nested(journal, f"step {step.name!r}")
    step.check()
    kind = type_of_result(step.name, step.function, step.returns)
    async with journal.asking(EntryKind.STEP, step.name, step.key, step.digest) as identity:
        entry = journal.find(identity)
        if entry is None:
            return await _Execution(context, journal, step, kind, identity).run()
        return await replayed(journal, entry, kind)


class _Execution:
    """The execution of a step that is not recorded."""

    def __init__(
        self, context: StepContext, journal: Journal, step: Step, kind: ValueType, identity: str
    ) -> None:
        self._context = context
        self._journal = journal
        self._step = step
        self._kind = kind
        self._identity = identity
        self._policy = step.retry or _ONCE
        self._started = journal.start(identity, EntryKind.STEP, step.name)

    async def run(self) -> Any:
        """Call the function until a try counts; return its value, or raise its failure."""
        tries = await self._tries_before() + 1
        while True:
            # The run is not parked before the result is recorded.
            with self._journal.store.busy():
                await self._journal.begin()
                try:
                    encoded, value = await self._try(tries)
                except Exception as error:
                    if stops(self._journal, error, self._context.deadline):
                        raise
                    if not self._policy.applies_to(error, tries - 1):
                        await self._fail(error, tries)
                    delay = retry_delay(self._policy, error, tries, random.random)
                else:
                    await self._record(self._journal.entry(self._started, encoded, tries=tries))
                    return value
            await self._pause(tries, delay)
            tries += 1

    async def _tries_before(self) -> int:
        """Return how many tries earlier attempts made, after the pause that the last one began."""
        pending = self._journal.pending_pause(self._identity)
        if pending is None:
            return self._journal.failed_tries(self._identity)
        await self._pause(pending, _SHORT_SECONDS)
        return pending

    async def _try(self, tries: int) -> tuple[bytes, Any]:
        """Call the function once; return the JSON of its result, and the result read from it."""
        journal, identity = self._journal, self._identity
        journal.begin_try(identity, tries)
        span = entry_span(EntryKind.STEP, self._step.name, identity, tries)
        try:
            with span, journal.positions.executing(identity):
                encoded = self._encode(await self._step.call())
                value = self._kind.decode(encoded)
        except BaseException as error:
            if journal.end_try(identity) and not journal.store.stops_attempt(error):
                # What it has streamed is void. After a lost worker, the next claim says so.
                void = orjson.dumps({"step": identity})
                await self._context._emit(SUPERSEDED_KIND, void, None)  # noqa: SLF001
            raise
        journal.end_try(identity)
        return encoded, value

    def _encode(self, value: Any) -> bytes:
        encoded = self._kind.encode(value)
        if self._context._contains_secret({"value": encoded.decode()}):  # noqa: SLF001
            raise InvalidResultError(
                "its result contains the value of a secret: results are stored and shown"
            )
        return encoded

    async def _fail(self, error: Exception, tries: int) -> NoReturn:
        failure = step_failure(self._context, error)
        await self._record(self._journal.entry(self._started, failure=failure, tries=tries))
        failed = step_failed(self._step.name, failure, error)
        self._journal.raised(failed, self._identity)
        raise failed from error

    async def _record(self, entry: Entry) -> None:
        await self._journal.record(entry)
        self._journal.passed(entry)

    async def _pause(self, tries: int, seconds: float) -> None:
        """Wait before the next try."""
        backoff = identities.backoff_of(self._identity, tries)
        if seconds < _SHORT_SECONDS:
            await asyncio.sleep(seconds)
            return
        name = f"{self._step.name}: retry {tries}"
        spec = WaitSpec(backoff, WaitKind.TIMER, name=name, seconds=seconds)
        await wait_for_timer(self._journal, spec)


def _is_async(function: Callable[..., Any]) -> bool:
    """Return whether a call of the function returns at once, with an awaitable."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, FunctionType) and function.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    function = inspect.unwrap(function)
    called = getattr(function, "__call__", None)  # noqa: B004 - the method itself is looked at
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
