"""An answer raced against parking, time-outs, cancellation and drain has exactly one outcome.

`make races` plays two thousand rounds.
"""

import pytest

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from tests.ledger.races import Evidence, judge, play

ANSWERED = RunEnd(RunState.SUCCEEDED, "completed", value="answer=1")
EXPIRED = RunEnd(RunState.SUCCEEDED, "completed", value="expired")
CANCELLED = RunEnd(RunState.CANCELLED, "cancelled_by_caller", "enough")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(0, 100, 25))
async def test_an_acceptance_is_never_contradicted(ledger: Ledger, seed: int) -> None:
    assert await play(ledger, seed, 25) == []


def answered(**values: object) -> Evidence:
    """Return what is seen of a question that was answered, with changes."""
    seen = Evidence(["answer=1"], ["answer=2"], ["answer=1"], asked=1, answered=1, end=ANSWERED)
    for name, value in values.items():
        setattr(seen, name, value)
    return seen


def test_an_answer_that_was_accepted_and_received_is_in_order() -> None:
    assert judge(answered()) == []
    assert judge(answered(accepted=["answer=1"] * 2, received=["answer=1"] * 3)) == []
    assert judge(answered(cancelled=True, end=CANCELLED)) == []
    assert judge(answered(received=[], answered=0, cancelled=True, end=CANCELLED)) == []
    assert judge(answered(accepted=[], received=["expired"], end=EXPIRED)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"accepted": ["answer=1", "answer=2"], "refused": []}, id="two accepted"),
        pytest.param({"received": ["answer=1", "answer=2"]}, id="two received"),
        pytest.param({"received": ["expired"], "end": EXPIRED}, id="accepted and expired"),
        pytest.param({"accepted": []}, id="received what no one gave"),
        pytest.param({"refused": ["answer=1"]}, id="refused and received"),
        pytest.param({"received": []}, id="accepted and lost"),
        pytest.param({"asked": 2}, id="asked twice"),
        pytest.param({"answered": 2}, id="ended twice"),
        pytest.param({"end": None}, id="not ended"),
        pytest.param({"end": CANCELLED}, id="cancelled by no one"),
    ],
)
def test_a_contradiction_is_found(wrong: dict[str, object]) -> None:
    assert judge(answered(**wrong)) != []
