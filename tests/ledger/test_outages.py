"""The ledger as a whole when its server stops, restarts or forgets the scripts."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import WriteResult
from tests.ledger.audit import audit
from tests.ledger.helpers import (
    DONE,
    claimed,
    event,
    read_all,
    running,
    settings_for,
    submission,
    submitted,
)
from tests.support.valkey import ValkeyServer, running_server

TASK = "librarian.survey"


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """Yield a server that the test may stop."""
    with running_server() as server:
        yield server


async def test_scripts_that_the_server_forgot_are_sent_again(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.connection.execute("SCRIPT", "FLUSH")
    answers = await asyncio.gather(
        *(ledger.streams.append(lease, 2, [event()]) for _ in range(20)),
    )
    assert answers == [(2, "")] * 20
    await ledger.leases.settle(lease, TASK, 2, DONE)
    assert len(await read_all(ledger, lease.run_id)) == 3


async def test_runs_leases_and_events_survive_a_restart(server: ValkeyServer) -> None:
    ledger = Ledger(settings_for(server, redis_timeout_seconds=20))
    try:
        lease = await running(ledger)
        waiting = await submitted(ledger)
        await ledger.streams.append(lease, 2, [event("before")])
        reader = asyncio.create_task(read_all(ledger, lease.run_id))
        server.stop()
        appending = asyncio.create_task(ledger.streams.append(lease, 3, [event("after")]))
        server.start()
        assert await appending == (3, "")
        assert (await ledger.leases.settle(lease, TASK, 3, DONE)).result is WriteResult.SETTLED
        assert len(await asyncio.wait_for(reader, 20)) == 4
        assert (await claimed(ledger, waiting.id)).attempt == 1
        with server.client() as client:
            assert audit(client, ledger.keys) == []
    finally:
        await ledger.close()


async def test_what_a_stopped_server_does_later_happens_once(server: ValkeyServer) -> None:
    """The calls fail here, wait in the server's buffers, and are repeated."""
    ledger = Ledger(settings_for(server, redis_timeout_seconds=1))
    try:
        lease = await running(ledger)
        new = submission()
        server.signal(signal.SIGSTOP)
        try:
            answers = await asyncio.gather(
                ledger.submissions.submit(new, b"message"),
                ledger.streams.append(lease, 2, [event()]),
                ledger.leases.requeue(lease, 1, outcome="retry", reason="x"),
                return_exceptions=True,
            )
        finally:
            server.signal(signal.SIGCONT)
        assert {type(answer) for answer in answers} == {FleetUnavailableError}
        await ledger.submissions.submit(new, b"message")
        written = await ledger.streams.append(lease, 2, [event()])
        answer = await ledger.leases.requeue(lease, 2, outcome="retry", reason="x")
        # The answers are the same whether or not the earlier calls were executed.
        assert (written, answer) == ((2, ""), WriteResult.REQUEUED)
        assert await ledger.connection.execute("LLEN", "celery") == 1
        again = await claimed(ledger, lease.run_id)
        assert (
            await ledger.leases.settle(again, TASK, again.seq, DONE)
        ).result is WriteResult.SETTLED
        status = await ledger.queries.status(lease.run_id)
        assert (status.state, status.retries, status.events) == (RunState.SUCCEEDED, 1, 5)
        with server.client() as client:
            assert audit(client, ledger.keys) == []
    finally:
        await ledger.close()
