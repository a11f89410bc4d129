"""Compaction: readers of a trimmed stream get the text of recorded steps, once."""

from collections.abc import AsyncIterator

import orjson
import pytest

from skillfleet import joined_text
from skillfleet.contracts import RunEvent
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.streams import StepEvent
from tests.ledger.durable import entry, recorded
from tests.ledger.helpers import DONE, claimed, lapse, read_all, reap, running, settings_for, touch
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
CAP = 100


@pytest.fixture
async def ledger(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    """A ledger whose streams keep about a hundred events."""
    ledger = Ledger(settings_for(valkey, max_events=CAP))
    yield ledger
    await ledger.close()


def delta(text: str, step: str) -> StepEvent:
    """Return a packed piece of a step's text."""
    return ("text_delta", orjson.dumps({"text": text}), 1_795_000_000_000, step)


class Stream:
    """Writes the events of a run's steps, and compacts them as a worker does."""

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        self.ledger, self.lease = ledger, lease
        self.text = ""
        self.last = lease.seq
        self._entries = 0
        self._compacted = 0

    async def emit(self, *events: StepEvent) -> None:
        """Append events, in batches of ten."""
        for at in range(0, len(events), 10):
            batch = events[at : at + 10]
            reply = await self.ledger.streams.append(self.lease, self.last + 1, batch, emitted={})
            assert reply is not None
            self.last = reply[0]
            if self.last - self._compacted >= self.ledger.streams.compacted_after:
                await self.ledger.streams.compact(self.lease, self.last)
                self._compacted = self.last

    async def step(self, name: str, pieces: int) -> None:
        """Stream a text in pieces and record the step."""
        texts = [f"{name}.{number} ä;" for number in range(pieces)]
        await self.emit(*(delta(text, name) for text in texts))
        await self.record(name)
        self.text += "".join(texts)

    async def record(self, *names: str) -> None:
        for name in names:
            self._entries += 1
            await recorded(self.ledger, self.lease, entry(name, self._entries))

    async def end(self) -> None:
        await self.ledger.leases.settle(self.lease, TASK, self.last, DONE)


@pytest.fixture
async def stream(ledger: Ledger) -> Stream:
    """A run that has just begun."""
    return Stream(ledger, await running(ledger))


async def resumed_everywhere(stream: Stream) -> list[RunEvent]:
    """Read all events, and check that a reader that resumes after any of them gets the rest."""
    events = await read_all(stream.ledger, stream.lease.run_id)
    numbers = [int(event.id.partition("-")[0]) for event in events]
    assert numbers == sorted(set(numbers))
    for count, each in enumerate(events, start=1):
        rest = await read_all(stream.ledger, stream.lease.run_id, each.id)
        assert rest == events[count:], each
    return events


async def test_the_text_of_recorded_steps_outlives_their_events(stream: Stream) -> None:
    for number in range(40):
        await stream.step(f"step-{number}", 15)
    await stream.end()
    events = await resumed_everywhere(stream)
    assert joined_text(events) == stream.text
    assert not [event for event in events if event.kind == "trimmed" and event.id != "1-0"]
    # One event for each step whose events were all trimmed.
    first = [event for event in events if event.step == "step-0"]
    assert [event.payload["text"] for event in first] == [stream.text.partition("step-1.")[0]]
    assert len(events) < 40 + 3 * CAP


async def test_a_reader_that_stopped_anywhere_ends_with_the_text_once(stream: Stream) -> None:
    for number in range(3):
        await stream.step(f"step-{number}", 20)
    early = await read_all_now(stream)
    for number in range(3, 30):
        await stream.step(f"step-{number}", 20)
    await stream.end()
    for count in range(1, len(early) + 1, 7):
        seen = early[:count]
        rest = await read_all(stream.ledger, stream.lease.run_id, seen[-1].id)
        assert joined_text([*seen, *rest]) == stream.text, count


async def read_all_now(stream: Stream) -> list[RunEvent]:
    """Read the events that are in the stream now."""
    found: list[RunEvent] = []
    async for batch in stream.ledger.streams.batches(stream.lease.run_id):
        found += batch
        if int(found[-1].id.partition("-")[0]) == stream.last:
            break
    return found


async def test_steps_at_once_keep_the_order_of_their_pieces(stream: Stream) -> None:
    pieces = [delta(f"{step}{number};", step) for number in range(40) for step in "ab"]
    await stream.emit(*pieces)
    await stream.record("a", "b")
    stream.text = "".join(f"{step}{number};" for number in range(40) for step in "ab")
    for number in range(20):
        await stream.step(f"step-{number}", 20)
    await stream.end()
    assert joined_text(await resumed_everywhere(stream)) == stream.text


async def test_other_events_are_missing_and_that_is_said(stream: Stream) -> None:
    await stream.emit(delta("before;", "s"), ("note", b"{}", 1, "s"), delta("after;", "s"))
    await stream.record("s")
    stream.text = "before;after;"
    for number in range(20):
        await stream.step(f"step-{number}", 20)
    await stream.end()
    events = await resumed_everywhere(stream)
    assert joined_text(events) == stream.text
    shown = [(each.id, each.kind, each.payload.get("missed")) for each in events[:4]]
    assert shown == [
        ("1-0", "trimmed", 1),
        ("2-0", "text_delta", None),
        ("3-0", "trimmed", 1),
        ("4-0", "text_delta", None),
    ]


async def test_void_text_and_that_of_steps_without_a_record_are_not_kept(stream: Stream) -> None:
    await stream.emit(delta("void;", "s"), ("superseded", b'{"step":"s"}', 1, ""))
    await stream.emit(delta("valid;", "s"), delta("lost;", "never recorded"))
    await stream.record("s")
    # A step that is not recorded holds compaction up: it may still be.
    await stream.ledger.streams.compact(stream.lease, stream.last)
    await stream.emit(*(delta("x", "never recorded") for _ in range(4 * CAP)))
    await stream.end()
    events = await resumed_everywhere(stream)
    assert "valid;" in joined_text(events)
    assert "void;" not in joined_text(events)
    assert "lost;" not in joined_text(events)


async def test_only_the_attempt_with_the_lease_compacts(stream: Stream, ledger: Ledger) -> None:
    await stream.step("s", 20)
    await lapse(ledger, stream.lease.run_id)
    await reap(ledger)
    await ledger.streams.compact(stream.lease, stream.last)
    run_id = stream.lease.run_id
    assert await touch(ledger, "EXISTS", run_id, f"texts:{run_id}") == 0
    second = await claimed(ledger, run_id, "w2")
    await ledger.streams.compact(second, second.seq)
    assert await touch(ledger, "ZCARD", run_id, f"texts:{run_id}") == 1
    # Safe to repeat.
    await touch(ledger, "HDEL", run_id, f"run:{run_id}", "compacted")
    await ledger.streams.compact(second, second.seq)
    assert await touch(ledger, "ZCARD", run_id, f"texts:{run_id}") == 1


async def test_a_long_text_is_kept_in_parts_and_there_are_not_too_many(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillfleet_ledger.compaction._MOST_CHARS", 50)
    monkeypatch.setattr("skillfleet_ledger.compaction._MOST_TEXTS", 5)
    for number in range(20):
        await stream.step(f"step-{number}", 20)
    run_id = stream.lease.run_id
    assert await touch(stream.ledger, "ZCARD", run_id, f"texts:{run_id}") == 5
    await stream.end()
    events = await resumed_everywhere(stream)
    # The oldest are missing.
    assert stream.text.endswith(joined_text(events))
    assert events[0].kind == "trimmed"
    assert await touch(stream.ledger, "PTTL", run_id, f"texts:{run_id}") > 0
