"""Finding agents: only live ones, all their versions, by name."""

from collections.abc import Iterator
from typing import Any

import pytest

from skillfleet_producer import Fleet
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

QUICK: dict[str, Any] = {"lease_seconds": 3, "reap_seconds": 0.2}
BOTH = {"found": ["0.1.0", "0.2.0"], "got": "0.2.0"}
OLD = {"found": ["0.1.0"], "got": "0.1.0"}
NEW = {"found": ["0.2.0"], "got": "0.2.0"}
NONE_FOUND: dict[str, Any] = {"found": [], "got": ""}


@pytest.fixture
def plain() -> Iterator[ValkeyServer]:
    """A server with one worker, whose skill looks for others."""
    with running_server() as server, FleetWorker(server, "tests.auth.tree_agent", **QUICK):
        yield server


def seen(fleet: Fleet) -> Any:
    return fleet.enqueue("tree.looks", {"name": "far"}).result(timeout=20)


def comes(fleet: Fleet, wanted: Any, what: str) -> None:
    wait_until(lambda: seen(fleet) == wanted, 20, what)


def test_a_killed_workers_agents_are_found_no_more(plain: ValkeyServer) -> None:
    with Fleet(plain.producer_url) as fleet:
        assert seen(fleet) == NONE_FOUND
        with FleetWorker(plain, "tests.auth.far_agent", **QUICK) as doomed:
            assert seen(fleet) == OLD
            doomed.kill()
            comes(fleet, NONE_FOUND, "the card of a killed worker to go")
        assert "far" not in {card.name for card in fleet.agents()}


def test_a_rolling_deploy_shows_both_versions_and_goes_by_name(plain: ValkeyServer) -> None:
    with (
        Fleet(plain.producer_url) as fleet,
        FleetWorker(plain, "tests.auth.far_agent", **QUICK) as old,
        FleetWorker(plain, "tests.auth.far_agent_next", **QUICK),
    ):
        assert seen(fleet) == BOTH
        assert [card.version for card in fleet.agents() if card.name == "far"] == BOTH["found"]
        old.kill()
        comes(fleet, NEW, "the old version to go")
        assert fleet.enqueue("far.deepens", {"levels": 0}).result(timeout=20) == "0.2.0"
