"""One trace for each run, across processes, in every pool, with no span missing or open."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import celery
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from skillfleet.errors import RunError
from skillfleet_producer import AsyncFleet, RunHandle
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until
from tests.telemetry.conftest import Watched, watched
from tests.telemetry.receiver import Receiver, Seen, check_connected, children, one

SEND, PROCESS, INVOKE = "send celery", "process celery", "invoke_agent watched"


def finished(count: int) -> Any:
    """Return a check for `count` spans of a trace, the caller's among them."""
    return lambda spans: len(spans) >= count and any(not span.parent_id for span in spans)


def attempts_of(spans: list[Seen], run_id: str) -> list[Seen]:
    found = [s for s in spans if s.name == PROCESS and s.run_id == run_id]
    return sorted(found, key=lambda span: span.attributes["skillfleet.attempt"])


def traced(seen: Watched, tracer: trace.Tracer, skill: str, **args: Any) -> tuple[RunHandle, str]:
    """Return a run that a traced caller enqueued, and the id of the trace."""
    with tracer.start_as_current_span("caller") as span:
        run = seen.fleet.enqueue(skill, args)
    return run, trace.format_trace_id(span.get_span_context().trace_id)


def test_a_survey_is_one_trace_from_the_caller_to_every_run_it_called(
    seen: Watched, tracer: trace.Tracer, tmp_path: Path
) -> None:
    for i in range(5):
        (tmp_path / f"file{i}.txt").write_text("TODO: read\n")
    run, trace_id = traced(seen, tracer, "librarian.survey", folder=str(tmp_path))
    assert run.result(timeout=60)["files"] == 5
    assert run.status().trace_id == trace_id
    spans = seen.receiver.wait_for(trace_id, finished(1 + 6 * 3), "the trace")
    assert len(spans) == 1 + 6 * 3
    root = check_connected(spans)
    assert root.name == "caller"
    (send,) = children(spans, root)
    (process,) = children(spans, send)
    (survey,) = children(spans, process)
    assert [span.kind for span in (send, process, survey)] == ["PRODUCER", "CONSUMER", "INTERNAL"]
    assert survey.name == "invoke_agent librarian"
    assert survey.attributes["skillfleet.skill"] == "librarian.survey"
    assert survey.attributes["skillfleet.attempt"] == 1
    assert survey.attributes["skillfleet.outcome"] == "succeeded"
    assert survey.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert process.attributes["messaging.message.id"] == run.id
    assert process.attributes["skillfleet.queue_wait_seconds"] >= 0
    assert process.events == ("flushed",)
    assert process.began_ns <= survey.began_ns <= survey.ended_ns <= process.ended_ns
    calls = children(spans, survey)
    assert [call.name for call in calls] == [SEND] * 5
    for call in calls:
        (child,) = children(spans, call)
        (read,) = children(spans, child)
        assert read.attributes["skillfleet.skill"] == "librarian.read_file"
    assert {span.service for span in spans} == {"caller", "skillfleet-worker"}


def test_an_async_producer_is_traced_as_a_synchronous_one(
    seen: Watched, tracer: trace.Tracer
) -> None:
    async def call() -> str:
        async with AsyncFleet(seen.server.url) as fleet:
            with tracer.start_as_current_span("caller") as span:
                run = await fleet.enqueue("watched.adds_all", {"n": 3})
                assert await run.result(timeout=60) == 3
        return trace.format_trace_id(span.get_span_context().trace_id)

    spans = seen.receiver.wait_for(asyncio.run(call()), finished(1 + 4 * 3 + 3), "the trace")
    check_connected(spans)
    adding = [span for span in spans if span.name == "adding"]
    assert len(adding) == 3
    for span in adding:
        (above,) = [each for each in spans if each.span_id == span.parent_id]
        assert above.name == INVOKE


def test_a_plain_celery_client_with_the_official_instrumentation_is_traced(
    seen: Watched, tracer: trace.Tracer
) -> None:
    instrumentor = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    instrumentor.instrument()
    try:
        with celery.Celery(broker=seen.server.url, backend=seen.server.url) as client:
            with tracer.start_as_current_span("caller") as span:
                skill = client.send_task("watched.add", kwargs={"x": 1})
                plain = client.send_task("plain.double", args=[4])
            assert skill.get(timeout=60) == 2
            assert plain.get(timeout=60) == 8
    finally:
        instrumentor.uninstrument()
    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    spans = seen.receiver.wait_for(trace_id, finished(8), "the trace")
    root = check_connected(spans)
    sent = {span.name: span for span in children(spans, root)}
    (process,) = children(spans, sent["apply_async/watched.add"])
    assert process.name == PROCESS
    assert [span.name for span in children(spans, process)] == [INVOKE]
    (ran,) = children(spans, sent["apply_async/plain.double"])
    assert ran.name == "run/plain.double"
    assert [span.name for span in children(spans, ran)] == ["doubling"]
    assert len(spans) == 8
    assert seen.fleet.run(skill.id).status().trace_id == trace_id


def test_baggage_and_tracestate_reach_the_runs_that_a_run_calls(
    seen: Watched, tracer: trace.Tracer
) -> None:
    parent = trace.SpanContext(
        0x1234567890ABCDEF1234567890ABCDEF,
        0x1234567890ABCDEF,
        is_remote=True,
        trace_flags=trace.TraceFlags(1),
        trace_state=trace.TraceState([("vendor", "value")]),
    )
    outer = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    token = context.attach(baggage.set_baggage("tenant", "acme", outer))
    try:
        run = seen.fleet.enqueue("watched.carried_on")
    finally:
        context.detach(token)
    assert run.result(timeout=60) == ["acme", "vendor=value"]


@pytest.mark.parametrize(
    ("skill", "outcome", "error"),
    [
        ("fails", "failed", "skill_error"),
        ("takes_too_long", "timed_out", "deadline_exceeded"),
        ("waits", "cancelled", None),
    ],
)
def test_a_bad_end_closes_all_spans_and_reports_why(
    seen: Watched, tracer: trace.Tracer, skill: str, outcome: str, error: str | None
) -> None:
    run, trace_id = traced(seen, tracer, f"watched.{skill}")
    if outcome == "cancelled":
        wait_until(lambda: run.status().events > 1, what="the run to wait")
        run.cancel("enough")
    with pytest.raises(RunError):
        run.result(timeout=60)
    below = 2 if skill == "fails" else 1
    spans = seen.receiver.wait_for(trace_id, finished(4 + below), "the trace")
    assert len(spans) == 4 + below
    check_connected(spans)
    for span in (one(spans, PROCESS), one(spans, INVOKE)):
        assert span.attributes["skillfleet.outcome"] == outcome
        assert span.attributes.get("error.type") == error
        assert span.failed == (error is not None)
    left = children(spans, one(spans, INVOKE))
    assert len(left) == below
    assert all(span.failed for span in spans if "execute_tool" in span.name)
    if skill == "fails":
        assert all(span.failed for span in left), "spans left open are errors"
        assert "no good" in one(spans, INVOKE).exceptions[0]


def test_a_retry_is_in_the_same_trace_and_linked_to_the_attempt_before(
    seen: Watched, tracer: trace.Tracer
) -> None:
    run, trace_id = traced(seen, tracer, "watched.fails_once")
    assert run.result(timeout=60) == 2
    spans = seen.receiver.wait_for(trace_id, finished(2 + 2 * 4), "the trace")
    check_connected(spans)
    first, second = attempts_of(spans, run.id)
    assert first.attributes["skillfleet.outcome"] == "retry"
    assert second.attributes["skillfleet.outcome"] == "succeeded"
    assert first.links == ()
    assert second.links == (first.span_id,)
    assert second.parent_id == first.parent_id


UNTRACED = """
import sys
from skillfleet_producer import Fleet
with Fleet(sys.argv[1]) as fleet:
    run = fleet.enqueue("watched.adds_all", {"n": 2})
    run.result(timeout=60)
    print(run.id, run.status().trace_id)
"""


def test_a_run_whose_caller_is_not_traced_begins_a_trace_that_follows_from_its_id(
    seen: Watched,
) -> None:
    command = [sys.executable, "-c", UNTRACED, seen.server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    run_id, trace_id = done.stdout.split()
    assert trace_id == run_id.replace("-", "")
    spans = seen.receiver.wait_for(trace_id, finished(3 * 3 + 2 - 1), "the trace")
    assert check_connected(spans).name == PROCESS


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_the_spans_of_a_killed_worker_are_reported_by_the_one_that_takes_over(
    pool: str, receiver: Receiver, tracer: trace.Tracer
) -> None:
    with watched(pool, receiver, concurrency=2, lease_seconds=3, reap_seconds=0.1) as seen:
        run, trace_id = traced(seen, tracer, "watched.dies_once", all_of_it=False)
        if pool != "prefork":
            wait_until(lambda: seen.worker.process.poll() is not None, 60, "the worker to die")  # type: ignore[union-attr]
            seen.worker.start()
        assert run.result(timeout=60) == 2
        # Caller and send; two attempts of two spans and a call each; the called run once.
        spans = receiver.wait_for(trace_id, finished(2 + 2 * 3 + 3), "the trace")
    check_connected(spans)
    first, second = attempts_of(spans, run.id)
    assert first.attributes["skillfleet.outcome"] == "lost"
    assert first.failed
    assert second.links == (first.span_id,)
    (lost,) = children(spans, first)
    assert [span.name for span in children(spans, lost)] == [SEND]


def test_an_attempt_that_ends_with_its_worker_is_reported_by_the_reaper(
    receiver: Receiver, tracer: trace.Tracer
) -> None:
    with watched("prefork", receiver, concurrency=2, lease_seconds=3, reap_seconds=0.1) as seen:
        run, trace_id = traced(seen, tracer, "watched.dies_for_good")
        with pytest.raises(RunError):
            run.result(timeout=60)
        spans = receiver.wait_for(trace_id, finished(4), "the trace")
    check_connected(spans)
    assert one(spans, INVOKE).attributes["skillfleet.outcome"] == "lost"
    assert one(spans, PROCESS).failed


def test_no_span_is_lost_when_children_are_recycled_after_each_run(
    receiver: Receiver, tracer: trace.Tracer
) -> None:
    with watched("prefork", receiver, concurrency=2, options=("--max-tasks-per-child=1",)) as seen:
        with tracer.start_as_current_span("caller") as span:
            runs = seen.fleet.enqueue_many("watched.add", [{"x": i} for i in range(10)])
        assert [run.result(timeout=60) for run in runs] == list(range(1, 11))
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        spans = receiver.wait_for(trace_id, finished(1 + 10 * 4), "every span")
    check_connected(spans)
    assert len(spans) == 1 + 10 * 4
