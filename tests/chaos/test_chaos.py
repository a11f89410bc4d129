"""Short rounds of chaos; `make chaos` plays longer ones."""

import pytest

from tests.chaos.scenario import Scenario, run_scenario
from tests.support.forms import forms

SEED = 2314


@pytest.mark.parametrize(
    "broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.xdist_group("rabbitmq"))]
)
@pytest.mark.parametrize("seconds", forms(short=[6.0], thorough=[20.0]))
async def test_nothing_is_lost_and_nothing_done_twice_whatever_breaks(
    broker: str, seconds: float
) -> None:
    scenario = Scenario(SEED, seconds, patience=60, rabbit=broker == "rabbitmq")
    faults = "\n".join(map(str, (scenario, *scenario.faults())))
    verdict = await run_scenario(scenario)
    report = [verdict.tails(), faults, verdict.summary, *verdict.problems]
    assert not verdict.problems, "\n".join(report)
