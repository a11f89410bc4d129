"""The names of spans and their attributes, in one place because the conventions still move.

They are OpenTelemetry's: messaging spans of semantic-conventions v1.44, and the GenAI spans of
semantic-conventions-genai, where both are in development. What they have no name for begins
with `skillfleet.`. Nothing else in skillfleet spells such a name.
"""

from collections.abc import Mapping
from typing import Any, Final

# Messaging: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_CONVERSATION_ID: Final = "messaging.message.conversation_id"
CELERY: Final = "celery"

# GenAI: https://github.com/open-telemetry/semantic-conventions-genai
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"

ERROR_TYPE: Final = "error.type"

# Our own.
RUN_ID: Final = "skillfleet.run.id"
SKILL: Final = "skillfleet.skill"
ATTEMPT: Final = "skillfleet.attempt"
OUTCOME: Final = "skillfleet.outcome"
STEP_KIND: Final = "skillfleet.step.kind"
STEP_NAME: Final = "skillfleet.step.name"
STEP_NUMBER: Final = "skillfleet.step.number"
STEP_TRIES: Final = "skillfleet.step.tries"
REASON: Final = "skillfleet.reason"
QUEUE_WAIT: Final = "skillfleet.queue_wait_seconds"
EXISTED: Final = "skillfleet.run.existed"
WORKER: Final = "skillfleet.worker"
ENTRY: Final = "skillfleet.entry.identity"
ENTRY_KIND: Final = "skillfleet.entry.kind"
ENTRY_NAME: Final = "skillfleet.entry.name"
TRY: Final = "skillfleet.entry.try"
TAG: Final = "skillfleet.tag."
"""Begins the attribute of a tag, which ends with the tag's key."""

# Other spellings of token counts: earlier conventions, and what models' own clients return.
# A provider that counts cached tokens beside its input tokens names them so.
_SPELLINGS = {
    INPUT_TOKENS: ("input_tokens", "prompt_tokens", "gen_ai.usage.prompt_tokens"),
    OUTPUT_TOKENS: ("output_tokens", "completion_tokens", "gen_ai.usage.completion_tokens"),
    CACHED_TOKENS: ("cached_tokens", "cache_read.input_tokens"),
}
_CACHED_BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_DETAILS = ("input_tokens_details", "prompt_tokens_details")


def token_counts(usage: Any) -> dict[str, int]:
    """Token counts by their one name, of a mapping or an object in any known spelling.

    `usage` may be what a model's client returned; counts that it lacks are left out. The
    conventions' input tokens include the cached ones: where a provider counts these beside
    them (`cache_read_input_tokens`), they are added.
    """
    counts = {
        name: count
        for name, spellings in _SPELLINGS.items()
        if (count := _first(usage, (name, *spellings))) is not None
    }
    beside = [count for name in _CACHED_BESIDE if (count := _first(usage, (name,))) is not None]
    if beside:
        counts[INPUT_TOKENS] = counts.get(INPUT_TOKENS, 0) + sum(beside)
    cached = [_first(usage, _CACHED_BESIDE[:1])]
    cached += [_first(_part(usage, details), ("cached_tokens",)) for details in _DETAILS]
    for count in cached:
        if count is not None:
            counts[CACHED_TOKENS] = count
    return counts


def _first(usage: Any, names: tuple[str, ...]) -> int | None:
    values = (_part(usage, name) for name in names)
    found = next((value for value in values if isinstance(value, (int, float))), None)
    return None if found is None else int(found)


def _part(usage: Any, name: str) -> Any:
    return usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)
