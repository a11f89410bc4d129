"""Entries of a run's stream, and the events that they are."""

import re

import orjson

from skillfleet.contracts import RunEvent, from_millis

_EVENT_ID = re.compile(r"([0-9]{1,20})(?:-0)?")
_LAST_NUMBER = 2**64 - 1
"""Redis numbers the entries of a stream with 64 bits."""
_SHOWN = 60

StreamEntry = tuple[bytes, list[bytes]]
"""The id of an entry, and its fields: names and values in turn."""


def event_number(event_id: str) -> int:
    """Return the number in an event id; raises ValueError for an invalid one."""
    found = _EVENT_ID.fullmatch(event_id) if isinstance(event_id, str) else None
    if found is None or (number := int(found[1])) > _LAST_NUMBER:
        shown = repr(event_id)[:_SHOWN]
        raise ValueError(f"{shown} is not an event id: pass the id of an event you read")
    return number


def entry_number(entry: StreamEntry) -> int:
    """Return the number of an entry."""
    return int(entry[0].partition(b"-")[0])


def event_of(entry: StreamEntry) -> RunEvent:
    """Return the event that an entry is."""
    # The scripts write the fields k, p, a and t, and s for an event of a step, always in this order
    # (append.lua, common.lua).
    entry_id, fields = entry
    return RunEvent(
        id=entry_id.decode(),
        kind=fields[1].decode(),
        payload=orjson.loads(fields[3]),
        attempt=int(fields[5]),
        at=from_millis(int(fields[7])),
        step=fields[9].decode() if fields[8:] else None,
    )
