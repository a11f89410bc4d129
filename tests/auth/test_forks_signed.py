"""Forks on a fleet that takes signed runs only."""

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from skillfleet.contracts import HEADER, Fork
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet, RunHandle
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA, TokenFactory
from tests.support.valkey import ValkeyServer

EVE = {"sub": "eve"}
ROOT = {"sub": "root", "scopes": ["skillfleet:admin"]}


@pytest.fixture
async def factory(guarded: ValkeyServer, keys: Keys) -> AsyncIterator[TokenFactory]:
    factory = TokenFactory(guarded.url, keys)
    yield factory
    await factory.fleet.close()


def rolled(fleet: Fleet) -> tuple[RunHandle, int]:
    """Return a run that has recorded a random number, and the number."""
    run = fleet.enqueue("gate.rolls", auth=ADA)
    return run, run.result(timeout=20)


def test_a_fork_begins_with_the_recorded_steps(fleet: Fleet) -> None:
    run, number = rolled(fleet)
    assert run.fork(auth=ADA).result(timeout=20) == number
    assert run.fork("roll", auth=ADA).result(timeout=20) != number


def test_another_callers_run_is_forked_by_administrators_only(fleet: Fleet) -> None:
    run, number = rolled(fleet)
    for auth in (EVE, None):
        with pytest.raises(RunFailed, match="skillfleet:admin") as refused:
            run.fork(auth=auth).result(timeout=20)
        assert refused.value.code == "unauthorized"
    assert run.fork(auth=ROOT).result(timeout=20) == number


async def test_a_fork_that_its_token_does_not_name_is_refused(
    factory: TokenFactory, fleet: Fleet
) -> None:
    run, _ = rolled(fleet)
    new = await factory.prepare("gate.rolls", {})
    token = factory.token(new)
    headers = orjson.loads(new.headers)
    headers[HEADER]["fork"] = Fork(run=run.id).model_dump(exclude_none=True)
    forged = replace(new, headers=orjson.dumps(headers))
    status = await factory.end_of(await factory.submit(forged, token))
    assert (status.code, "another fork" in (status.message or "")) == ("unauthorized", True)
