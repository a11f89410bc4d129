"""Compaction: the text of recorded steps survives the trimming of their events.

A stream keeps its newest events. Before the text deltas of a recorded step are trimmed, their text
is kept beside the stream; a reader gets it as one event in their place.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

import orjson

from skillfleet.contracts import SUPERSEDED_KIND, TEXT_DELTA_KIND, RunEvent, from_millis
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.stream_entries import StreamEntry, entry_number, event_number, event_of

_PAGE: Final = 500
_MOST_TEXTS: Final = 1000
_MOST_CHARS: Final = 16 * 1024
"""The bounds of what is kept of a run: a longer text is kept in several parts."""


class StepText(NamedTuple):
    """A part of the text of a step, in place of text deltas with these numbers and lengths."""

    step: str
    text: str
    numbers: Sequence[int]
    lengths: Sequence[int]
    attempt: int
    at_ms: int

    def deltas(self) -> Iterator["_Delta"]:
        """Yield the deltas that the text was joined of."""
        start = 0
        for number, length in zip(self.numbers, self.lengths, strict=True):
            text = self.text[start : start + length]
            yield _Delta(number, self.step, text, self.attempt, self.at_ms)
            start += length


class _Delta(NamedTuple):
    number: int
    step: str
    text: str
    attempt: int
    at_ms: int


class Compaction(RunOperations):
    """Keeps the texts of recorded steps beside the stream, under the lease."""

    async def compact(self, lease: Lease, last: int) -> None:
        """Keep the texts of recorded steps up to the event with number `last`.

        What follows the first event of a step that is not recorded yet is looked at next time.
        Does nothing when the lease is lost. Raises FleetUnavailableError.
        """
        run_id = lease.run_id
        done, unfinished = await self._connection.execute_all(
            ("HGET", self._key("run", run_id), "compacted"),
            ("HGETALL", self._key("unfinished", run_id)),
        )
        numbered = zip(unfinished[::2], unfinished[1::2], strict=True)
        starts = {step.decode(): int(number) for step, number in numbered}
        recorded = await self._recorded(run_id, starts)
        last = min([last, *(start - 1 for step, start in starts.items() if step not in recorded)])
        first = int(done or 0) + 1
        if last < first:
            return
        deltas = await self._deltas(run_id, first, last)
        recorded = await self._recorded(run_id, {delta.step for delta in deltas})
        texts = _joined(delta for delta in deltas if delta.step in recorded)
        args = chain.from_iterable((text.numbers[-1], orjson.dumps(tuple(text))) for text in texts)
        await self._run("compact", run_id, lease.token, last, _MOST_TEXTS, *args)

    async def _deltas(self, run_id: str, first: int, last: int) -> list[_Delta]:
        """Return the text deltas of steps between two numbers, without those that are void."""
        deltas: list[_Delta] = []
        while first <= last:
            entries: list[StreamEntry] = await self._connection.execute(
                *("XRANGE", self._key("events", run_id), f"{first}-0", f"{last}-0"),
                *("COUNT", _PAGE),
            )
            if not entries:
                break
            for event in map(event_of, entries):
                text = event.payload.get("text")
                if event.kind == SUPERSEDED_KIND:
                    void = event.payload.get("step")
                    deltas = [delta for delta in deltas if delta.step != void]
                elif event.kind == TEXT_DELTA_KIND and event.step and isinstance(text, str):
                    at_ms = round(event.at.timestamp() * 1000)
                    number = event_number(event.id)
                    deltas.append(_Delta(number, event.step, text, event.attempt, at_ms))
            first = entry_number(entries[-1]) + 1
        return deltas

    async def _recorded(self, run_id: str, steps: Iterable[str]) -> set[str]:
        """Return those of the steps that the journal has."""
        journal, asked = self._key("journal", run_id), list(steps)
        if not asked:
            return set()
        known = await self._connection.execute_all(*(("HEXISTS", journal, step) for step in asked))
        return {step for step, is_known in zip(asked, known, strict=True) if is_known}


def _joined(deltas: Iterable[_Delta]) -> Iterator[StepText]:
    """Join deltas of the same step and attempt to texts of bounded length."""
    parts: dict[tuple[str, int], _Part] = {}
    for delta in deltas:
        part = parts.setdefault((delta.step, delta.attempt), _Part())
        if part.chars + len(delta.text) > _MOST_CHARS and part.deltas:
            yield part.text()
            part = parts[delta.step, delta.attempt] = _Part()
        part.add(delta)
    yield from (part.text() for part in parts.values())


class _Part:
    """Deltas that become one text."""

    def __init__(self) -> None:
        self.deltas: list[_Delta] = []
        self.chars = 0

    def add(self, delta: _Delta) -> None:
        self.deltas.append(delta)
        self.chars += len(delta.text)

    def text(self) -> StepText:
        first = self.deltas[0]
        return StepText(
            first.step,
            "".join(delta.text for delta in self.deltas),
            [delta.number for delta in self.deltas],
            [len(delta.text) for delta in self.deltas],
            first.attempt,
            first.at_ms,
        )


def restored(stored: Iterable[bytes], position: int, end: int) -> list[tuple[int, RunEvent]]:
    """Return what texts keep of the events with numbers between `position` and `end`, exclusive.

    Text deltas of one step that followed each other are one event, with the number of the first.
    The event's own number is that of the last: a reader that resumes after it misses none of them
    and gets none twice.
    """
    deltas = chain.from_iterable(StepText(*orjson.loads(each)).deltas() for each in stored)
    groups = _groups(delta for delta in deltas if position < delta.number < end)
    return [(group[0].number, _event(group)) for group in groups]


def _groups(deltas: Iterable[_Delta]) -> Iterator[list[_Delta]]:
    """Yield deltas of one step that follow each other."""
    group: list[_Delta] = []
    for delta in sorted(deltas):
        if group and (delta.number, delta.step) != (group[-1].number + 1, group[-1].step):
            yield group
            group = []
        group.append(delta)
    if group:
        yield group


def _event(group: Sequence[_Delta]) -> RunEvent:
    last = group[-1]
    return RunEvent(
        id=f"{last.number}-0",
        kind=TEXT_DELTA_KIND,
        payload={"text": "".join(delta.text for delta in group)},
        attempt=last.attempt,
        at=from_millis(last.at_ms),
        step=last.step,
    )
