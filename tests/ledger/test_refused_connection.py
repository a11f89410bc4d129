"""A Redis that refuses a connection is not asked repeatedly."""

import asyncio

import pytest

from skillfleet.errors import FleetUnavailableError, SettingsError
from skillfleet_ledger import Settings
from skillfleet_ledger.redis_client.connection import PipelinedConnection
from tests.support.valkey import ValkeyServer


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://unknown:wrong@127.0.0.1:{port}/0", "WRONGPASS"),
        ("redis://127.0.0.1:{port}/9999", "out of range"),
    ],
)
async def test_it_fails_at_once_with_redis_own_words(
    valkey: ValkeyServer, url: str, word: str
) -> None:
    connection = PipelinedConnection(url.format(port=valkey.port), timeout=60)
    try:
        async with asyncio.timeout(30):
            with pytest.raises(FleetUnavailableError, match=f"refuses.*{word}"):
                await connection.execute("PING")
    finally:
        await connection.close()


def test_a_broker_of_an_unknown_protocol_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"SKILLFLEET_BROKER_URL.*amqp"):
        Settings.load(broker_url="nosuch://x")
    assert Settings.load(broker_url="amqp://x//").broker_url == "amqp://x//"
