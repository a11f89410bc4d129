"""Redaction of finished spans, whichever library wrote the secret into one."""

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link
from opentelemetry.trace.status import Status

from skillfleet_telemetry.redaction import redact, redact_value


def redact_span(span: ReadableSpan) -> ReadableSpan:
    """Return the span itself, or a redacted copy where one of its texts holds a secret."""
    texts = [span.name, span.status.description or "", *_texts(span.attributes)]
    texts += [text for event in span.events for text in (event.name, *_texts(event.attributes))]
    texts += [text for link in span.links for text in _texts(link.attributes)]
    if all(redact(text) == text for text in texts):
        return span
    return ReadableSpan(
        name=redact(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_redact_attributes(span.attributes),
        events=[_redact_event(event) for event in span.events],
        links=[Link(link.context, _redact_attributes(link.attributes)) for link in span.links],
        kind=span.kind,
        status=_redact_status(span.status),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _texts(attributes: Mapping[str, Any] | None) -> list[str]:
    found: list[str] = []
    for name, value in (attributes or {}).items():
        values = value if isinstance(value, list | tuple) else [value]
        found += [name, *(each for each in values if isinstance(each, str))]
    return found


def _redact_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {redact(name): redact_value(value) for name, value in (attributes or {}).items()}


def _redact_event(event: Event) -> Event:
    return Event(redact(event.name), _redact_attributes(event.attributes), event.timestamp)


def _redact_status(status: Status) -> Status:
    if status.description is None:
        return status
    return Status(status.status_code, redact(status.description))
