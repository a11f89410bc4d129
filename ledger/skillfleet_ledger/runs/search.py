"""Search of runs by state, agent, tags and session.

A page costs the same however many runs there are.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from skillfleet.contracts import RunState, RunStatus
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.records import STATUS_FIELDS, status_of, tag_lines

MOST_LISTED: Final = 10_000
"""The most runs of a page."""
_MOST_READ = 1000
"""The index entries that a page reads of a shard beyond its own length."""
_BATCH = 500
"""The snapshots that one script reads: Redis serves others in between."""
_CURSOR = re.compile(r"(\d{1,15})-(.+)", re.DOTALL)


class RunPage(list[RunStatus]):
    """Runs, newest first. `cursor` is where the next page starts; None when there is none.

    A page may hold fewer runs than asked for, even none, and have a cursor.
    """

    def __init__(self, runs: Sequence[RunStatus] = (), cursor: str | None = None) -> None:
        super().__init__(runs)
        self.cursor = cursor


@dataclass(frozen=True)
class RunFilter:
    """The conditions that all runs of a page meet; None and empty ones hold for all runs."""

    state: RunState | None = None
    agent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    since_ms: int = 0
    """The earliest time of creation, in milliseconds since the epoch."""
    session: str | None = None
    """The session, as `session_name` returns it."""

    @property
    def indexes(self) -> list[str]:
        """The names of the indexes that such runs are in."""
        of_agent = [] if self.agent is None else [f"agent:{self.agent}"]
        of_session = [] if self.session is None else [f"session:{self.session}"]
        return [*of_agent, *(f"tag:{line}" for line in tag_lines(self.tags)), *of_session]


class Position(NamedTuple):
    """A run's place in the list: its time of creation (ms) and its id."""

    created_ms: int
    run_id: bytes

    @classmethod
    def read(cls, cursor: str) -> "Position":
        """Return the position in a page's cursor; raises ValueError."""
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise ValueError(f"after must be the cursor of a page of runs, not {cursor!r}")
        return cls(int(match[1]), match[2].encode(errors="replace"))

    @property
    def cursor(self) -> str:
        """The position as the cursor of a page."""
        return f"{self.created_ms}-{self.run_id.decode(errors='replace')}"


_NEWEST = Position(10**15, b"")


class _Part(NamedTuple):
    """The runs that one shard found, and the position it searched to; None to the end."""

    runs: list[Position]
    searched: Position | None


class Search(RunOperations):
    """Lists runs; changes nothing."""

    async def page(
        self, conditions: RunFilter | None = None, *, limit: int = 50, after: str | None = None
    ) -> RunPage:
        """Return runs that meet the conditions, newest first, after the cursor `after`.

        Raises ValueError for another string than a cursor, and a limit that is not 1 to
        MOST_LISTED.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise ValueError(f"limit must be 1 to {MOST_LISTED}, not {limit!r}")
        wanted = conditions or RunFilter()
        start = Position.read(after) if after is not None else _NEWEST
        keys = self._keys
        # All runs of a session are on one shard.
        prefixes = keys.prefixes() if wanted.session is None else [keys.prefix(wanted.session)]
        parts = await asyncio.gather(
            *(self._search(prefix, wanted, start, limit) for prefix in prefixes)
        )
        found, end = _merged(parts, limit)
        statuses = await self.statuses([run_id.decode() for _, run_id in found])
        # A run may have changed its state, or expired, between search and reading.
        kept = [run for run in statuses if run and wanted.state in (None, run.state)]
        return RunPage(kept, end.cursor if end else None)

    async def statuses(self, run_ids: Sequence[str]) -> list[RunStatus | None]:
        """Return snapshots of runs, in one round trip; None without a readable record."""
        by_shard: dict[str, list[str]] = {}
        for run_id in run_ids:
            by_shard.setdefault(self._keys.prefix(run_id), []).append(run_id)
        parts = await asyncio.gather(
            *(
                self._snapshots(prefix, of_shard[start : start + _BATCH])
                for prefix, of_shard in by_shard.items()
                for start in range(0, len(of_shard), _BATCH)
            )
        )
        found = {run_id: status for part in parts for run_id, status in part.items()}
        return [found[run_id] for run_id in run_ids]

    async def _snapshots(self, prefix: str, run_ids: Sequence[str]) -> dict[str, RunStatus | None]:
        args = (len(STATUS_FIELDS), *STATUS_FIELDS, *run_ids)
        replies = await run_script(self._connection, "snapshots", (prefix,), args)
        return {
            run_id: status_of(run_id, *parts) if parts else None
            for run_id, parts in zip(run_ids, replies, strict=True)
        }

    async def _search(self, prefix: str, wanted: RunFilter, start: Position, limit: int) -> _Part:
        args: tuple[Any, ...] = (limit, limit + _MOST_READ, wanted.since_ms, *start)
        reply = await run_script(
            self._connection, "search", (prefix,), (*args, wanted.state or "", *wanted.indexes)
        )
        is_complete, at, run_id, flat = reply
        runs = [Position(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
        return _Part(runs, None if is_complete else Position(at, run_id))


def _merged(parts: Sequence[_Part], limit: int) -> tuple[list[Position], Position | None]:
    """Return the first runs of all shards and the position that the next page starts after.

    Beyond the position up to which every shard has searched, a run may still be missing.
    """
    end = max((part.searched for part in parts if part.searched is not None), default=None)
    found = [run for part in parts for run in part.runs if end is None or run >= end]
    found.sort(reverse=True)
    if len(found) > limit:
        return found[:limit], found[limit - 1]
    return found, end
