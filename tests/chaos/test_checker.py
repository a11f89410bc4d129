"""The judge of the chaos rounds finds what it is there to find."""

import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import Execution, Run


class Told:
    """A journal of one run: when (ms) each of its attempts told of itself."""

    def __init__(self, *attempts: list[int]) -> None:
        self.executions = {
            "r": [
                Execution(number, number, ("start", *["tick"] * (len(times) - 2), "end"), tuple(ns))
                for number, times in enumerate(attempts, start=1)
                for ns in [[time * 1_000_000 for time in times]]
            ]
        }


@pytest.mark.parametrize(
    "older",
    [
        pytest.param([0, 100, 200, 2900], id="lost"),
        pytest.param([0, 100, 200, 5000, 5050], id="froze"),
        pytest.param([0, 100, 200, 5000, 5050, 8000, 8020], id="froze twice"),
    ],
)
def test_an_older_attempt_that_could_not_know_is_forgiven(older: list[int]) -> None:
    assert not overlaps(older)


@pytest.mark.parametrize(
    "older",
    [
        pytest.param([0, 100, 200, 2900, 3050], id="went on"),
        pytest.param([0, 100, 200, *range(5000, 6300, 100)], id="awake too long"),
        pytest.param([0, *range(4000, 4700, 100), *range(5200, 5900, 100)], id="in two parts"),
    ],
)
def test_an_older_attempt_that_went_on_is_found(older: list[int]) -> None:
    assert overlaps(older)


def overlaps(older: list[int]) -> bool:
    record = {"state": "succeeded", "skill": "sleep", "attempt": "2", "seq": "0"}
    attempts = [{"number": 1, "outcome": "lost"}, {"number": 2, "outcome": "succeeded"}]
    run = Run("r", record, attempts, [], [], None)
    problems = check({"r": run}, Told(older, [3000, 3100, 3200, 8500]), {})  # type: ignore[arg-type]
    return any("overlapped" in problem for problem in problems)
