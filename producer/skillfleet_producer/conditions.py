"""The conditions of a list of runs, as callers give them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from pydantic import BaseModel

from skillfleet.tags import check_tags
from skillfleet_ledger import Settings
from skillfleet_ledger.runs.sessions import session_name
from skillfleet_producer.submission import check_text, claims_of


class RunConditions(TypedDict, total=False):
    """The keyword arguments of `runs` that select runs."""

    tags: Mapping[str, str] | None
    since: datetime | timedelta | None
    session: str | None
    auth: BaseModel | Mapping[str, Any] | None


def read_conditions(settings: Settings, given: RunConditions) -> dict[str, Any]:
    """Return the fields of `RunFilter`; raises ValueError and InvalidArgumentsError."""
    return {
        "tags": check_tags(given.get("tags")),
        "since_ms": _millis(given.get("since")),
        "session": _session(settings, given),
    }


def _session(settings: Settings, given: RunConditions) -> str | None:
    """Return the name of the session, which is that of the caller `auth`."""
    session_id, claims = given.get("session"), claims_of(given.get("auth"))
    if session_id is None:
        return None
    check_text("session", session_id)
    return session_name(settings, session_id, claims)


def _millis(since: datetime | timedelta | None) -> int:
    if since is None:
        return 0
    moment = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    if moment.tzinfo is None:
        raise ValueError(f"since must have a time zone, or be a timedelta: {moment}")
    return int(moment.timestamp() * 1000)
