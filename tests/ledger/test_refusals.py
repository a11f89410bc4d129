"""A Redis that refuses: temporary errors are waited for, permanent ones raised at once."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
import redis

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.blocking import BlockingConnection
from skillfleet_ledger.redis_client.connection import PipelinedConnection, RefusedError, ReplyError
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.sync import BlockingLedger, run_sync
from tests.ledger.helpers import running, settings_for, submission
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

USER = "somebody"
Work = Callable[[Ledger, Lease], Awaitable[Any]]


@pytest.fixture(scope="module")
def refusing() -> Iterator[ValkeyServer]:
    """Yield a server whose configuration the tests of this module change."""
    with running_server("--enable-protected-configs", "yes") as server:
        yield server


@contextmanager
def set_to(server: ValkeyServer, **values: Any) -> Iterator[None]:
    """Give the server this configuration inside the context."""
    with server.client() as client, ExitStack() as stack:
        for key, value in values.items():
            name = key.replace("_", "-")
            stack.callback(client.config_set, name, client.config_get(name)[name])
            client.config_set(name, value)
        yield


@contextmanager
def full(server: ValkeyServer) -> Iterator[None]:
    with set_to(server, maxmemory=1):
        yield


@contextmanager
def unable_to_save(server: ValkeyServer) -> Iterator[None]:
    gone = tempfile.mkdtemp()
    # Without snapshots and the append-only file it would not refuse.
    with set_to(server, appendonly="no"):
        with set_to(server, dir=gone), server.client() as client:
            shutil.rmtree(gone)
            with set_to(server, save="3600 1"):
                client.execute_command("BGSAVE")
                wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
                yield
        with server.client() as client:
            client.execute_command("BGSAVE")
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok")


@contextmanager
def without_replicas(server: ValkeyServer) -> Iterator[None]:
    with set_to(server, min_replicas_to_write=1):
        yield


@contextmanager
def a_replica(server: ValkeyServer, **values: Any) -> Iterator[None]:
    with server.client() as client, set_to(server, **values):
        client.replicaof("127.0.0.1", str(free_port()))
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def without_its_primary(server: ValkeyServer) -> Iterator[None]:
    with a_replica(server, replica_serve_stale_data="no"):
        yield


@contextmanager
def crowded(server: ValkeyServer) -> Iterator[None]:
    """Close existing connections and refuse new ones."""
    with server.client() as client:
        most = client.config_get("maxclients")["maxclients"]
        client.config_set("maxclients", 1)
        try:
            client.execute_command("CLIENT", "KILL", "SKIPME", "yes")
            yield
        finally:
            client.config_set("maxclients", most)


async def submits(ledger: Ledger, _: Lease) -> None:
    assert await ledger.submissions.submit(submission(), b"message")


async def submits_many(ledger: Ledger, _: Lease) -> None:
    assert (
        await ledger.submissions.submit_many([(submission(), b"message") for _ in range(3)])
        == [True] * 3
    )


async def sets(ledger: Ledger, _: Lease) -> None:
    assert await ledger.connection.execute("SET", "k", "v") == b"OK"


async def emits(ledger: Ledger, lease: Lease) -> None:
    event = ("text", b"{}", 1_795_000_000_000)
    assert await ledger.streams.append(lease, lease.seq + 1, [event]) is not None


async def stores(ledger: Ledger, lease: Lease) -> None:
    async def data() -> AsyncIterator[bytes]:
        yield b"x" * 1000

    assert (await ledger.artifacts.write(lease, "a.bin", data(), "text/plain")).size_bytes == 1000


async def blocks(ledger: Ledger, _: Lease) -> None:
    """Do the same from a thread without a loop."""

    def submit() -> bool:
        other = BlockingLedger(ledger.settings)
        try:
            return run_sync(other.submissions.submit(submission(), b"message"))
        finally:
            run_sync(other.close())

    assert await asyncio.to_thread(submit)


async def reads(ledger: Ledger, lease: Lease) -> None:
    assert (await ledger.queries.status(lease.run_id)).id == lease.run_id


async def follows(ledger: Ledger, lease: Lease) -> None:
    async for event in ledger.streams.read(lease.run_id):
        assert event.kind == "state"
        return


async def listens(ledger: Ledger, _: Lease) -> None:
    await ledger.pubsub.listen("a", lambda _: None)


WRITES: list[Work] = [submits, submits_many, sets, emits, stores, blocks]
READS: list[Work] = [reads, follows]
CASES = [
    (state, words, work)
    for state, words, works in [
        (full, "memory is full.*OOM", WRITES),
        (unable_to_save, "cannot save.*MISCONF", WRITES),
        (without_replicas, "replicas.*NOREPLICAS", WRITES),
        (a_replica, "read-only replica.*READONLY", WRITES),
        (without_its_primary, "lost its primary.*MASTERDOWN", READS),
        # The message is lost where the server closes the connection before it is read.
        (crowded, "cannot connect|connection to Redis lost", [*WRITES, *READS, listens]),
    ]
    for work in works
]


@asynccontextmanager
async def ledger_of(server: ValkeyServer, url: str = "", **values: Any) -> AsyncIterator[Ledger]:
    patient = values.pop("patient", False)
    settings = settings_for(server, **{"redis_url": url or server.url, **values})
    ledger = Ledger(settings, patient=patient)
    try:
        yield ledger
    finally:
        await ledger.close()


@pytest.mark.parametrize(("state", "words", "work"), CASES)
async def test_what_passes_is_waited_for_and_then_reported_in_words(
    refusing: ValkeyServer,
    state: Callable[[ValkeyServer], Any],
    words: str,
    work: Work,
) -> None:
    async with (
        ledger_of(refusing, redis_timeout_seconds=0.5) as hasty,
        ledger_of(refusing, redis_timeout_seconds=60) as ready,
    ):
        lease = await running(ready)
        with state(refusing):
            with pytest.raises(FleetUnavailableError, match=words):
                await work(hasty, lease)
            waiting = asyncio.ensure_future(work(ready, lease))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        await waiting


async def test_channels_stay_open_while_the_server_cannot_save(refusing: ValkeyServer) -> None:
    received: list[bytes | None] = []
    async with ledger_of(refusing, redis_timeout_seconds=0.3) as ledger:
        await ledger.pubsub.listen("a", received.append)
        with unable_to_save(refusing), refusing.client() as client:
            await asyncio.sleep(1)
            assert client.publish("a", "1") == 1
            assert client.publish("a", "2") == 1
        async with asyncio.timeout(20):
            while len(received) < 2:  # noqa: ASYNC110 - simple on purpose
                await asyncio.sleep(0.01)
        assert received == [b"1", b"2"]


async def test_a_read_that_waits_goes_on_when_the_server_changes_its_role(
    refusing: ValkeyServer,
) -> None:
    async with ledger_of(refusing, redis_timeout_seconds=20) as ledger:
        lease = await running(ledger)
        seen: list[str] = []

        async def follow() -> None:
            async for event in ledger.streams.read(lease.run_id):
                seen.append(event.id)
                if len(seen) == 2:
                    return

        following = asyncio.create_task(follow())
        with refusing.client() as client:
            await asyncio.to_thread(
                wait_until, lambda: client.info("clients")["blocked_clients"] == 1
            )
        with a_replica(refusing):
            await asyncio.sleep(0.1)
        await emits(ledger, lease)
        await following
        assert seen == ["1-0", "2-0"]


@contextmanager
def somebody(server: ValkeyServer, *rules: str) -> Iterator[Any]:
    """Give the server a user with these rules and yield an administrator's client."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", USER, "reset", "on", ">right", *rules)
        try:
            yield client
        finally:
            client.execute_command("ACL", "DELUSER", USER)
            client.execute_command("ACL", "LOG", "RESET")


def url_for(server: ValkeyServer, password: str = "right", database: int = 0) -> str:
    return f"redis://{USER}:{password}@127.0.0.1:{server.port}/{database}"


MAY_ALL = ("~*", "&*", "+@all")
REFUSALS: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (MAY_ALL, {"password": "wrong"}, "WRONGPASS"),
    (MAY_ALL, {"database": 9999}, "no such database"),
    (("~*", "+@all", "-client"), {}, "lacks a right.*NOPERM"),
    (("~other", "+client", "+select", "+ping"), {}, "lacks a right.*NOPERM"),
]


@pytest.mark.parametrize("work", [*WRITES, *READS, listens])
@pytest.mark.parametrize(("rules", "where", "words"), REFUSALS)
async def test_permanent_refusals_are_reported_at_once(
    refusing: ValkeyServer, rules: tuple[str, ...], where: dict[str, Any], words: str, work: Work
) -> None:
    async with ledger_of(refusing) as other:
        lease = await running(other)
        with somebody(refusing, *rules):
            url = url_for(refusing, **where)
            async with (
                asyncio.timeout(50),
                ledger_of(refusing, url, redis_timeout_seconds=300) as ledger,
            ):
                with pytest.raises(FleetUnavailableError, match=words) as caught:
                    await work(ledger, lease)
                assert not caught.value.retryable
                assert "right" not in str(caught.value).replace("a right", "")


async def test_a_right_that_only_a_script_lacks_is_reported_at_once(refusing: ValkeyServer) -> None:
    rules = ("~*", "&*", "+@all", "-hset")
    async with asyncio.timeout(50):
        with somebody(refusing, *rules):
            async with ledger_of(refusing, url_for(refusing), redis_timeout_seconds=300) as ledger:
                for work in (submits, submits_many, blocks):
                    with pytest.raises(RefusedError, match="lacks a right"):
                        await work(ledger, Lease("r", 1, 1, 1, 0, None, 0))


async def test_a_required_password_is_reported_at_once(refusing: ValkeyServer) -> None:
    async with ledger_of(refusing, redis_timeout_seconds=300) as ledger:
        admin = redis.Redis(port=refusing.port)
        admin.config_set("requirepass", "secret")
        try:
            async with asyncio.timeout(50):
                for work in (submits, listens, blocks):
                    with pytest.raises(RefusedError, match="NOAUTH"):
                        await work(ledger, Lease("r", 1, 1, 1, 0, None, 0))
        finally:
            admin.config_set("requirepass", "")
            admin.close()


@pytest.mark.parametrize("work", [submits, stores, reads, follows, listens])
@pytest.mark.parametrize("put_right", ["password", "rights"])
async def test_a_patient_ledger_waits_until_it_is_let_in(
    refusing: ValkeyServer, work: Work, put_right: str
) -> None:
    async with ledger_of(refusing) as other:
        lease = await running(other)
        rules = MAY_ALL if put_right == "password" else ("+client", "+ping")
        password = "new" if put_right == "password" else "right"
        with somebody(refusing, *rules) as admin:
            url = url_for(refusing, password)
            async with (
                ledger_of(refusing, url, redis_timeout_seconds=0.5, patient=True) as hasty,
                ledger_of(refusing, url, redis_timeout_seconds=60, patient=True) as ledger,
            ):
                with pytest.raises(FleetUnavailableError, match=r"WRONGPASS|NOPERM"):
                    await work(hasty, lease)
                waiting = asyncio.ensure_future(work(ledger, lease))
                await asyncio.sleep(0.3)
                assert not waiting.done()
                admin.execute_command("ACL", "SETUSER", USER, ">new", *MAY_ALL)
                await waiting


@pytest.mark.parametrize("kind", [PipelinedConnection, BlockingConnection])
@pytest.mark.parametrize(
    "script",
    ["return nil + 1", "return redis.error_reply('boom')", "return redis.call('GET')"],
)
async def test_an_error_of_a_script_stays_what_it_is(
    refusing: ValkeyServer, kind: Callable[..., Any], script: str
) -> None:
    connection = kind(refusing.url, timeout=300)
    async with asyncio.timeout(50):
        with pytest.raises(ReplyError) as caught:
            await connection.execute("EVAL", script, 0)
        assert not isinstance(caught.value, FleetUnavailableError)
    await connection.close()


SCRIPT_OF_REDIS_6 = "ERR Error running script (call to f_a): @user_script:1: @user_script: 1: "


@pytest.mark.parametrize(
    ("text", "stale"),
    [
        # The message of Redis 7.0, and of Redis 6.2 in a script.
        ("OOM command not allowed when used memory > 'maxmemory'. script: ab1, on @u:1.", False),
        ("READONLY You can't write against a read only replica. script: ab1", True),
        ("LOADING Redis is loading the dataset in memory", False),
        ("CLUSTERDOWN The cluster is down", False),
        ("TRYAGAIN Multiple keys request during rehashing of slot", False),
        ("BUSY Redis is busy running a script.", False),
        ("EXECABORT Transaction discarded because of previous errors.", False),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", True),
        ("ERR Script killed by user with SCRIPT KILL... script: ab1, on @user_script:1.", False),
        (SCRIPT_OF_REDIS_6 + "-OOM command not allowed", False),
        (SCRIPT_OF_REDIS_6 + "-READONLY You can't write", True),
    ],
)
def test_what_passes_is_known_by_its_words(text: str, stale: bool) -> None:
    error = ReplyError(text)
    assert (error.passing, error.refusing, error.stale) == (True, False, stale)


@pytest.mark.parametrize(
    "text",
    [
        "ERR The user executing the script can't run this command or subcommand script: ab1",
        "ERR The user executing the script can't access at least one of the keys mentioned",
        SCRIPT_OF_REDIS_6 + "The user executing the script can't run this command or subcommand",
        "EXECABORT Transaction discarded because of: NOPERM this user has no permissions to run",
        "ERR AUTH <password> called without any password configured for the default user.",
        "ERR unknown command 'EVALSHA', with args beginning with: 'ab1'",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "MOVED 1234 127.0.0.1:7001",
        "ERR SELECT is not allowed in cluster mode",
    ],
)
def test_what_stays_is_known_by_its_words(text: str) -> None:
    assert (ReplyError(text).passing, ReplyError(text).refusing) == (False, True)
