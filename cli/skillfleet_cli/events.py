"""An event in one line, for people."""

from typing import Any

import orjson

from skillfleet.contracts import STATE_KIND, TRIMMED_KIND, RunEvent
from skillfleet_cli.output import duration, size


def describe(event: RunEvent) -> str:
    """What an event says, in one line; text deltas stay quoted."""
    payload = event.payload
    match event.kind:
        case kind if kind == STATE_KIND:
            return _state(event)
        case kind if kind == TRIMMED_KIND:
            return f"{payload['missed']} events are gone: the stream keeps only the newest"
        case "progress":
            return progress_text(payload)
        case "artifact":
            name, media, count = (payload.get(key) for key in ("name", "mime_type", "size_bytes"))
            details = [str(media)] if media else []
            details += [size(count)] if isinstance(count, int | float) else []
            return f"artifact {name}" + (f" ({', '.join(details)})" if details else "")
        case "error":
            code = f" [{payload['code']}]" if payload.get("code") else ""
            return f"error: {payload.get('message')}{code}"
        case _:
            return f"{event.kind} {orjson.dumps(payload).decode()}"


def progress_text(payload: dict[str, Any]) -> str:
    """Progress in words: `3/12 reading b.py`."""
    current, total = payload.get("current"), payload.get("total")
    parts = [] if current is None else [f"{current:g}" + (f"/{total:g}" if total else "")]
    return " ".join([*parts, str(payload.get("message", ""))]).strip()


def _state(event: RunEvent) -> str:
    payload = event.payload
    state, message = payload["state"], payload.get("message") or ""
    if event.final:
        return f"{state} [{payload.get('code')}]" + (f": {message}" if message else "")
    if "worker" in payload:
        return f"{state}, attempt {event.attempt} on {payload['worker']}"
    outcome = f" ({payload['outcome']})" if payload.get("outcome") else ""
    wait = payload.get("delay_seconds")
    when = f", due in {duration(wait)}" if wait else ""
    return f"{state}{outcome}" + (f": {message}" if message else "") + when
