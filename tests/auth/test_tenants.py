"""The tenant of a run is its caller's: workers set the tag, and refuse another one."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from skillfleet.contracts import RunState
from skillfleet_producer import Fleet
from tests.auth.keys import Keys
from tests.auth.token_factory import TokenFactory
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server

ACME = {"tenant": "acme"}
ADA = {"sub": "ada", "scopes": ["files:read"], "org_id": "acme"}


@pytest.fixture(scope="module")
def separated(keys: Keys) -> Iterator[ValkeyServer]:
    """A server with one worker that separates tenants by the claim `org_id`."""
    options = keys.worker_settings() | {"tenant_claim": "org_id"}
    with running_server() as server, FleetWorker(server, "tests.auth.agents", **options):
        yield server


@pytest.fixture
async def factory(separated: ValkeyServer, keys: Keys) -> AsyncIterator[TokenFactory]:
    factory = TokenFactory(separated.url, keys)
    yield factory
    await factory.fleet.close()


def test_a_producers_run_and_those_below_it_have_the_tenant_of_its_caller(
    separated: ValkeyServer, keys: Keys
) -> None:
    settings = keys.settings(separated.producer_url, tenant_claim="org_id")
    with Fleet(settings=settings) as fleet:
        arguments = {"skill": "whoami", "depth": 1}
        run = fleet.enqueue("gate.calls", arguments, auth=ADA, tags={"tree": "one"})
        run.result(timeout=30)
        found = fleet.runs(tags=ACME | {"tree": "one"})
    assert sorted(each.skill for each in found) == ["calls", "calls", "whoami"]


async def test_a_run_without_a_tenant_gets_its_callers(factory: TokenFactory) -> None:
    new = replace(await factory.prepare("gate.whoami", {}), tags={"plan": "pro"})
    run = await factory.submit(new, factory.token(new, claims={"org_id": "acme"}))
    await run.result(timeout=20)
    assert (await run.status()).tags == ACME | {"plan": "pro"}
    found = await factory.fleet.runs(tags=ACME | {"plan": "pro"})
    assert run.id in {each.id for each in found}


async def test_a_run_without_a_tenant_stays_without_one_where_its_caller_has_none(
    factory: TokenFactory,
) -> None:
    new = await factory.prepare("gate.whoami", {})
    run = await factory.submit(new, factory.token(new))
    await run.result(timeout=20)
    assert (await run.status()).tags == {}


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"org_id": "umbrella"}, "not the tenant of its caller"),
        ({}, "not the tenant of its caller"),
        ({"org_id": 7}, "must be a string"),
    ],
)
async def test_a_run_of_another_tenant_is_not_started(
    factory: TokenFactory, claims: dict[str, str], words: str
) -> None:
    new = replace(await factory.prepare("gate.whoami", {}), tags=ACME)
    run = await factory.submit(new, factory.token(new, claims=claims))
    status = await factory.end_of(run)
    assert (status.state, status.code, status.attempt) == (RunState.FAILED, "unauthorized", 0)
    assert words in (status.message or "")
