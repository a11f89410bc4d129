"""Short rounds for every run of the suite; `make endurance` plays long ones."""

import os

import pytest

from tests.endurance.scenario import Endurance, run_round

SEED = int(os.environ.get("ENDURANCE_SEED", "2611"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("branches", [1, 4])
async def test_a_crash_costs_one_call(branches: int) -> None:
    seen = await run_round(Endurance(SEED, steps=60, kills=5, branches=branches))
    problems = list(seen.problems())
    assert not problems, "\n".join([seen.summary, *problems])
