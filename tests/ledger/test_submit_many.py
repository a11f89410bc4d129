"""Submitting many runs in one write."""

import pytest

from skillfleet.errors import IdempotencyConflictError
from skillfleet_ledger import Ledger
from tests.ledger.helpers import settings_for, submission
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer


async def test_a_thousand_runs_are_queued_each_with_its_message(ledger: Ledger) -> None:
    items = [(submission(), b"message %d" % number) for number in range(1000)]
    assert await ledger.submissions.submit_many(items) == [True] * 1000
    messages = await ledger.connection.execute("LRANGE", "celery", 0, -1)
    assert messages == [message for _, message in reversed(items)]
    assert await ledger.connection.execute("ZCARD", "{skillfleet:0}:ready:celery:0") == 1000


async def test_runs_that_exist_are_distinguished(ledger: Ledger) -> None:
    first, second = submission(), submission()
    assert await ledger.submissions.submit(first, b"message")
    both = [(first, b"message"), (second, b"message")]
    assert await ledger.submissions.submit_many(both) == [False, True]


async def test_a_script_is_sent_again_to_a_server_that_forgot_it(ledger: Ledger) -> None:
    await ledger.submissions.submit(submission(), b"message")
    await ledger.connection.execute("SCRIPT", "FLUSH")
    items = [(submission(), b"message") for _ in range(10)]
    assert await ledger.submissions.submit_many(items) == [True] * 10


async def test_a_conflict_is_raised(ledger: Ledger) -> None:
    new = submission()
    await ledger.submissions.submit(new)
    with pytest.raises(IdempotencyConflictError):
        await ledger.submissions.submit_many([(submission(id=new.id, digest="other"), b"message")])


async def test_a_connection_cut_in_the_middle_leaves_each_run_once(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        ledger = Ledger(settings_for(valkey, redis_url=proxy.url))
        try:
            await ledger.submissions.submit(submission(), b"first")
            proxy.cut_replies_after(200)
            items = [(submission(), b"message") for _ in range(300)]
            await ledger.submissions.submit_many(items)
        finally:
            await ledger.close()
    with valkey.client() as client:
        assert client.llen("celery") == 301
        assert client.zcard("{skillfleet:0}:ready:celery:0") == 301
