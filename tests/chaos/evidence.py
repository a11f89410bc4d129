"""The evidence of a round: the ledger as plain Redis data, and the journal of the skills."""

import base64
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from skillfleet.contracts import RunState
from skillfleet_ledger.keys import Keyspace
from skillfleet_ledger.streams import kept_events
from tests.chaos.troubles import Troubles


@dataclass(frozen=True)
class Entry:
    """One event of a stream."""

    id: str
    kind: str
    payload: dict[str, Any]
    attempt: int
    step: str | None = None


@dataclass(frozen=True)
class Line:
    """A line of the journal that is about something: `have:first:3f2a`."""

    attempt: int
    word: str
    name: str
    value: str
    at: int


@dataclass(frozen=True)
class Run:
    """One run, as its keys describe it; times of attempts in ms by Redis."""

    id: str
    record: dict[str, str]
    attempts: list[dict[str, Any]]
    events: list[Entry]
    children: list[str]
    result: dict[str, Any] | None
    recorded: dict[str, int] = field(default_factory=dict)
    """The steps in its journal by name, each with the attempt that recorded it."""
    turn: int = 0
    """Its number in its session, from 1."""

    @property
    def state(self) -> RunState:
        return RunState(self.record["state"])

    @property
    def skill(self) -> str:
        return self.record["skill"]

    @property
    def parent(self) -> str | None:
        """The run that called it."""
        return self.record.get("parent")

    def outcome(self, attempt: int) -> str:
        """Return how an attempt ended; '' while it is open."""
        entry = next((one for one in self.attempts if one["number"] == attempt), {})
        return str(entry.get("outcome", ""))

    def numbers(self, attempt: int) -> list[int]:
        """The numbers that the skill itself gave to its events in an attempt."""
        return [
            event.payload["current"]
            for event in self.events
            if event.attempt == attempt and event.payload.get("message") == "numbered"
        ]


@dataclass(frozen=True)
class Execution:
    """The journal's lines of one attempt; times in nanoseconds, monotonic."""

    attempt: int
    pid: int
    words: tuple[str, ...]
    times: tuple[int, ...]
    group: int = 0
    """The worker's process group."""

    @property
    def first(self) -> int:
        return self.times[0]

    @property
    def last(self) -> int:
        return self.times[-1]

    @property
    def ended(self) -> bool:
        return "end" in self.words

    @property
    def over(self) -> int:
        """The time at which the handler ended, if it `ended`."""
        return self.times[self.words.index("end")]

    @property
    def lines(self) -> list[Line]:
        """What it noted about steps, questions, messages and calls, in order."""
        found = []
        for word, at in zip(self.words, self.times, strict=True):
            kind, name, value = (*word.split(":", 2), "", "")[:3]
            if name:
                found.append(Line(self.attempt, kind, name, value, at))
        return found


@dataclass(frozen=True)
class Scene:
    """The context of a round: how journal and ledger read the clock, and the faults."""

    troubles: Troubles = field(default_factory=Troubles)
    groups: Mapping[int, int] = field(default_factory=dict)
    """The worker of each process group."""
    skew: int = 0
    """Nanoseconds from the journal's clock to the ledger's."""
    now: int = field(default_factory=time.monotonic_ns)
    """When the round was over, by the journal's clock."""
    messages: tuple["Message", ...] = ()
    """What a broker on Redis still has."""
    states: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The saved state of each session."""

    def at(self, moment: Any) -> int:
        """A time of the ledger by the journal's clock; the end of the round for None."""
        return self.now if moment is None else int(moment) * 1_000_000 - self.skew

    def worker(self, one: Execution) -> int | None:
        """The worker that executed it."""
        return self.groups.get(one.group)


@dataclass(frozen=True)
class Message:
    """A message of the broker's: its task's id and, in a plain client's, keyword arguments."""

    id: str
    arguments: dict[str, Any]


class Journal:
    """The skills' own account of what was executed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def text(self) -> str:
        return self._path.read_text()

    @cached_property
    def executions(self) -> dict[str, list[Execution]]:
        """By run: its executions in the order of their beginnings."""
        lines: dict[tuple[str, int, int, int], list[tuple[str, int]]] = defaultdict(list)
        for line in self.text.splitlines():
            run_id, attempt, word, *numbers = line.split()
            moment, pid, of = map(int, numbers)
            lines[run_id, int(attempt), pid, of].append((word, moment))
        found: dict[str, list[Execution]] = defaultdict(list)
        for (run_id, number, process, group), entries in lines.items():
            words, times = zip(*sorted(entries, key=lambda entry: entry[1]), strict=True)
            found[run_id].append(Execution(number, process, words, times, group))
        return {run: sorted(all_, key=lambda one: one.first) for run, all_ in found.items()}


def read_runs(client: Any, keys: Keyspace) -> dict[str, Run]:
    """All runs of the ledger, by id."""
    runs = {}
    for prefix in keys.prefixes():
        for key in client.scan_iter(match=f"{prefix}run:*", count=1000):
            run_id = key.decode().removeprefix(f"{prefix}run:")
            runs[run_id] = _read(client, keys, prefix, run_id)
    return runs


def _read(client: Any, keys: Keyspace, prefix: str, run_id: str) -> Run:
    record = {k.decode(): v.decode() for k, v in client.hgetall(f"{prefix}run:{run_id}").items()}
    listed = [orjson.loads(one) for one in client.lrange(f"{prefix}attempts:{run_id}", 0, -1)]
    attempts = [*listed, *_last_attempt(record, listed)]
    kept = [
        (entry, dict(zip(fields[::2], fields[1::2], strict=True)))
        for entry, fields in kept_events(record.get("kept", "").encode())
    ]
    events = [
        Entry(
            *(entry.decode(), f[b"k"].decode(), orjson.loads(f[b"p"]), int(f[b"a"])),
            step=f[b"s"].decode() if b"s" in f else None,
        )
        for entry, f in [*kept, *client.xrange(f"{prefix}events:{run_id}")]
    ]
    children = sorted(child.decode() for child in client.smembers(f"{prefix}children:{run_id}"))
    result = client.get(keys.result_key(run_id))
    entries = [
        orjson.loads(stored.partition(b"\n")[0])
        for stored in client.hvals(f"{prefix}journal:{run_id}")
    ]
    return Run(
        *(run_id, record, attempts, events, children),
        orjson.loads(result) if result else None,
        {entry["m"]: entry["a"] for entry in entries if entry["k"] == "step"},
        int(client.zscore(f"{prefix}session_runs:{record.get('session')}", run_id) or 0),
    )


def read_states(client: Any, keys: Keyspace) -> dict[str, list[str]]:
    """The saved state of each session: the runs that added themselves to it."""
    return {
        key.decode().partition("session_state:")[2]: orjson.loads(client.get(key))
        for prefix in keys.prefixes()
        for key in client.scan_iter(match=f"{prefix}session_state:*", count=1000)
    }


def _last_attempt(record: dict[str, str], listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempt that runs or ended the run, which is in the record and not in the list."""
    number = int(record["attempt"])
    if number <= (listed[-1]["number"] if listed else 0):
        return []
    ended = {"ended": int(record["finished"]), "outcome": record["state"]}
    return [
        {
            "number": number,
            "worker": record["worker"],
            "started": int(record["started"]),
            **(ended if "finished" in record else {}),
        }
    ]


def read_messages(client: Any) -> tuple[Message, ...]:
    """All that is queued on, or claimed from, a broker that is this Redis."""
    return tuple(message for raw in _raw_messages(client) if (message := _message(raw)))


def _raw_messages(client: Any) -> Iterator[Any]:
    for key in client.scan_iter(count=1000, _type="list"):
        for raw in client.lrange(key, 0, -1):
            yield raw
    for key in client.scan_iter(match="*unacked", count=1000, _type="hash"):
        for raw in client.hvals(key):
            yield orjson.dumps(orjson.loads(raw)[0])


def _message(raw: bytes) -> Message | None:
    try:
        found = orjson.loads(raw)
        body = orjson.loads(base64.b64decode(found["body"]))
        return Message(found["headers"]["id"], body[1])
    except (ValueError, KeyError, TypeError, IndexError):
        # A list of something else, or a message of the fleet's own.
        return None
