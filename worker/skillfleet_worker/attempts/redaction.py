"""Redaction of what an attempt that declares secrets writes: its events and its outcome."""

import asyncio
import contextlib
import traceback
from dataclasses import replace
from typing import Final, TypeVar

import orjson

from skillfleet.contracts import TEXT_DELTA_KIND
from skillfleet.errors import EventsUnwritableError
from skillfleet.ports.journal import Emission
from skillfleet.redaction import Redactor
from skillfleet_worker.attempts.event_buffer import EventBuffer
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Parked,
    Released,
    Retry,
    Succeeded,
    TimedOut,
)

PAUSE_SECONDS: Final = 0.25
"""The time that a possible start of a secret is held back for the next piece of its text."""

ErrorT = TypeVar("ErrorT", bound=BaseException)


class RedactingEventBuffer:
    """Removes secrets from events; belongs to the loop its handler runs on."""

    def __init__(self, events: EventBuffer, redactor: Redactor) -> None:
        self._events = events
        self._redactor = redactor
        self._pause: asyncio.TimerHandle | None = None
        self._flush: asyncio.Task[None] | None = None
        self._emission: Emission | None = None

    async def append(self, kind: str, payload: bytes, emission: Emission | None = None) -> None:
        """Accept an event; see `EventBuffer.append`."""
        if kind == TEXT_DELTA_KIND and await self._append_text(payload, emission):
            return
        await self.append_held()
        await self._events.append(kind, self._redactor.redact_json(payload), emission)

    async def append_held(self) -> None:
        """Write the text that is still held back."""
        await self._append(self._redactor.flush())

    async def finish(self) -> None:
        """Write what is still held back, after the handler has ended."""
        self._end_pause()
        if self._flush is not None:
            await asyncio.wait({self._flush})
        # An error of the writes is raised again when the attempt is settled.
        with contextlib.suppress(EventsUnwritableError):
            await self.append_held()

    async def _append_text(self, payload: bytes, emission: Emission | None) -> bool:
        event = orjson.loads(payload)
        if not isinstance(event.get("text"), str):
            return False
        self._emission = emission
        text = self._redactor.feed(event["text"])
        self._end_pause()
        if self._redactor.holds_text:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(PAUSE_SECONDS, self._begin_flush)
        if text or not event["text"]:
            others = {name: value for name, value in event.items() if name != "text"}
            redacted = {"text": text} | self._redactor.redact_value(others)
            await self._events.append(TEXT_DELTA_KIND, orjson.dumps(redacted), emission)
        return True

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()

    def _begin_flush(self) -> None:
        self._flush = asyncio.create_task(self._append_paused())

    async def _append_paused(self) -> None:
        with contextlib.suppress(EventsUnwritableError):
            await self._append(self._redactor.flush(pausing=True))

    async def _append(self, text: str) -> None:
        if text:
            # Of the last piece, whose text it ends.
            await self._events.append(TEXT_DELTA_KIND, orjson.dumps({"text": text}), self._emission)


class RedactedError(Exception):
    """Replaces an error whose traceback held a secret; its text is the redacted traceback."""


def redact_outcome(outcome: Outcome, redactor: Redactor) -> Outcome:
    """Return the outcome without secrets in its value, message and error."""
    match outcome:
        case Succeeded(value):
            return Succeeded(redactor.redact_value(value))
        case Failed(code, message, error):
            shown = None if error is None else _redact_error(error, redactor)
            return Failed(redactor.redact(code), redactor.redact(message), shown)
        case Retry(_, message, error):
            shown = _redact_error(error, redactor)
            return replace(outcome, message=redactor.redact(message), error=shown)
        case Cancelled(reason, code):
            return Cancelled(redactor.redact(reason), redactor.redact(code))
        case TimedOut() | Released() | Parked() | Lost():
            return outcome


def _redact_error(error: ErrorT, redactor: Redactor) -> ErrorT | RedactedError:
    """Return the error itself where its traceback, which Celery's monitors receive, is clean."""
    original = "".join(traceback.format_exception(error))
    redacted = redactor.redact(original)
    return error if redacted == original else RedactedError(redacted)
