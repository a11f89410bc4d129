"""Signed runs, secrets and budgets in the pools whose handlers run on other loops."""

from pathlib import Path

import pytest

from skillfleet.contracts import Budget
from skillfleet.errors import RunFailed
from skillfleet.redaction import HIDDEN
from skillfleet_producer import Fleet
from tests.auth.conftest import StartWorker
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA
from tests.support.valkey import ValkeyServer


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_trust_holds_in_every_pool(
    start_worker: StartWorker, server: ValkeyServer, keys: Keys, tmp_path: Path, pool: str
) -> None:
    (tmp_path / "api-key").write_text("sk-test-9f8e7d6c5b4a")
    start_worker(
        "tests.auth.agents",
        pool=pool,
        concurrency=3,
        secrets_dir=tmp_path,
        **keys.worker_settings(),
    )
    with Fleet(settings=keys.settings(server.producer_url)) as fleet:
        called = fleet.enqueue("gate.calls", {"skill": "reads", "depth": 1}, auth=ADA)
        assert called.result(timeout=30) == "read"
        leaking = fleet.enqueue("keeper.leaks", {"how": "text"})
        texts = [
            event.payload["text"] for event in leaking.events(timeout=30) if "text" in event.kind
        ]
        assert "".join(texts) == f"<{HIDDEN}>"
        budget = Budget(tokens=30)
        thinks = fleet.enqueue("tree.thinks", {"calls": 500, "tokens": 10}, budget=budget)
        with pytest.raises(RunFailed) as stopped:
            thinks.result(timeout=30)
        assert stopped.value.code == "budget_exhausted"
    with Fleet(settings=keys.settings(server.producer_url, "untrusted")) as fleet:
        with pytest.raises(RunFailed) as refused:
            fleet.enqueue("gate.whoami", auth=ADA).result(timeout=30)
        assert refused.value.code == "unauthorized"
