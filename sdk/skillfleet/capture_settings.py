"""Setting for the recording of prompts and results: loaded only when a span is recorded."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class CaptureSettings(BaseSettings):
    """Recording of content in spans, read by workers."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    otel_instrumentation_genai_capture_message_content: bool = False
    """Record prompts, completions, arguments and results in the spans of model and tool calls."""
