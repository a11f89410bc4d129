"""What an attempt with secrets writes, without their values: its events and its outcome."""

import asyncio
import contextlib
import traceback
from typing import Final, TypeVar

import orjson

from skillfleet.errors import EventsUnwritableError
from skillfleet_worker.attempts.event_buffer import Outbox
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Released,
    Retry,
    Succeeded,
    TimedOut,
)
from skillfleet_worker.attempts.redactor import Redactor

PATIENCE_SECONDS: Final = 0.25
"""How long a text waits for its next piece where it may be the start of a secret."""

_TEXT_DELTA = "text_delta"
ErrorT = TypeVar("ErrorT", bound=BaseException)


class QuietOutbox:
    """An outbox whose events hold no secrets; belongs to the loop its handler runs on."""

    def __init__(self, outbox: Outbox, redactor: Redactor) -> None:
        self._outbox = outbox
        self._redactor = redactor
        self._pause: asyncio.TimerHandle | None = None
        self._flush: asyncio.Task[None] | None = None

    async def put(self, kind: str, payload: bytes) -> None:
        """Accept an event; see `Outbox.put`."""
        if kind == _TEXT_DELTA and await self._put_text(payload):
            return
        await self._put_rest()
        await self._outbox.put(kind, self._redactor.json(payload))

    async def finish(self) -> None:
        """The handler is over: what was kept back goes out now."""
        self._end_pause()
        if self._flush is not None:
            await asyncio.wait({self._flush})
        # Whether events can be written shows when the attempt is settled.
        with contextlib.suppress(EventsUnwritableError):
            await self._put_rest()

    async def _put_text(self, payload: bytes) -> bool:
        event = orjson.loads(payload)
        if not isinstance(event.get("text"), str):
            return False
        text = self._redactor.stream(event["text"])
        self._end_pause()
        if self._redactor.keeps:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(PATIENCE_SECONDS, self._begin_flush)
        if text or not event["text"]:
            others = {name: value for name, value in event.items() if name != "text"}
            quiet = {"text": text} | self._redactor.value(others)
            await self._outbox.put(_TEXT_DELTA, orjson.dumps(quiet))
        return True

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()

    def _begin_flush(self) -> None:
        self._flush = asyncio.create_task(self._put_paused())

    async def _put_paused(self) -> None:
        with contextlib.suppress(EventsUnwritableError):
            await self._put(self._redactor.rest(pausing=True))

    async def _put_rest(self) -> None:
        await self._put(self._redactor.rest())

    async def _put(self, text: str) -> None:
        if text:
            await self._outbox.put(_TEXT_DELTA, orjson.dumps({"text": text}))


class HiddenError(Exception):
    """Stands for an error whose text held a secret, and tells the same without it."""


def quiet_outcome(outcome: Outcome, redactor: Redactor) -> Outcome:
    """The outcome without secrets in its value, message and error."""
    match outcome:
        case Succeeded(value):
            return Succeeded(redactor.value(value))
        case Failed(code, message, error):
            shown = None if error is None else _quiet_error(error, redactor)
            return Failed(redactor.text(code), redactor.text(message), shown)
        case Retry(delay, message, error):
            return Retry(delay, redactor.text(message), _quiet_error(error, redactor))
        case Cancelled(reason, code):
            return Cancelled(redactor.text(reason), redactor.text(code))
        case TimedOut() | Released() | Lost():
            return outcome


def _quiet_error(error: ErrorT, redactor: Redactor) -> ErrorT | HiddenError:
    """The error itself where it may be shown: Celery sends tracebacks to its monitors."""
    told = "".join(traceback.format_exception(error))
    quiet = redactor.text(told)
    return error if quiet == told else HiddenError(quiet)
