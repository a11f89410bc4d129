"""Entries of a journal as they are stored.

In two lines: the entry's description (JSON), and its value (JSON, as it was given), unless that is
kept apart or there is none.
"""

from dataclasses import astuple
from typing import Any

import orjson

from skillfleet.contracts.waits import EntryKind
from skillfleet.ports.journal import Entry, EntryFailure


def packed(entry: Entry) -> bytes:
    """Return an entry as it is stored."""
    described: dict[str, Any] = {
        "n": entry.number,
        "k": entry.kind,
        "m": entry.name,
        "a": entry.attempt,
        "t": entry.started_ms,
        "d": entry.duration_ms,
    }
    if entry.failure is not None:
        described["f"] = astuple(entry.failure)
    if entry.digest:
        described |= {"s": entry.size, "g": entry.digest}
    if entry.tries != 1:
        described["x"] = entry.tries
    first = orjson.dumps(described)
    return first if entry.value is None else first + b"\n" + entry.value


def entry_of(identity: str, stored: bytes) -> Entry:
    """Return a stored entry."""
    first, has_value, value = stored.partition(b"\n")
    described = orjson.loads(first)
    return Entry(
        identity=identity,
        number=described["n"],
        kind=EntryKind(described["k"]),
        name=described["m"],
        attempt=described["a"],
        started_ms=described["t"],
        duration_ms=described["d"],
        value=value if has_value else None,
        size=described.get("s", len(value)),
        digest=described.get("g", ""),
        failure=EntryFailure(*described["f"]) if "f" in described else None,
        tries=described.get("x", 1),
    )
