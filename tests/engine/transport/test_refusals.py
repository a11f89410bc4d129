"""A broker that refuses what it is asked for is one that is away: the worker waits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.engine.transport.conftest import StartReader, StartWorker
from tests.engine.transport.readers import ENGINE, publish
from tests.engine.workers import Worker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

CONSUMER = "skillfleet_engine:LoopConsumer"
Commands = tuple[tuple[str, ...], tuple[str, ...]]

REFUSALS: dict[str, Commands] = {
    "no memory": (("CONFIG SET", "maxmemory", "1"), ("CONFIG SET", "maxmemory", "0")),
    "no replicas": (
        ("CONFIG SET", "min-replicas-to-write", "1"),
        ("CONFIG SET", "min-replicas-to-write", "0"),
    ),
    "read only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "no right": (
        ("ACL SETUSER", "default", "-@scripting", "-@write"),
        ("ACL SETUSER", "default", "+@all"),
    ),
    "another password": (
        ("ACL SETUSER", "default", "resetpass", ">another"),
        ("ACL SETUSER", "default", "nopass"),
    ),
}


@contextmanager
def refusing(server: ValkeyServer, how: str) -> Iterator[None]:
    """Have the server refuse things; connections of before are closed."""
    begin, end = REFUSALS[how]
    with redis.Redis(port=server.port, single_connection_client=True) as administrator:
        administrator.execute_command(*begin)
        try:
            administrator.client_kill_filter(_type="normal", skipme=True)
            yield
        finally:
            administrator.execute_command(*end)


def complains(worker: Worker) -> bool:
    text = worker.log.read_text()
    return "The broker refuses" in text or "Cannot connect" in text


@pytest.mark.parametrize("how", REFUSALS)
@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_a_worker_waits_while_redis_refuses(
    pool: str, how: str, start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(pool, 2, worker_consumer=CONSUMER)
    running = worker.send("hold", 600.0)
    worker.wait_for("beat", running.id)
    with refusing(server, how):
        wait_until(lambda: complains(worker), 30, "the worker to notice")
        before = len(worker.entries("beat", running.id))
        worker.wait_for("beat", running.id, count=before + 60)
    assert worker.call("add", 2, 3) == 5
    before = len(worker.entries("beat", running.id))
    worker.wait_for("beat", running.id, count=before + 5)
    assert len(worker.entries("held", running.id)) == 1
    text = worker.log.read_text()
    assert worker.process.poll() is None
    assert "Unrecoverable" not in text
    # Some seconds of refusals, and not a line for each.
    assert text.count("The broker refuses") + text.count("Connection to broker lost") < 8


@pytest.mark.parametrize("how", ["no memory", "no right", "another password"])
def test_a_worker_that_starts_while_redis_refuses_waits(
    how: str, server: ValkeyServer, tmp_path: Path
) -> None:
    with refusing(server, how):
        worker = Worker(
            server.url,
            tmp_path,
            "loop",
            2,
            broker_transport=ENGINE,
            broker_channel_error_retry=True,
        )
        try:
            wait_until(lambda: complains(worker), 60, "the worker to notice")
        except BaseException:
            worker.close()
            raise
    try:
        assert worker.wait_ready().call("add", 2, 3) == 5
        assert worker.process.poll() is None
    finally:
        worker.close()


def test_messages_go_back_though_no_script_may_be_loaded(
    server: ValkeyServer, start_reader: StartReader
) -> None:
    """As when the server forgets its scripts between two requests."""
    publish(server.url, "jobs", "one")
    reader = start_reader("jobs", url=server.url)
    assert reader.drain(1) == ["one"]
    with server.client() as client:
        client.script_flush()
        client.execute_command("ACL SETUSER", "default", "-script")
        reader.got[-1].reject(requeue=True)
        assert reader.drain(1) == ["one"]
        client.execute_command("ACL SETUSER", "default", "+@all")
    reader.ack_all()
