"""The conformance table of RunContext, over the fleet, in each pool."""

import pytest

from skillfleet.contracts import RESERVED_KINDS
from skillfleet.errors import InvalidArgumentsError, RunError
from skillfleet.testing.conformance.run_context import AUTH, CASES, Case, Observed, assert_conforms
from tests.worker.shared import Shared, wait_kind


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
    if case.cancel_on is not None:
        wait_kind(run, case.cancel_on)
        run.cancel()
    try:
        seen.result = run.result(timeout=30)
    except RunError as error:
        seen.code, seen.message = error.code, error.message
    seen.events = [
        (event.kind, event.payload) for event in run.events() if event.kind not in RESERVED_KINDS
    ]
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
