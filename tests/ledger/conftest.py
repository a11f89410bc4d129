"""Fixtures of the ledger's tests."""

from collections.abc import AsyncIterator

import pytest

from skillfleet_ledger import Ledger
from tests.ledger.audit import audit
from tests.ledger.helpers import settings_for
from tests.support.valkey import ValkeyServer


@pytest.fixture
async def ledger(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    """A ledger on an empty server; audited when the test is over."""
    ledger = Ledger(settings_for(valkey), name="test")
    try:
        yield ledger
    finally:
        await ledger.close()
    with valkey.client() as client:
        assert audit(client, ledger.keys) == []


@pytest.fixture
async def unaudited(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    """A ledger that a test may damage."""
    ledger = Ledger(settings_for(valkey))
    yield ledger
    await ledger.close()
