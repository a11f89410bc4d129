"""One-line descriptions of events; a skill may put anything into a payload."""

from typing import Any

from skillfleet.contracts import STATE_KIND, TRIMMED_KIND, RunEvent
from skillfleet_cli.output import duration, number, size, words


def describe(event: RunEvent) -> str:
    """Describe an event in one line; text deltas stay quoted."""
    payload = event.payload
    match event.kind:
        case kind if kind == STATE_KIND:
            return _state(event)
        case kind if kind == TRIMMED_KIND:
            missed = words(payload.get("missed"))
            return f"{missed} events are gone: the stream keeps only the newest"
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


def progress_text(payload: dict[str, Any]) -> str:
    """Format progress: `3/12 reading b.py`."""
    current, total = payload.get("current"), payload.get("total")
    parts = [] if current is None else [count_text(current, total)]
    return " ".join([*parts, words(payload.get("message"))]).strip()


def count_text(current: Any, total: Any) -> str:
    """Format a count: `3/12`, or `3` when the total is unknown."""
    shown = (f"{each:g}" if isinstance(each, float) else words(each) for each in (current, total))
    return "/".join(part for part in shown if part)


def _state(event: RunEvent) -> str:
    payload = event.payload
    state, message = words(payload.get("state")), words(payload.get("message"))
    if event.final:
        return f"{state} [{words(payload.get('code'))}]" + (f": {message}" if message else "")
    if "worker" in payload:
        return f"{state}, attempt {event.attempt} on {words(payload['worker'])}"
    outcome = f" ({words(payload['outcome'])})" if payload.get("outcome") else ""
    wait = number(payload.get("delay_seconds"))
    when = f", due in {duration(wait)}" if wait else ""
    return f"{state}{outcome}" + (f": {message}" if message else "") + when
