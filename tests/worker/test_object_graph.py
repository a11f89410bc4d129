"""Neither the lease nor a connection can be reached by following a context's attributes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillfleet_producer import Fleet
from tests.support.fleet import POOLS, FleetWorker
from tests.support.valkey import running_server


@pytest.fixture(params=POOLS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "graph-key").write_text("gk-0123456789")
    with (
        running_server() as server,
        FleetWorker(server, "tests.worker.graph_skills", pool=request.param, secrets_dir=tmp_path),
        Fleet(server.producer_url) as fleet,
    ):
        yield fleet


def test_a_skill_reaches_neither_lease_nor_connection_and_only_what_is_documented(
    fleet: Fleet,
) -> None:
    found: dict[str, Any] = fleet.enqueue("graph.walks").result(timeout=30)
    assert found["forbidden"] == []
    assert found["attributes"] == ["auth", "limits", "task_id"]
    assert found["public"] == found["interface"]
    assert found["seen"] > 20
    # The walk does find what a client holds.
    leaks = fleet.enqueue("graph.finds_a_leak").result(timeout=30)
    assert any("Lease" in leak for leak in leaks)
    assert any("Ledger" in leak for leak in leaks)
