"""Recorded model and tool calls as measurements."""

from skillfleet import semconv as names
from skillfleet.model_calls import CallReport
from skillfleet_telemetry.metrics import (
    MODEL_DURATION,
    MODEL_TOKENS,
    bounded,
    is_measured,
    record,
)

_DIRECTIONS = {names.INPUT_TOKENS: "input", names.OUTPUT_TOKENS: "output"}


def measure_call(report: CallReport) -> None:
    """Count a finished call; models beyond the first hundred count as one."""
    if not is_measured():
        return
    name, provider = bounded(report.name), bounded(report.provider)
    record(MODEL_DURATION, report.seconds, bounded(report.operation), provider, name)
    for token_name, direction in _DIRECTIONS.items():
        if token_name in report.tokens:
            record(MODEL_TOKENS, report.tokens[token_name], provider, name, direction)
