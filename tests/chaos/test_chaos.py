"""A short round for every run of the suite; `make chaos` runs longer ones."""

import os

import pytest

from tests.chaos.scenario import Scenario, run_scenario

SEED = int(os.environ.get("CHAOS_SEED", "2314"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize(
    "broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.xdist_group("rabbitmq"))]
)
async def test_nothing_is_lost_and_nothing_done_twice_whatever_breaks(broker: str) -> None:
    scenario = Scenario(SEED, SECONDS, patience=60, rabbit=broker == "rabbitmq")
    faults = "\n".join(map(str, (scenario, *scenario.faults())))
    verdict = await run_scenario(scenario)
    report = [verdict.tails(), faults, verdict.summary, *verdict.problems]
    assert not verdict.problems, "\n".join(report)
