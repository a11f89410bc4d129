"""A plain Celery application reads the results of runs."""

from collections.abc import Iterator

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from skillfleet.contracts import RunState
from skillfleet.errors import UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd, encode_end
from tests.ledger.helpers import DONE, running, settings_for, submitted
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"


@pytest.fixture
def app(valkey: ValkeyServer) -> Iterator[Celery]:
    """Return an application without skillfleet."""
    app = Celery("plain", broker=valkey.url, backend=valkey.url, set_as_current=False)
    yield app
    app.backend.client.close()  # type: ignore[attr-defined]
    app.close()


async def test_a_success_is_read_through_async_result(ledger: Ledger, app: Celery) -> None:
    lease = await running(ledger)
    result = app.AsyncResult(lease.run_id)
    assert str(result.state) == "PENDING"
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert str(result.state) == "SUCCESS"
    assert result.get(timeout=5) == {"answer": 42}
    assert result.name == TASK
    assert result.date_done is not None


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.TIMED_OUT, RunState.DEAD])
async def test_a_failure_is_raised_with_code_and_message_and_no_traceback(
    ledger: Ledger, app: Celery, state: RunState
) -> None:
    lease = await running(ledger)
    await ledger.leases.settle(
        lease, TASK, lease.seq, RunEnd(state, "skill_error", "no such folder")
    )
    result = app.AsyncResult(lease.run_id)
    assert str(result.state) == "FAILURE"
    assert result.traceback is None
    with pytest.raises(Exception, match="no such folder") as caught:
        result.get(timeout=5)
    assert "skill_error" in str(caught.value)


async def test_a_cancelled_run_is_revoked(ledger: Ledger, app: Celery) -> None:
    new = await submitted(ledger)
    await ledger.cancellation.cancel(new.id, "enough")
    result = app.AsyncResult(new.id)
    assert str(result.state) == "REVOKED"
    with pytest.raises(TaskRevokedError, match="enough"):
        result.get(timeout=5)


async def test_a_namespace_is_celerys_global_prefix(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, namespace="blue"))
    app = Celery("plain", backend=valkey.url, set_as_current=False)
    prefix = ledger.keys.broker_prefix
    app.conf.result_backend_transport_options = {"global_keyprefix": prefix}
    try:
        lease = await running(ledger)
        await ledger.leases.settle(lease, TASK, lease.seq, DONE)
        assert app.AsyncResult(lease.run_id).get(timeout=5) == {"answer": 42}
    finally:
        app.backend.client.close()  # type: ignore[attr-defined]
        app.close()
        await ledger.close()


async def test_a_forgotten_result_is_an_unknown_value(ledger: Ledger, app: Celery) -> None:
    lease = await running(ledger)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    app.AsyncResult(lease.run_id).forget()
    with pytest.raises(UnknownRunError, match="has expired"):
        await ledger.queries.end(lease.run_id)
    # The auditor expects every finished run's result.
    await ledger.connection.execute(
        *("SET", ledger.keys.result_key(lease.run_id)),
        *(encode_end(lease.run_id, TASK, RunState.SUCCEEDED, "completed", ""), "PX", 60_000),
    )
