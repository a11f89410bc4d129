"""Sessions: ordered runs of one conversation, one of which executes at a time, and their state."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from skillfleet.contracts import RunStatus, SessionStatus, from_millis
from skillfleet.errors import UnknownSessionError
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.records import SESSION, session_id_of
from skillfleet_ledger.runs.search import Search
from skillfleet_ledger.settings import Settings

_PAGE = 100


def session_name(settings: Settings, session_id: str, claims: Mapping[str, Any] | None) -> str:
    """Return the name that a session of a caller with these claims has in the ledger.

    Where the fleet requires authentication, the same id of another caller is another session.
    """
    owner = ""
    if settings.auth == "required":
        known = claims or {}
        subject = known.get("sub") or settings.auth_issuer
        tenant = known.get(settings.tenant_claim) if settings.tenant_claim else None
        owner = hashlib.sha256(orjson.dumps([subject, tenant])).hexdigest()[:32]
    return f"{owner}/{session_id}"


class Sessions(RunOperations):
    """Reads sessions by their name. They change with the submission and the end of runs."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        super().__init__(connection, settings)
        self._search = Search(connection, settings)

    def channel(self, session: str) -> str:
        """Return the channel on which new runs of a session are announced."""
        return self._key("session", session)

    async def load(self, session: str) -> bytes | None:
        """Return the JSON that the session's runs have saved; None while there is none."""
        found: bytes | None = await self._connection.execute(
            "GET", self._key("session_state", session)
        )
        return found

    async def status(self, session: str) -> SessionStatus:
        """Return a snapshot of the session; raises UnknownSessionError."""
        (found,) = await self._statuses([session])
        if found is None:
            raise unknown_session(session)
        return found

    async def newest(self, limit: int = 50) -> list[SessionStatus]:
        """Return the sessions that were active last, the newest first."""
        found: list[SessionStatus] = []
        for prefix in self._keys.prefixes():
            names = await self._connection.execute("ZREVRANGE", f"{prefix}sessions", 0, limit - 1)
            statuses = await self._statuses([name.decode() for name in names])
            found += [status for status in statuses if status is not None]
        return sorted(found, key=lambda each: each.active_at, reverse=True)[:limit]

    async def recorded(self, sessions: Sequence[str]) -> set[str]:
        """Return those of the sessions that have a record."""
        found = await self._connection.execute_all(
            *(("EXISTS", self._key("session", session)) for session in sessions)
        )
        return {session for session, exists in zip(sessions, found, strict=True) if exists}

    async def runs(self, session: str, limit: int = 50) -> list[RunStatus]:
        """Return the session's runs that are still recorded, the newest first."""
        ids = await self._connection.execute(
            "ZREVRANGE", self._key("session_runs", session), 0, limit - 1
        )
        statuses = await self._search.statuses([run_id.decode() for run_id in ids])
        return [status for status in statuses if status is not None]

    async def current(self, session: str) -> str | None:
        """Return the id of the run that may execute now; None without one."""
        found = await self._connection.execute("HGET", self._key("session", session), "current")
        return found.decode() or None if found else None

    async def next_run(self, session: str, number: int) -> tuple[int, str] | None:
        """Return number and id of the first recorded run whose number is at least `number`."""
        key = self._key("session_runs", session)
        while True:
            flat = await self._connection.execute(
                "ZRANGEBYSCORE", key, number, "+inf", "WITHSCORES", "LIMIT", 0, _PAGE
            )
            pairs = [(int(float(flat[i + 1])), flat[i].decode()) for i in range(0, len(flat), 2)]
            if not pairs:
                return None
            known = await self._connection.execute_all(
                *(("EXISTS", self._key("run", run_id)) for _, run_id in pairs)
            )
            for pair, exists in zip(pairs, known, strict=True):
                if exists:
                    return pair
            number = pairs[-1][0] + 1

    async def _statuses(self, sessions: list[str]) -> list[SessionStatus | None]:
        commands: list[tuple[Any, ...]] = []
        for session in sessions:
            commands += [
                ("HMGET", self._key("session", session), "count", "created", "current"),
                ("ZSCORE", f"{self._keys.prefix(session)}sessions", session),
                ("ZCARD", self._key(f"held:{SESSION[:-1]}", session)),
                ("STRLEN", self._key("session_state", session)),
            ]
        replies = await self._connection.execute_all(*commands)
        return [_status(session, *replies[4 * i : 4 * i + 4]) for i, session in enumerate(sessions)]


def unknown_session(session: str) -> UnknownSessionError:
    """Return the error for a session that has no record."""
    name = session_id_of(session)
    return UnknownSessionError(f"there is no session {name!r}: it had no run yet, or none for long")


def _status(
    session: str, record: list[bytes | None], active: bytes | None, waiting: int, size: int
) -> SessionStatus | None:
    count, created, current = record
    if count is None or created is None or active is None:
        return None
    return SessionStatus(
        id=session_id_of(session) or "",
        runs=int(count),
        waiting=waiting,
        current=current.decode() or None if current else None,
        created_at=from_millis(int(created)),
        active_at=from_millis(float(active)),
        state_bytes=size,
    )
