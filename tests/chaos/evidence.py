"""What a round left behind: the ledger as plain Redis data, and the journal of the skills."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from skillfleet.contracts import RunState
from skillfleet_ledger.keys import Keyspace


@dataclass(frozen=True)
class Entry:
    """One event of a stream."""

    id: str
    kind: str
    payload: dict[str, Any]
    attempt: int


@dataclass(frozen=True)
class Run:
    """One run, as its keys describe it; times of attempts in ms by Redis."""

    id: str
    record: dict[str, str]
    attempts: list[dict[str, Any]]
    events: list[Entry]
    children: list[str]
    result: dict[str, Any] | None

    @property
    def state(self) -> RunState:
        return RunState(self.record["state"])

    @property
    def skill(self) -> str:
        return self.record["skill"]

    def outcome(self, attempt: int) -> str:
        """How an attempt ended; '' while it is open."""
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
    """What the journal tells of one attempt; times in nanoseconds, monotonic."""

    attempt: int
    pid: int
    words: tuple[str, ...]
    times: tuple[int, ...]

    @property
    def first(self) -> int:
        return self.times[0]

    @property
    def last(self) -> int:
        return self.times[-1]

    @property
    def ended(self) -> bool:
        return "end" in self.words


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
        lines: dict[tuple[str, int, int], list[tuple[str, int]]] = defaultdict(list)
        for line in self.text.splitlines():
            run_id, attempt, word, moment, pid = line.split()
            lines[run_id, int(attempt), int(pid)].append((word, int(moment)))
        found: dict[str, list[Execution]] = defaultdict(list)
        for (run_id, number, process), told in lines.items():
            words, times = zip(*sorted(told, key=lambda entry: entry[1]), strict=True)
            found[run_id].append(Execution(number, process, words, times))
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
    events = [
        Entry(entry.decode(), f[b"k"].decode(), orjson.loads(f[b"p"]), int(f[b"a"]))
        for entry, f in client.xrange(f"{prefix}events:{run_id}")
    ]
    children = sorted(child.decode() for child in client.smembers(f"{prefix}children:{run_id}"))
    result = client.get(keys.result_key(run_id))
    return Run(run_id, record, attempts, events, children, orjson.loads(result) if result else None)


def _last_attempt(record: dict[str, str], listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempt that runs or ended the run, which the record tells and the list does not."""
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
