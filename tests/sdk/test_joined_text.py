"""Readers of a stream end with each text once."""

from datetime import UTC, datetime
from typing import Any

import pytest

from skillfleet import AgentEvent, joined_text
from skillfleet.contracts import RunEvent


def agent_event(kind: str, payload: dict[str, Any], step: str | None = None) -> AgentEvent:
    return AgentEvent(kind, payload, step=step)


def run_event(kind: str, payload: dict[str, Any], step: str | None = None) -> RunEvent:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return RunEvent(id="1", kind=kind, payload=payload, attempt=1, at=at, step=step)


@pytest.mark.parametrize("event", [agent_event, run_event])
def test_void_text_is_left_out(event: Any) -> None:
    events = [
        event("text_delta", {"text": "A"}),
        event("text_delta", {"text": "x"}, "one"),
        event("text_delta", {"text": "B"}, "two"),
        event("progress", {"message": "no text"}),
        event("superseded", {"step": "one", "from": "2", "to": "2"}),
        event("text_delta", {"text": "C"}, "one"),
        event("text_delta", {"no text": "D"}),
    ]
    assert joined_text(events) == "ABC"


def test_a_step_may_be_void_several_times() -> None:
    tries = [
        agent_event("text_delta", {"text": "x"}, "one"),
        agent_event("superseded", {"step": "one"}),
    ]
    events = [*tries, *tries, agent_event("text_delta", {"text": "done"}, "one")]
    assert joined_text(events) == "done"


def test_text_outside_of_steps_is_never_void() -> None:
    events = [agent_event("text_delta", {"text": "A"}), agent_event("superseded", {"step": None})]
    assert joined_text(events) == "A"
    assert joined_text([]) == ""


def test_events_are_equal_whatever_step_they_are_of() -> None:
    assert agent_event("a", {}, "one") == AgentEvent("a")
