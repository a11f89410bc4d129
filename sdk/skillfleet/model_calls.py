"""Model and tool calls of a skill as spans, for clients that have no instrumentation of their own.

Use them through `ctx.model_call(...)` and `ctx.tool_call(...)`. Without an OpenTelemetry SDK
their cost is negligible. Prompts, completions, arguments and results are only recorded when
`OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` is `true`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson

from skillfleet import semconv as names

# ruff: noqa: PLC0415 - processes that record no call do not pay for OpenTelemetry's import


@dataclass(frozen=True)
class CallReport:
    """One finished model or tool call, as reported to a runtime; `seconds` is its duration."""

    operation: str
    name: str
    """The tool, or the model: the one that answered, else the one that was called."""
    provider: str | None
    seconds: float
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Token counts by their names in `skillfleet.semconv`."""
    error: str | None = None
    """The type of the exception that ended the call."""

    @property
    def charged_tokens(self) -> int:
        """The tokens that a budget is charged: input and output together."""
        charged = (names.INPUT_TOKENS, names.OUTPUT_TOKENS)
        return sum(max(self.tokens.get(name, 0), 0) for name in charged)


class RecordedCall:
    """A context manager around one call; entering it makes its span the current one."""

    def __init__(
        self,
        span_name: str,
        kind: str,
        attributes: Mapping[str, Any],
        report: Callable[[CallReport], None],
        busy: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._span_name = span_name
        self._kind = kind
        self._attributes = dict(attributes)
        self._report = report
        self._busy = busy
        self._tokens: dict[str, int] = {}
        self._span: Any = None
        self._scope = ExitStack()
        self._began = 0.0

    def __enter__(self) -> Self:
        from opentelemetry import trace

        self._began = time.monotonic()
        self._span = trace.get_tracer("skillfleet").start_span(
            self._span_name, kind=trace.SpanKind[self._kind], attributes=self._attributes
        )
        self._scope.enter_context(self._busy())
        self._scope.enter_context(trace.use_span(self._span, record_exception=False))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from opentelemetry.trace import StatusCode

        self._scope.close()
        name = type(error).__name__ if error is not None else None
        if name is not None:
            self._span.set_attribute(names.ERROR_TYPE, name)
            self._span.set_status(StatusCode.ERROR, name)
        self._span.end()
        self._report(self._call_report(name))

    def _set(self, name: str, value: Any) -> None:
        if value is not None:
            self._attributes[name] = value
            if self._span is not None:
                self._span.set_attribute(name, value)

    def _set_content(self, name: str, value: Any) -> None:
        recording = self._span is not None and self._span.is_recording()
        if value is not None and recording and _captures_content():
            text = value if isinstance(value, str) else orjson.dumps(value, default=repr).decode()
            self._span.set_attribute(name, text)

    def _call_report(self, error: str | None) -> CallReport:
        known = self._attributes
        return CallReport(
            operation=known[names.OPERATION],
            name=known.get(names.RESPONSE_MODEL)
            or known.get(names.REQUEST_MODEL)
            or known[names.TOOL_NAME],
            provider=known.get(names.PROVIDER),
            seconds=time.monotonic() - self._began,
            tokens=dict(self._tokens),
            error=error,
        )


class ModelCall(RecordedCall):
    """A call of a model: `with ctx.model_call("gpt-5", provider="openai") as call: ...`."""

    def record(
        self,
        *,
        usage: Any = None,
        response_model: str | None = None,
        response_id: str | None = None,
        finish_reasons: Sequence[str] | None = None,
    ) -> None:
        """Record the known properties of the model's answer.

        `usage` is a mapping or an object with token counts, in the newer spelling
        (`input_tokens`, `output_tokens`) or the older (`prompt_tokens`, `completion_tokens`).
        """
        if usage is not None:
            self._tokens = names.token_counts(usage)
            for name, count in self._tokens.items():
                self._set(name, count)
        self._set(names.RESPONSE_MODEL, response_model)
        self._set(names.RESPONSE_ID, response_id)
        if finish_reasons is not None:
            self._set(names.FINISH_REASONS, list(finish_reasons))

    def record_content(self, *, prompt: Any = None, completion: Any = None) -> None:
        """Record messages (strings or JSON values) if the operator allows it; see the module."""
        self._set_content(names.INPUT_MESSAGES, prompt)
        self._set_content(names.OUTPUT_MESSAGES, completion)


class ToolCall(RecordedCall):
    """A call of a tool: `with ctx.tool_call("search") as call: ...`."""

    def record_content(self, *, arguments: Any = None, result: Any = None) -> None:
        """Record strings or JSON values if the operator allows it; see the module."""
        self._set_content(names.TOOL_ARGUMENTS, arguments)
        self._set_content(names.TOOL_RESULT, result)


def model_call(
    model: str,
    provider: str,
    operation: str,
    report: Callable[[CallReport], None],
    busy: Callable[[], AbstractContextManager[None]],
) -> ModelCall:
    """Return a model call to record: `report` is called at its end, `busy` entered during it."""
    attributes = {
        names.OPERATION: operation,
        names.PROVIDER: provider,
        names.REQUEST_MODEL: model,
    }
    return ModelCall(f"{operation} {model}", "CLIENT", attributes, report, busy)


def tool_call(
    name: str,
    call_id: str | None,
    tool_type: str,
    report: Callable[[CallReport], None],
    busy: Callable[[], AbstractContextManager[None]],
) -> ToolCall:
    """Return a tool call to record: `report` is called at its end, `busy` entered during it."""
    attributes = {
        names.OPERATION: names.EXECUTE_TOOL,
        names.TOOL_NAME: name,
        names.TOOL_TYPE: tool_type,
    }
    if call_id is not None:
        attributes[names.TOOL_CALL_ID] = call_id
    return ToolCall(f"{names.EXECUTE_TOOL} {name}", "INTERNAL", attributes, report, busy)


def _captures_content() -> bool:
    """Return OpenTelemetry's own setting, which is off by default."""
    from pydantic import ValidationError

    from skillfleet.capture_settings import CaptureSettings

    try:
        return CaptureSettings().otel_instrumentation_genai_capture_message_content
    except ValidationError:
        return False
