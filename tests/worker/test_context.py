"""The conformance table of RunContext, over the fleet, in each pool."""

import pytest

from skillfleet import joined_text
from skillfleet.contracts import RESERVED_KINDS
from skillfleet.errors import InvalidArgumentsError, RunError
from skillfleet.testing.conformance.run_context import (
    AUTH,
    CASES,
    Case,
    Observed,
    Reject,
    assert_conforms,
)
from skillfleet_producer import RunHandle
from tests.support.waiting import wait_until
from tests.worker.shared import Shared, wait_kind


def answer_until_the_end(run: RunHandle, case: Case) -> None:
    """Give each open question the next of its answers."""
    left = {name: list(answers) for name, answers in case.answers.items()}

    def all_given() -> bool:
        for wait in run.waits():
            answers = left.get(wait.name) or left.get(wait.question)
            if answers:
                given = answers.pop(0)
                if isinstance(given, Reject):
                    run.reject(given.reason, wait=wait.id)
                else:
                    run.answer(given, wait=wait.id)
        return not any(left.values()) or run.status().state.terminal

    if left:
        wait_until(all_given)


def observe(shared: Shared, case: Case) -> Observed:
    seen = Observed()
    try:
        run = shared.fleet.enqueue(
            f"conformance.{case.skill}",
            case.args,
            auth=AUTH,
            budget=case.budget,
            session=case.session,
        )
    except InvalidArgumentsError as error:
        seen.code, seen.message = error.code, str(error)
        return seen
    for message in case.inbox:
        run.send(message)
    if case.cancel_on is not None:
        wait_kind(run, case.cancel_on)
        run.cancel()
    answer_until_the_end(run, case)
    try:
        seen.result = run.result(timeout=30)
    except RunError as error:
        seen.code, seen.message = error.code, error.message
    events = list(run.events())
    seen.events = [
        (event.kind, event.payload) for event in events if event.kind not in RESERVED_KINDS
    ]
    seen.text = joined_text(events)
    seen.steps = [(step.kind, step.name, step.outcome) for step in run.steps()]
    seen.artifacts = {
        info.name: (run.read_artifact(info.name), info.mime_type) for info in run.artifacts()
    }
    return seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_fleets_context_conforms(shared: Shared, case: Case) -> None:
    seen = observe(shared, case)
    if case.skill == "finds":
        # Every worker serves the built-in agent as well, which has an `echo`, too.
        seen.result["by_skill"].remove("fleet")
    assert_conforms(case, seen)
