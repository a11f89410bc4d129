"""Model and tool calls that a skill records itself."""

from typing import Any

import pytest
from opentelemetry import trace

from skillfleet import LocalRunContext, NoAuth
from skillfleet.semconv import token_counts
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.telemetry.conftest import Watched, watched
from tests.telemetry.observed import thinks
from tests.telemetry.receiver import Receiver, check_connected, children, one
from tests.telemetry.scraping import scrape
from tests.telemetry.test_traces import INVOKE, finished, traced

IN, OUT, CACHED = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
)


@pytest.mark.parametrize("older", [False, True])
def test_a_model_call_and_its_tool_call_nest_below_the_skill(
    seen: Watched, tracer: trace.Tracer, older: bool
) -> None:
    run, trace_id = traced(seen, tracer, "watched.thinks", older=older)
    assert run.result(timeout=60) == "two"
    spans = seen.receiver.wait_for(trace_id, finished(6), "the trace")
    check_connected(spans)
    (chat,) = children(spans, one(spans, INVOKE))
    assert (chat.name, chat.kind) == ("chat m-1", "CLIENT")
    assert chat.attributes["gen_ai.provider.name"] == "acme"
    assert chat.attributes["gen_ai.request.model"] == "m-1"
    assert chat.attributes["gen_ai.response.model"] == "m-1-2026"
    assert chat.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert (chat.attributes[IN], chat.attributes[OUT]) == (120, 30)
    assert chat.attributes.get(CACHED) == (None if older else 7)
    assert "gen_ai.usage.prompt_tokens" not in chat.attributes
    (tool,) = children(spans, chat)
    assert (tool.name, tool.kind) == ("execute_tool search", "INTERNAL")
    assert tool.attributes["gen_ai.tool.call.id"] == "c1"
    reported = {name for span in spans for name in span.attributes}
    assert not {name for name in reported if "messages" in name or "arguments" in name}


def test_content_is_recorded_only_when_the_operator_allows_it_and_tokens_are_counted(
    receiver: Receiver, tracer: trace.Tracer
) -> None:
    allowed = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    port = free_port()
    with watched(
        "prefork", receiver, allowed, concurrency=1, metrics=True, probe_port=port
    ) as seen:
        run, trace_id = traced(seen, tracer, "watched.thinks")
        run.result(timeout=60)
        spans = receiver.wait_for(trace_id, finished(6), "the trace")
        assert one(spans, "chat m-1").attributes["gen_ai.input.messages"] == "how many whales"
        tool = one(spans, "execute_tool search")
        assert tool.attributes["gen_ai.tool.call.arguments"] == '{"q":"whales"}'
        name = "gen_ai_client_token_usage_sum"
        model = {"gen_ai_request_model": "m-1-2026", "gen_ai_provider_name": "acme"}
        wait_until(lambda: scrape(port).sum(name), what="the tokens")
        metrics = scrape(port)
        assert metrics.sum(name, gen_ai_token_type="input", **model) == 120
        assert metrics.sum(name, gen_ai_token_type="output", **model) == 30


async def test_the_same_skill_runs_in_memory() -> None:
    assert await thinks(LocalRunContext(auth=NoAuth())) == "two"


class _Usage:
    def __init__(self, **counts: Any) -> None:
        self.__dict__ |= counts


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"input_tokens": 5, "output_tokens": 2}, {IN: 5, OUT: 2}),
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}, {IN: 5, OUT: 2}),
        ({"gen_ai.usage.prompt_tokens": 5}, {IN: 5}),
        (_Usage(input_tokens=5, output_tokens=0), {IN: 5, OUT: 0}),
        (
            _Usage(prompt_tokens=5, prompt_tokens_details=_Usage(cached_tokens=4)),
            {IN: 5, CACHED: 4},
        ),
        (
            {
                "input_tokens": 5,
                "output_tokens": 2,
                "cache_read_input_tokens": 10,
                "cache_creation_input_tokens": 20,
            },
            {IN: 35, OUT: 2, CACHED: 10},
        ),
        ({}, {}),
        (None, {}),
        ({"input_tokens": "many"}, {}),
    ],
)
def test_token_counts_are_understood_in_every_spelling(usage: Any, counts: Any) -> None:
    assert token_counts(usage) == counts
