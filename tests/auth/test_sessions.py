"""Sessions where authentication is required: the same id of another caller is another session."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.sessions import session_name
from skillfleet_producer import Fleet
from skillfleet_producer.submission import Options
from tests.auth.keys import Keys
from tests.auth.token_factory import TokenFactory
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server

ADA, BOB = {"sub": "ada"}, {"sub": "bob"}


@pytest.fixture(scope="module")
def house(keys: Keys) -> Iterator[ValkeyServer]:
    """A server with a worker that serves `talking` to signed runs only."""
    options = keys.worker_settings() | {"reap_seconds": 0.2}
    with running_server() as server, FleetWorker(server, "tests.worker.talking", **options):
        yield server


@pytest.fixture
def signing(house: ValkeyServer, keys: Keys) -> Iterator[Fleet]:
    with Fleet(settings=keys.settings(house.producer_url)) as fleet:
        yield fleet


def test_each_caller_has_sessions_of_its_own(signing: Fleet) -> None:
    sessions = [signing.session("own", auth=caller) for caller in (ADA, BOB)]
    for session, text in zip(sessions, ("from ada", "from bob"), strict=True):
        run = session.enqueue("talking.say", {"text": text})
        assert run.result(timeout=20) == [text]
        assert [each.id for each in session.runs()] == [run.id]
    again = sessions[0].enqueue("talking.say", {"text": "more"})
    assert again.result(timeout=20) == ["from ada", "more"]
    assert [run.session for run in sessions[1].runs()] == ["own"]
    for session, caller in zip(sessions, (ADA, BOB), strict=True):
        found = signing.runs(session="own", auth=caller)
        assert [each.id for each in found] == [each.id for each in session.runs()]
    assert signing.runs(session="own") == []


async def test_a_forged_record_reaches_no_other_callers_state(
    house: ValkeyServer, keys: Keys
) -> None:
    settings = keys.settings(house.producer_url)
    names = {sub: session_name(settings, "shared", {"sub": sub}) for sub in ("ada", "bob")}
    factory = TokenFactory(house.url, keys)
    ledger = Ledger(settings)
    try:
        new = await factory.fleet.enqueuer.prepare(
            "talking.say", {"text": "forged"}, Options(session="shared")
        )
        new = replace(new, session=names["bob"])
        run = await factory.submit(new, factory.token(new, **ADA))
        assert await run.result(timeout=20) == ["forged"]
        assert await ledger.sessions.load(names["bob"]) is None
        assert await ledger.sessions.load(names["ada"]) == b'["forged"]'
    finally:
        await ledger.close()
        await factory.fleet.close()


def test_a_run_is_sent_as_a_signed_message(signing: Fleet) -> None:
    session = signing.session("sent", auth=ADA)
    current = session.enqueue("talking.listens")
    session.enqueue("talking.say", {"text": "hi"}, on_busy="send")
    assert current.result(timeout=20) == {"text": "hi"}
