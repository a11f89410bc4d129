"""The version of an agent that decides about arguments and queue."""

from collections.abc import AsyncIterator

import pytest

from skillfleet.contracts import AgentCard, SkillCard
from skillfleet.errors import InvalidArgumentsError, UnknownSkillError
from skillfleet_ledger import Ledger, Settings
from skillfleet_producer import AsyncFleet
from tests.support.valkey import ValkeyServer

ALIVE, GONE = 60_000, -1000


def card(version: str, queue: str, *arguments: str, skill: str = "hi") -> AgentCard:
    schema = {
        "type": "object",
        "properties": {name: {} for name in arguments},
        "required": list(arguments),
        "additionalProperties": False,
    }
    return AgentCard(
        name="roll",
        version=version,
        queue=queue,
        skills=(SkillCard(name=skill, input_schema=schema),),
    )


@pytest.fixture
async def ledger(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    """Yield the ledger through which a worker publishes."""
    ledger = Ledger(Settings.load(redis_url=valkey.worker_url))
    yield ledger
    await ledger.close()


async def queue_of(valkey: ValkeyServer, args: dict[str, int], skill: str = "roll.hi") -> str:
    """Return the queue to which a producer that starts now sends a run."""
    async with AsyncFleet(valkey.producer_url) as fleet:
        run = await fleet.enqueue(skill, args)
        return (await run.status()).queue


async def test_the_newest_live_version_that_takes_the_arguments_gets_the_run(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    await ledger.directory.publish("w2", [card("0.10.0", "editors", "x")], ALIVE)
    await ledger.directory.publish("w1", [card("0.9.0", "lonely", "x")], ALIVE)
    await ledger.directory.publish("w3", [card("0.11.0", "remote", "y")], ALIVE)
    assert await queue_of(valkey, {"x": 1}) == "editors"
    assert await queue_of(valkey, {"y": 1}) == "remote"


async def test_a_version_without_a_live_worker_gets_no_runs(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    """As after a deployment was rolled back."""
    await ledger.directory.publish("w1", [card("1.0.0", "lonely", "x")], ALIVE)
    await ledger.directory.publish("w2", [card("2.0.0", "editors", "x")], GONE)
    await ledger.directory.publish("w3", [card("3.0.0", "remote", "x", "y")], GONE)
    assert await queue_of(valkey, {"x": 1}) == "lonely"
    with pytest.raises(InvalidArgumentsError, match="'y' was unexpected"):
        await queue_of(valkey, {"x": 1, "y": 2})


async def test_a_skill_that_only_silent_workers_have_is_still_taken(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    await ledger.directory.publish("w1", [card("1.0.0", "lonely", "x")], ALIVE)
    await ledger.directory.publish("w2", [card("2.0.0", "editors", skill="more")], GONE)
    assert await queue_of(valkey, {}, "roll.more") == "editors"
    with pytest.raises(UnknownSkillError):
        await queue_of(valkey, {}, "roll.less")


async def test_a_run_of_an_agent_that_no_worker_has_served_yet_is_accepted(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    """As when its producer is deployed before its workers."""
    await ledger.directory.publish("w1", [card("1.0.0", "lonely", "x")], ALIVE)
    assert await queue_of(valkey, {}, "roller.hi") == "celery"
    refusing = Settings.load(redis_url=valkey.producer_url, unserved_seconds=0)
    async with AsyncFleet(settings=refusing) as fleet:
        with pytest.raises(UnknownSkillError, match=r"roller\.hi.*known skills: roll\.hi"):
            await fleet.enqueue("roller.hi")


@pytest.mark.parametrize(
    ("schema", "why"),
    [({"type": "strang"}, "strang"), ({"$ref": "http://127.0.0.1:1/x"}, "nothing is fetched")],
)
async def test_an_invalid_schema_affects_only_its_own_version(
    valkey: ValkeyServer, ledger: Ledger, schema: dict[str, str], why: str
) -> None:
    broken = SkillCard(name="hi", input_schema=schema)
    newest = AgentCard(name="roll", version="2.0.0", queue="editors", skills=(broken,))
    await ledger.directory.publish("w2", [newest], ALIVE)
    with pytest.raises(InvalidArgumentsError, match=rf"(?s)schema that roll\.hi publishes.*{why}"):
        await queue_of(valkey, {"x": 1})
    await ledger.directory.publish("w1", [card("1.0.0", "lonely", "x")], ALIVE)
    assert await queue_of(valkey, {"x": 1}) == "lonely"
