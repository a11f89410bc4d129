"""The users of deploy/redis: the fleet works with them, and they can do nothing else.

tests/helm/test_trial.py runs exporter and Flower as theirs.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from skillfleet.contracts import RunState
from skillfleet.errors import RunCancelled
from skillfleet_producer import AsyncFleet, Fleet, Settings
from tests.support.acl import EXPORTER, FLOWER, PRODUCER, WORKER, password_of
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

SHARD = "{skillfleet:0}:"
UUID = "61b6bdd4-f8ce-390a-8faa-dc23849b5562"
LIBRARY = "#!lua name=evil\nredis.register_function('evil', function() return 1 end)"


@pytest.fixture(scope="module")
def locked() -> Iterator[ValkeyServer]:
    """A server with the users and a worker that is one of them."""
    with running_server() as server:
        with FleetWorker(server, "tests.auth.agents,tests.worker.kit", reap_seconds=0.2):
            yield server
        with server.client() as client:
            client.execute_command("ACL", "LOG", "RESET")


def as_user(server: ValkeyServer, user: str) -> redis.Redis:
    """A connection as that user."""
    return redis.Redis(port=server.port, username=user, password=password_of(user))


@pytest.fixture
def fleet(locked: ValkeyServer) -> Iterator[Fleet]:
    with locked.client() as client:
        client.execute_command("ACL", "LOG", "RESET")
    with Fleet(locked.producer_url) as fleet:
        yield fleet


def test_the_fleet_works_with_both_users(locked: ValkeyServer, fleet: Fleet) -> None:
    run = fleet.enqueue("kit.stream", {"n": 5})
    kinds = [event.kind for event in run.events(timeout=20)]
    assert kinds == ["state", *["progress"] * 5, "state"]
    assert run.result(timeout=20) == "done"
    assert fleet.enqueue("kit.parent", {"n": 3}, priority=3).result(timeout=20) == 3
    assert fleet.enqueue("kit.flaky").result(timeout=20) == 3
    delayed = fleet.enqueue("kit.add", {"x": 1}, delay=0.3)
    assert delayed.result(timeout=20) == 2
    assert {card.name for card in fleet.agents()} >= {"kit", "fleet"}
    assert run.id in {status.id for status in fleet.runs(limit=50)}
    assert fleet.enqueue("kit.add", {"x": 1}, idempotency_key="k").id
    assert locked.denied() == []


def test_a_producer_reads_artifacts(locked: ValkeyServer, fleet: Fleet) -> None:
    run = fleet.enqueue("kit.large_artifact", {"size": 100_000})
    run.result(timeout=20)
    assert len(run.read_artifact("large.bin")) == 100_000
    assert locked.denied() == []


def test_a_producer_cancels_running_queued_and_delayed_runs(
    locked: ValkeyServer, fleet: Fleet
) -> None:
    running = fleet.enqueue("kit.polls")
    wait_until(lambda: running.status().state is RunState.RUNNING)
    queued = fleet.enqueue("kit.add", {"x": 1}, queue="celery", delay=600)
    for run in (running, queued):
        assert run.cancel("enough")
        with pytest.raises(RunCancelled, match="enough"):
            run.result(timeout=20)
    assert not queued.cancel()


def assert_refused(server: ValkeyServer, user: str, command: tuple[str, ...]) -> None:
    with as_user(server, user) as client, pytest.raises(redis.RedisError) as refused:
        client.execute_command(*command)
    assert "permission" in str(refused.value) or "ACL" in str(refused.value), refused.value


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "celery-task-meta-x", "forged"),
        ("DEL", "celery-task-meta-x"),
        ("ZADD", f"{SHARD}leases", "1", "x"),
        ("ZADD", f"{SHARD}workers", "1", "x"),
        ("XADD", f"{SHARD}events:x", "*", "k", "state"),
        ("HSET", f"{SHARD}blob:x:1", "0", "bytes"),
        ("HSET", f"{SHARD}artifacts:x", "a", "{}"),
        ("HSET", f"{SHARD}cards", "a|1", "{}"),
        ("RPUSH", f"{SHARD}attempts:x", "{}"),
        ("HSET", f"{SHARD}journal:x", "fetch:1", "{}"),
        ("HSETNX", f"{SHARD}journal:x", "fetch:1", "{}"),
        ("HSET", f"{SHARD}waits:x", "1", "{}"),
        ("HSET", f"{SHARD}emitted:x", "1", "1"),
        ("HSET", f"{SHARD}decisions:x", "1", "decided before"),
        ("HDEL", f"{SHARD}decisions:x", "1"),
        ("HSET", f"{SHARD}session_state:/x", "a", "1"),
        ("SET", f"{SHARD}grant:/x:y", "run"),
        ("DEL", f"{SHARD}grant_epoch:/x"),
        ("LPOP", f"{SHARD}inbox:x"),
        ("DEL", f"{SHARD}inbox:x"),
        ("ZADD", f"{SHARD}index:state:failed:all", "1", "x"),
        ("PUBLISH", "/0.celery.pidbox", "shutdown"),
        ("SUBSCRIBE", "/0.celeryev/worker.online"),
        ("DEL", f"{SHARD}run:x"),
        ("LRANGE", "another-list", "0", "-1"),
        ("LRANGE", "celery", "0", "-1"),
        ("LRANGE", "celery\x06\x163", "0", "-1"),
        ("EVAL", "return redis.call('LRANGE', KEYS[1], 0, -1)", "1", "celery"),
        ("BRPOP", "celery", "1"),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("FLUSHALL",),
        ("ACL", "LIST"),
        ("EVAL", "return redis.call('SET', KEYS[1], 'forged')", "1", "celery-task-meta-x"),
        ("EVAL", "return redis.call('SET', 'celery-task-meta-x', 'forged')", "0"),
        ("EVAL", f"return redis.call('ZADD', '{SHARD}leases', 1, 'x')", "0"),
        ("EVAL", f"return redis.call('XADD', '{SHARD}events:x', '*', 'k', 'v')", "0"),
        ("SCRIPT", "FLUSH"),
        ("SCRIPT", "KILL"),
        ("FUNCTION", "LOAD", LIBRARY),
        ("ZREM", f"{SHARD}cleanups", "x"),
        ("SCAN", "0"),
    ],
    ids=lambda command: " ".join(command)[:60],
)
def test_a_producer_cannot(locked: ValkeyServer, command: tuple[str, ...]) -> None:
    assert_refused(locked, PRODUCER, command)


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("ACL", "SETUSER", "evil"),
        ("KEYS", "*"),
        ("SHUTDOWN",),
        ("SET", "somebody-elses", "x"),
        ("GET", "{other:0}:run:x"),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("SCRIPT", "FLUSH"),
        ("SCRIPT", "FLUSH", "ASYNC"),
        ("SCRIPT", "KILL"),
        ("FUNCTION", "LOAD", LIBRARY),
        ("FUNCTION", "FLUSH"),
        ("FUNCTION", "DELETE", "evil"),
        ("FUNCTION", "KILL"),
        ("FUNCTION", "LIST"),
        ("FCALL", "evil", "0"),
        ("FCALL_RO", "evil", "0"),
        ("SCAN", "0"),
        ("RANDOMKEY",),
        ("LRANGE", "north:w@h.celery.pidbox", "0", "-1"),
        ("LRANGE", f"north:{UUID}.reply.celery.pidbox", "0", "-1"),
        ("LPUSH", f"north:{UUID}.reply.celery.pidbox", "x"),
        ("SADD", "north:_kombu.binding.celery.pidbox", "x"),
        ("LRANGE", "north:celery", "0", "-1"),
        ("LPUSH", "w@h.celery.pidbox", "x"),
        ("DEL", "unackednorth:celery"),
        ("EVAL", "return redis.call('LRANGE', 'north:celery', 0, -1)", "0"),
        ("PUBLISH", "north:/0.celery.pidbox", "shutdown"),
        ("PUBLISH", "{north:0}:worker:x", "cancel x y"),
    ],
    ids=lambda command: " ".join(command)[:60],
)
def test_a_worker_cannot(locked: ValkeyServer, command: tuple[str, ...]) -> None:
    assert_refused(locked, WORKER, command)


# What KEDA's redis scaler asks for a list's length.
LENGTH = """
local kind = redis.call('type', KEYS[1]).ok
return redis.call(({list = 'llen', none = 'llen'})[kind], KEYS[1])
"""


def test_an_exporter_and_an_autoscaler_count(locked: ValkeyServer) -> None:
    with as_user(locked, EXPORTER) as client:
        for queue in ("celery", "celery\x06\x163"):
            assert client.eval(LENGTH, 1, queue) == 0
        assert "evicted_keys" in client.info("stats")


@pytest.mark.parametrize(
    "command",
    [
        ("HGETALL", f"{SHARD}run:x"),
        ("XRANGE", f"{SHARD}events:x", "-", "+"),
        ("HGETALL", f"{SHARD}artifacts:x"),
        ("GET", "celery-task-meta-x"),
        ("LRANGE", "celery", "0", "-1"),
        ("SADD", f"{SHARD}queues", "x"),
        ("EVAL", f"return redis.call('SADD', '{SHARD}queues', 'x')", "0"),
        ("EVAL", "return redis.call('LPUSH', KEYS[1], 'x')", "1", "celery"),
        ("PUBLISH", "/0.celery.pidbox", "shutdown"),
        ("CONFIG", "GET", "*"),
        ("KEYS", "*"),
        ("SCRIPT", "FLUSH"),
        ("FUNCTION", "LOAD", LIBRARY),
    ],
    ids=lambda command: " ".join(command)[:60],
)
def test_an_exporter_cannot(locked: ValkeyServer, command: tuple[str, ...]) -> None:
    assert_refused(locked, EXPORTER, command)


@pytest.mark.parametrize(
    "command",
    [
        ("EXISTS", f"{SHARD}run:x"),
        ("SET", f"{SHARD}reaper", "flower"),
        ("SET", "celery-task-meta-x", "forged"),
        ("ZADD", f"{SHARD}leases", "1", "x"),
        ("PUBLISH", f"{SHARD}worker:x", "cancel x"),
        ("EVAL", f"return redis.call('DEL', '{SHARD}run:x')", "0"),
        ("PUBLISH", "celery-task-meta-x", "forged"),
        ("EVAL", "return redis.call('PUBLISH', 'celery-task-meta-x', 'forged')", "0"),
        ("DEL", "unacked"),
        ("DEL", "unacked_index"),
        ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "unacked"),
        ("SET", "unacked", "x"),
        ("SET", "celery", "x"),
        ("DEL", "celery"),
        ("LRANGE", "celery", "0", "-1"),
        ("BRPOP", "celery", "1"),
        ("SET", "_kombu.binding.celery.pidbox", "x"),
        ("LPUSH", "north:x.reply.celery.pidbox", "x"),
        ("BRPOP", f"north:{UUID}.reply.celery.pidbox", "1"),
        ("SMEMBERS", "north:_kombu.binding.celery.pidbox"),
        ("LPUSH", "north:celery", "x"),
        ("SCRIPT", "FLUSH"),
        ("FUNCTION", "LOAD", LIBRARY),
        ("CONFIG", "GET", "*"),
        ("FLUSHALL",),
        ("KEYS", "*"),
    ],
    ids=lambda command: " ".join(command)[:60],
)
def test_flower_cannot(locked: ValkeyServer, command: tuple[str, ...]) -> None:
    assert_refused(locked, FLOWER, command)


async def test_many_cancels_of_a_producer_learn_what_it_may_once(locked: ValkeyServer) -> None:
    async with AsyncFleet(locked.producer_url) as fleet:
        runs = [await fleet.enqueue("kit.add", {"x": n}, delay=600) for n in range(5)]
        before = len(locked.denied())
        await asyncio.gather(*(run.cancel() for run in runs[:1]))
        await asyncio.gather(*(run.cancel() for run in runs[1:]))
        assert len(locked.denied()) <= before + 1
        for run in runs:
            with pytest.raises(RunCancelled):
                await run.result(timeout=20)


def test_the_users_fit_a_namespace_of_ones_own_when_its_name_is_put_in() -> None:
    """As docs/security.md says: another name in braces, and in front of Celery's keys."""
    with running_server() as server:
        worker = FleetWorker(server, "tests.worker.kit", namespace="north")
        url = server.url_of(PRODUCER, "north")
        with worker, Fleet(settings=Settings.load(redis_url=url, namespace="north")) as fleet:
            assert fleet.enqueue("kit.parent", {"n": 2}).result(timeout=20) == 1
            assert server.denied() == []


def busy_fleet(server: ValkeyServer, namespace: str) -> None:
    """Have a fleet do something that leaves each kind of key."""
    settings = Settings.load(redis_url=server.url_of(PRODUCER, namespace), namespace=namespace)
    worker = FleetWorker(server, "tests.worker.kit", namespace=namespace)
    with worker, Fleet(settings=settings) as fleet:
        fleet.enqueue("kit.parent", {"n": 2}).result(timeout=20)
        fleet.enqueue("kit.large_artifact", {"size": 10}).result(timeout=20)
        fleet.enqueue("kit.add", {"x": 1}, delay=600)
        fleet.enqueue("kit.add", {"x": 1}, queue="parked", priority=3)
        # A plain client of Celery whose result no client fetches.
        prefix = settings.keyspace.broker_prefix
        with Celery(broker=server.url) as app:
            app.conf.broker_transport_options = {"global_keyprefix": prefix}
            assert app.control.inspect(timeout=5, limit=1).ping()
    with server.client() as client:
        key = f"{prefix}{UUID}.reply.celery.pidbox"
        client.lpush(key, "an answer")
        client.hset(f"{prefix}unacked", "tag", "message")
        client.zadd(f"{prefix}unacked_index", {"tag": 1})
        client.set(f"{prefix}unacked_mutex", "held")
        client.lpush(f"{prefix}undecodable", "message")
        client.lpush(f"{prefix}celery\x06\x16woken", "message")


def test_the_users_of_one_fleet_reach_no_key_and_no_channel_of_another() -> None:
    """Whatever kind of key a fleet has: those that two fleets on one server really left."""
    with running_server() as server:
        for namespace in ("skillfleet", "north"):
            busy_fleet(server, namespace)
        with server.client() as client:
            found = {key.decode() for key in client.keys("*")}
            north = {key for key in found if key.startswith(("north:", "{north:"))}
            assert len(north) > 20
            assert len(found - north) > 20
            for keys, suffix in ((north, ""), (found - north, "-north")):
                for user in (PRODUCER, WORKER, EXPORTER, FLOWER):
                    name = f"{user}{suffix}"
                    reached = [key for key in keys if reaches(client, name, key)]
                    assert reached == [], name
            for channel in ("/0.celery.pidbox", "/0.celeryev/x", "celery-task-meta-x"):
                for user, name in ((WORKER, f"north:{channel}"), (f"{WORKER}-north", channel)):
                    answer = client.execute_command("ACL", "DRYRUN", user, "PUBLISH", name, "x")
                    assert answer != b"OK", (user, name)


def reaches(client: Any, user: str, key: str) -> bool:
    """Return whether a user may do anything with a key that some user may do."""
    return any(
        client.execute_command("ACL", "DRYRUN", user, *command) == b"OK"
        for command in (
            *(("GET", key), ("SET", key, "x"), ("DEL", key), ("EXISTS", key), ("TYPE", key)),
            *(("LLEN", key), ("LPUSH", key, "x"), ("RPUSH", key, "x"), ("BRPOP", key, "1")),
            *(("LRANGE", key, "0", "-1"), ("HGETALL", key), ("HSET", key, "a", "b")),
            *(("HGET", key, "a"), ("HDEL", key, "a"), ("HVALS", key), ("HKEYS", key)),
            *(("SMEMBERS", key), ("SADD", key, "x"), ("SREM", key, "x"), ("SCARD", key)),
            *(("ZADD", key, "1", "x"), ("ZRANGE", key, "0", "-1"), ("ZREM", key, "x")),
            *(("ZRANGEBYSCORE", key, "0", "1"), ("ZREVRANGE", key, "0", "1"), ("ZCARD", key)),
            *(("XRANGE", key, "-", "+"), ("XADD", key, "*", "a", "b"), ("EVAL", "x", "1", key)),
        )
    )
