"""One-line descriptions of events; a skill may put anything into a payload."""

import re
from collections.abc import Callable
from typing import Any

from skillfleet.contracts import (
    STATE_KIND,
    SUPERSEDED_KIND,
    TRIMMED_KIND,
    WAIT_ENDED_KIND,
    WAIT_KIND,
    RunEvent,
)
from skillfleet.durable.values import is_write_only
from skillfleet_cli.output import duration, number, size, words


def describe(event: RunEvent) -> str:
    """Describe an event in one line; text deltas stay quoted."""
    if (own := _OF_FLEET.get(event.kind)) is not None:
        return own(event)
    payload = event.payload
    match event.kind:
        case "progress":
            return progress_text(payload)
        case "artifact":
            name, media, count = (payload.get(key) for key in ("name", "mime_type", "size_bytes"))
            details = [words(media)] if media else []
            details += [size(bytes_)] if (bytes_ := number(count)) is not None else []
            return f"artifact {words(name)}" + (f" ({', '.join(details)})" if details else "")
        case "error":
            code = f" [{words(payload['code'])}]" if payload.get("code") else ""
            return f"error: {words(payload.get('message'))}{code}"
        case _:
            return f"{event.kind} {words(payload)}"


def answer_hint(run_id: str, payload: dict[str, Any]) -> str:
    """Return the command that answers a wait."""
    value = "" if is_write_only(payload.get("value_schema")) else " VALUE"
    return f"answer it: skillfleet answer {run_id}{value} --wait {words(payload.get('id'))}"


def progress_text(payload: dict[str, Any]) -> str:
    """Format progress: `3/12 reading b.py`."""
    current, total = payload.get("current"), payload.get("total")
    parts = [] if current is None else [count_text(current, total)]
    return " ".join([*parts, words(payload.get("message"))]).strip()


def count_text(current: Any, total: Any) -> str:
    """Format a count: `3/12`, or `3` when the total is unknown."""
    shown = (f"{each:g}" if isinstance(each, float) else words(each) for each in (current, total))
    return "/".join(part for part in shown if part)


def _trimmed(event: RunEvent) -> str:
    missed = words(event.payload.get("missed"))
    return f"{missed} events are gone: the stream keeps only the newest"


def _superseded(event: RunEvent) -> str:
    step = _step_name(words(event.payload.get("step")))
    return f"superseded: the events so far of step {step} are void"


def _step_name(identity: str) -> str:
    """Return the name or the key in the identity of a step (skillfleet.durable.identity)."""
    named = re.fullmatch(r"step[/=](.+?)(?:#.*)?", identity, re.DOTALL)
    return named[1] if named is not None else identity


def _wait(event: RunEvent) -> str:
    payload = event.payload
    wait = f"wait {words(payload.get('id'))} ({words(payload.get('kind'))})"
    if event.kind == WAIT_KIND:
        text = words(payload.get("question")) or words(payload.get("name"))
        return f"{wait}: {text}" if text else wait
    by = f" by {words(payload['by'])}" if payload.get("by") else ""
    reason = f": {words(payload['reason'])}" if payload.get("reason") else ""
    return f"{wait} {words(payload.get('outcome'))}{by}{reason}"


def _state(event: RunEvent) -> str:
    payload = event.payload
    state, message = words(payload.get("state")), words(payload.get("message"))
    if event.final:
        return f"{state} [{words(payload.get('code'))}]" + (f": {message}" if message else "")
    if "worker" in payload:
        return f"{state}, attempt {event.attempt} on {words(payload['worker'])}"
    if isinstance(waits := payload.get("waits"), list):
        return f"{state} for {', '.join(map(words, waits))}" if waits else state
    outcome = f" ({words(payload['outcome'])})" if payload.get("outcome") else ""
    wait = number(payload.get("delay_seconds"))
    when = f", due in {duration(wait)}" if wait else ""
    return f"{state}{outcome}" + (f": {message}" if message else "") + when


_OF_FLEET: dict[str, Callable[[RunEvent], str]] = {
    STATE_KIND: _state,
    TRIMMED_KIND: _trimmed,
    SUPERSEDED_KIND: _superseded,
    WAIT_KIND: _wait,
    WAIT_ENDED_KIND: _wait,
}
"""The descriptions of the events that the fleet itself writes."""
