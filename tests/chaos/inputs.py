"""Input from outside: who answers a run's questions and sends it messages, and with what luck.

All try again until the reply is clear, as a request whose reply is lost may have arrived.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from skillfleet.contracts import Wait, WaitKind
from skillfleet.errors import (
    FleetUnavailableError,
    RunEndedError,
    UnknownWaitError,
    WaitConflictError,
)
from skillfleet_producer.fleet_async import AsyncRunHandle

_LOOK_SECONDS = 0.1


class Luck(StrEnum):
    """What became of an input: ACCEPTED also when it only learns so at a later try."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Act:
    """One who decides a question: an answer, or with None a rejection.

    When `dies`, by one whose first decision is answered, and who does nothing any more then.
    """

    value: int | None
    after: float = 0.0
    """Seconds after the question was seen."""
    dies: bool = False

    def __str__(self) -> str:
        return "rejected=no" if self.value is None else f"answer={self.value}"


@dataclass
class Given:
    """What one gave as the answer to a question, and what became of it."""

    question: str
    what: str
    luck: Luck = Luck.UNKNOWN


@dataclass
class Sent:
    """A message that was sent; ACCEPTED, or UNKNOWN where the reply was lost."""

    token: str
    luck: Luck = Luck.UNKNOWN


@dataclass(frozen=True)
class Inputs:
    """What a run gets: acts by the name of a question, the pauses before its messages."""

    acts: Mapping[str, tuple[Act, ...]] = field(default_factory=dict)
    pauses: tuple[float, ...] = ()


Deed = Callable[[AsyncRunHandle], Awaitable[object]]


async def decide(run: AsyncRunHandle, wait_id: str, act: Act) -> Luck:
    """Answer or reject until it is clear whether that was accepted."""
    while True:
        try:
            if act.value is None:
                await run.reject("no", wait_id)
            else:
                await run.answer(act.value, wait_id)
        except FleetUnavailableError:
            await asyncio.sleep(_LOOK_SECONDS)
        except (WaitConflictError, RunEndedError, UnknownWaitError):
            return Luck.REFUSED
        else:
            return Luck.ACCEPTED


class Attendant:
    """Looks after one run: sees its questions, lets them be decided, sends its messages.

    `die_after` does a deed as somebody who is gone as soon as a decision was answered; it returns
    whether one was.
    """

    def __init__(
        self,
        run: AsyncRunHandle,
        inputs: Inputs,
        given: list[Given],
        sent: list[Sent],
        die_after: Callable[[AsyncRunHandle, Deed], Awaitable[bool]],
    ) -> None:
        self._run = run
        self._inputs = inputs
        self._given = given
        self._sent = sent
        self._die_after = die_after

    async def attend(self) -> None:
        """Do so until the run has ended."""
        async with asyncio.TaskGroup() as group:
            if self._inputs.pauses:
                group.create_task(self._send_all())
            if self._inputs.acts:
                group.create_task(self._watch())

    async def _watch(self) -> None:
        seen: set[str] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                with suppress(FleetUnavailableError):
                    for wait in await self._run.waits():
                        if wait.kind is WaitKind.ASK and wait.id not in seen:
                            seen.add(wait.id)
                            for act in self._inputs.acts.get(question_in(wait), ()):
                                group.create_task(self._act(wait, act))
                    if (await self._run.status()).state.terminal:
                        return
                await asyncio.sleep(_LOOK_SECONDS)

    async def _act(self, wait: Wait, act: Act) -> None:
        given = Given(question_in(wait), str(act))
        self._given.append(given)
        await asyncio.sleep(act.after)

        async def deed(run: AsyncRunHandle) -> None:
            given.luck = await decide(run, wait.id, act)

        if act.dies and await self._die_after(self._run, deed):
            # The ledger took it. The reaper will publish the run: no one else knows.
            given.luck = Luck.ACCEPTED
        else:
            await deed(self._run)

    async def _send_all(self) -> None:
        """Send one message after the other; the last one says that it is the last."""
        for number, pause in enumerate(self._inputs.pauses, start=1):
            await asyncio.sleep(pause)
            if not await self._send(is_last=number == len(self._inputs.pauses)):
                return

    async def _send(self, *, is_last: bool) -> bool:
        """Send until one is accepted, each time another one; False at the run's end."""
        while True:
            sent = Sent(secrets.token_hex(4))
            self._sent.append(sent)
            try:
                await self._run.send({"token": sent.token, "last": is_last})
            except FleetUnavailableError:
                await asyncio.sleep(_LOOK_SECONDS)
            except RunEndedError:
                sent.luck = Luck.REFUSED
                return False
            else:
                sent.luck = Luck.ACCEPTED
                return True


def question_in(wait: Wait) -> str:
    """The name of a question: the last word of its text."""
    return wait.question.rpartition(" ")[2]
