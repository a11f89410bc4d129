"""The conditions of a list of runs, as callers give them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from skillfleet.tags import check_tags


class RunConditions(TypedDict, total=False):
    """The keyword arguments of `runs` that select runs."""

    tags: Mapping[str, str] | None
    since: datetime | timedelta | None


def read_conditions(given: RunConditions) -> dict[str, Any]:
    """Return the fields of `RunFilter`; raises ValueError and InvalidArgumentsError."""
    return {
        "tags": check_tags(given.get("tags")),
        "since_ms": _millis(given.get("since")),
    }


def _millis(since: datetime | timedelta | None) -> int:
    if since is None:
        return 0
    moment = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    if moment.tzinfo is None:
        raise ValueError(f"since must have a time zone, or be a timedelta: {moment}")
    return int(moment.timestamp() * 1000)
