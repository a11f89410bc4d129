"""The pipelining connection: order, outages, bounds. It succeeds or fails in bounded time."""

import asyncio
import contextlib
import multiprocessing
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.blocking import BlockingConnection
from skillfleet_ledger.redis_client.connection import PipelinedConnection, ReplyError
from skillfleet_ledger.runs.maintenance import ReapOptions
from skillfleet_ledger.runs.records import WriteResult
from skillfleet_ledger.sync import run_sync
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    event,
    read_all,
    settings_for,
    submission,
)
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async


@asynccontextmanager
async def connected(url: str, timeout: float = 5.0) -> AsyncIterator[PipelinedConnection]:
    connection = PipelinedConnection(url, timeout=timeout)
    try:
        yield connection
    finally:
        await connection.close()


class InThreads:
    """A blocking connection as synchronous code uses it: each call in its own thread."""

    def __init__(self, connection: BlockingConnection) -> None:
        self._connection = connection
        self._threads = ThreadPoolExecutor(100)

    async def execute(self, *command: Any, timeout: float | None = None) -> Any:
        """The reply, from a thread."""
        work = self._connection.execute(*command, timeout=timeout)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, run_sync, work)


@asynccontextmanager
async def blocking(url: str, timeout: float = 5.0) -> AsyncIterator[InThreads]:
    connection = BlockingConnection(url, timeout=timeout)
    try:
        yield InThreads(connection)
    finally:
        run_sync(connection.close())


Connect = Callable[..., AbstractAsyncContextManager[PipelinedConnection | InThreads]]
EITHER = pytest.mark.parametrize("connect", [connected, blocking])


async def test_replies_go_to_those_who_asked(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url) as connection:
        asked = [str(number).encode() for number in range(5000)]
        assert await asyncio.gather(*(connection.execute("ECHO", one) for one in asked)) == asked
        assert proxy.accepted == 1


async def test_an_error_and_a_bad_command_concern_only_their_caller(valkey: ValkeyServer) -> None:
    async with connected(valkey.url) as connection:
        answers = await asyncio.gather(
            connection.execute("ECHO", "a"),
            connection.execute("GET"),
            connection.execute("SET", "k", {"not": "bytes"}),
            connection.execute("ECHO", "b"),
            return_exceptions=True,
        )
        assert (answers[0], answers[3]) == (b"a", b"b")
        assert isinstance(answers[1], ReplyError)
        assert isinstance(answers[2], TypeError)


async def test_callers_that_give_up_leave_the_order_of_replies_intact(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url) as connection:
        await connection.execute("PING")
        proxy.hold()
        calls = [asyncio.create_task(connection.execute("ECHO", str(i))) for i in range(200)]
        await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        await asyncio.sleep(0)
        calls += [asyncio.create_task(connection.execute("ECHO", str(i))) for i in range(200, 300)]
        for call in calls[1:200:3]:
            call.cancel()
        proxy.release()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number < 200 and number % 3 != 2:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert answer == str(number).encode()


async def test_a_caller_that_gave_up_before_the_command_left_is_not_served(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url) as connection:
        proxy.hold()
        with pytest.raises(FleetUnavailableError):
            await connection.execute("SET", "late", "1", timeout=0.1)
        proxy.release()
        assert await connection.execute("GET", "late") is None


@pytest.mark.parametrize("count", [1, 5, 30, 1000, 20_000])
async def test_replies_cut_in_the_middle_are_asked_for_again(
    valkey: ValkeyServer, count: int
) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url) as connection:
        await connection.execute("PING")
        proxy.cut_replies_after(count)
        asked = [b"x" * (number % 97) for number in range(1000)]
        assert await asyncio.gather(*(connection.execute("ECHO", one) for one in asked)) == asked
        assert proxy.accepted == 2


@pytest.mark.parametrize("count", [1, 5, 30, 1000, 20_000])
async def test_requests_cut_in_the_middle_are_sent_again(valkey: ValkeyServer, count: int) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url) as connection:
        await connection.execute("PING")
        proxy.cut_requests_after(count)
        asked = [b"x" * (number % 97) for number in range(1000)]
        assert await asyncio.gather(*(connection.execute("ECHO", one) for one in asked)) == asked
        assert proxy.accepted == 2


async def test_a_single_call_fails_when_its_reply_is_lost(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url) as connection:
        await connection.execute("PING")
        proxy.cut_replies_after(1)
        with pytest.raises(ConnectionError, match="lost"):
            await connection.call("INCR", "n")


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_scripts_whose_replies_are_lost_have_their_effect_once(
    valkey: ValkeyServer, lost: int
) -> None:
    """Every call is executed, its reply is cut after `lost` bytes, and it is repeated."""
    async with Proxy(valkey.port) as proxy:
        ledger = Ledger(settings_for(valkey, redis_url=proxy.url))
        try:
            await ledger.connection.execute("PING")
            new = submission()
            proxy.cut_replies_after(lost)
            await ledger.submissions.submit(new, b"message")
            proxy.cut_replies_after(lost)
            lease = await claimed(ledger, new.id)
            proxy.cut_replies_after(lost)
            assert await ledger.streams.append(lease, 2, [event("a"), event("b")]) == (3, "")
            child = child_of(lease, new.id)
            proxy.cut_replies_after(lost)
            await ledger.submissions.submit(child, b"message")
            proxy.cut_replies_after(lost)
            answer = await ledger.leases.requeue(lease, 3, outcome="retry", reason="again")
            assert answer is WriteResult.REQUEUED
            lease = await claimed(ledger, new.id)
            proxy.cut_replies_after(lost)
            assert await ledger.leases.renew("w1", LONG_MS, {new.id: lease.token}, 5) == {
                new.id: ""
            }
            proxy.cut_replies_after(lost)
            await ledger.cancellation.cancel(child.id, "enough")
            proxy.cut_replies_after(lost)
            assert (
                await ledger.leases.settle(lease, "a.b", lease.seq, DONE)
            ).result is WriteResult.SETTLED
            proxy.cut_replies_after(lost)
            await ledger.maintenance.reap(0, "reaper", ReapOptions())
            assert proxy.accepted > 8
            status = await ledger.queries.status(new.id)
            assert (status.attempt, status.retries, status.children) == (2, 1, 1)
            ids = [one.id for one in await read_all(ledger, new.id)]
            assert ids == [f"{number}-0" for number in range(1, 7)]
            assert len(await read_all(ledger, child.id)) == 1
            assert await ledger.connection.execute("LLEN", "celery") == 2
        finally:
            await ledger.close()


@EITHER
async def test_commands_survive_a_restart_of_the_server(connect: Connect) -> None:
    server = ValkeyServer().start()
    try:
        async with connect(server.url, timeout=20) as connection:
            await connection.execute("SET", "k", "v")
            server.stop()
            waiting = [asyncio.create_task(connection.execute("GET", "k")) for _ in range(100)]
            await asyncio.sleep(0.3)
            server.start()
            assert await asyncio.gather(*waiting) == [b"v"] * 100
    finally:
        server.close()


@EITHER
async def test_a_stopped_server_is_noticed_in_time_and_used_again(connect: Connect) -> None:
    server = ValkeyServer().start()
    try:
        async with connect(server.url, timeout=0.3) as connection:
            await connection.execute("PING")
            server.signal(signal.SIGSTOP)
            try:
                with pytest.raises(FleetUnavailableError, match=r"did not answer within 0\.3 s"):
                    await connection.execute("PING")
                with pytest.raises(FleetUnavailableError):
                    await connection.execute("PING", timeout=0.1)
            finally:
                server.signal(signal.SIGCONT)
            assert await connection.execute("PING", timeout=5) == b"PONG"
    finally:
        server.close()


@EITHER
async def test_a_paused_server_is_waited_for(connect: Connect, valkey: ValkeyServer) -> None:
    async with connect(valkey.url) as connection:
        with valkey.client() as client:
            client.client_pause(300)
        with pytest.raises(FleetUnavailableError):
            await connection.execute("PING", timeout=0.05)
        assert await connection.execute("PING") == b"PONG"


@EITHER
async def test_a_refused_connection_is_a_clear_error_without_credentials(connect: Connect) -> None:
    port = free_port()
    url = f"redis://fleet:hunter2@127.0.0.1:{port}/0"
    async with connect(url, timeout=0.3) as connection:
        with pytest.raises(FleetUnavailableError) as caught:
            await connection.execute("PING")
    assert f"Redis at 127.0.0.1:{port} did not answer within 0.3 s: cannot connect" in str(
        caught.value
    )
    assert "hunter2" not in str(caught.value)


@EITHER
async def test_a_server_that_accepts_and_stays_silent_is_given_up(
    connect: Connect, valkey: ValkeyServer
) -> None:
    async with Proxy(valkey.port) as proxy, connect(proxy.url, timeout=0.2) as connection:
        proxy.hold()
        with pytest.raises(FleetUnavailableError):
            await connection.execute("PING")
        proxy.release()
        assert await connection.execute("PING", timeout=5) == b"PONG"


@EITHER
async def test_a_server_other_than_redis_is_a_clear_error(connect: Connect) -> None:
    async def web(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with connect(f"redis://127.0.0.1:{port}/0", timeout=0.3) as connection:
            with pytest.raises(FleetUnavailableError, match="cannot connect"):
                await connection.execute("PING")
    finally:
        server.close()


@EITHER
async def test_a_reply_that_comes_a_byte_at_a_time_is_not_waited_for_longer(
    connect: Connect,
) -> None:
    handlers = []

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        writer.write(b"$1000\r\n")
        with contextlib.suppress(OSError):
            for _round in range(40):
                await asyncio.sleep(0.1)
                writer.write(b"x")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(3), connect(f"redis://127.0.0.1:{port}/0") as connection:
            with pytest.raises(FleetUnavailableError, match=r"within 0\.5 s"):
                await connection.execute("PING", timeout=0.5)
        await asyncio.gather(*filter(None, handlers))
    finally:
        server.close()


def test_a_unix_socket_without_a_server_is_a_clear_error(tmp_path: Path) -> None:
    connection = BlockingConnection(f"unix://{tmp_path}/unknown", timeout=0.3)
    with pytest.raises(FleetUnavailableError, match="cannot connect"):
        # A socket left open causes a warning, which fails the test.
        run_sync(connection.execute("PING"))


@EITHER
async def test_a_server_without_room_for_clients_is_a_clear_error(connect: Connect) -> None:
    server = ValkeyServer().start()
    try:
        with server.client() as client:
            client.config_set("maxclients", 1)
            async with connect(server.url, timeout=0.3) as connection:
                with pytest.raises(FleetUnavailableError, match="cannot connect"):
                    await connection.execute("PING")
                client.config_set("maxclients", 100)
                assert await connection.execute("PING", timeout=5) == b"PONG"
    finally:
        server.close()


@EITHER
async def test_a_busy_server_is_waited_for(connect: Connect, valkey: ValkeyServer) -> None:
    with (
        valkey.client() as client,
        valkey.client() as other,
        ThreadPoolExecutor(1) as thread,
        ExitStack() as stack,
    ):
        client.config_set("busy-reply-threshold", 10)
        stack.callback(client.config_set, "busy-reply-threshold", 5000)
        async with connect(valkey.url) as connection:
            await connection.execute("PING")
            endless = thread.submit(other.eval, "while true do end", 0)
            try:

                async def busy() -> bool:
                    try:
                        return not client.ping()
                    except redis.ResponseError:
                        return True

                await wait_until_async(busy, what="the server to be busy")
                waiting = asyncio.create_task(connection.execute("ECHO", "a"))
                await asyncio.sleep(0.05)
                assert not waiting.done()
            finally:
                client.script_kill()
            assert await waiting == b"a"
            with pytest.raises(redis.ResponseError):
                endless.result()


@EITHER
async def test_a_failover_is_waited_for_on_a_new_connection(connect: Connect) -> None:
    server = ValkeyServer().start()
    try:
        async with Proxy(server.port) as proxy, connect(proxy.url) as connection:
            await connection.execute("SET", "k", "1")
            with server.client() as client:
                client.replicaof("127.0.0.1", str(free_port()))
                writing = asyncio.create_task(connection.execute("SET", "k", "2"))

                async def reconnected() -> bool:
                    return proxy.accepted > 1

                await wait_until_async(reconnected, what="a new connection")
                client.replicaof("NO", "ONE")
            assert await writing == b"OK"
    finally:
        server.close()


async def test_a_slow_reply_after_a_quiet_time_does_not_count_as_silence(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url, timeout=2) as connection:
        await connection.execute("PING")
        await asyncio.sleep(1.5)
        proxy.delay = 0.4
        assert await connection.call("ECHO", "a") == b"a"
        assert proxy.accepted == 1


@pytest.mark.parametrize("outage", ["refused", "silent"])
async def test_pending_commands_are_bounded_while_redis_is_down(
    valkey: ValkeyServer, outage: str
) -> None:
    async with Proxy(valkey.port) as proxy, connected(proxy.url, timeout=0.3) as connection:
        await connection.execute("PING")
        if outage == "refused":
            await proxy.refuse()
        else:
            proxy.hold()
        most = 0
        failed = 0

        async def insist() -> None:
            nonlocal most, failed
            for _ in range(25):
                try:
                    await connection.execute("SET", "k", "x" * 100, timeout=0.06)
                except FleetUnavailableError:
                    failed += 1
                wire = connection._protocol
                awaited = len(wire._awaited) if wire is not None else 0
                most = max(most, len(connection._unsent) + awaited)

        await asyncio.gather(*(insist() for _ in range(100)))
        assert failed == 2500
        # Nothing older than the timeout is kept: 100 callers with 5 calls each.
        assert most < 1500
        if outage == "refused":
            await proxy.accept()
        else:
            proxy.release()
        assert await connection.execute("PING", timeout=5) == b"PONG"


async def test_closing_leaves_no_caller_waiting(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        connection = PipelinedConnection(proxy.url)
        await connection.execute("PING")
        proxy.hold()
        calls = [connection.call("ECHO", "a") for _ in range(10)]
        executes = [asyncio.create_task(connection.execute("ECHO", "a")) for _ in range(10)]
        await asyncio.sleep(0)
        await connection.close()
        answers = await asyncio.gather(*calls, *executes, return_exceptions=True)
        assert all(isinstance(answer, ConnectionError) for answer in answers)
        with pytest.raises(FleetUnavailableError, match="was closed"):
            await connection.execute("PING")


async def test_closing_while_it_connects_leaves_no_caller_waiting(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        proxy.hold()
        connection = PipelinedConnection(proxy.url)
        executing = asyncio.create_task(connection.execute("PING"))
        await asyncio.sleep(0.05)
        await connection.close()
        with pytest.raises(FleetUnavailableError):
            await executing


async def test_what_was_issued_before_closing_is_sent(valkey: ValkeyServer) -> None:
    connection = PipelinedConnection(valkey.url)
    await connection.execute("PING")
    calls = [connection.call("INCR", "n") for _ in range(100)]
    await connection.close()
    await asyncio.gather(*calls, return_exceptions=True)
    with valkey.client() as client:

        async def all_sent() -> bool:
            return bool(client.get("n") == b"100")

        await wait_until_async(all_sent, what="all commands to arrive")


def test_what_is_sent_while_a_connection_breaks_is_sent_again(valkey: ValkeyServer) -> None:
    """A uvloop transport reports the break one iteration later, and refuses writes until then."""

    async def break_and_ask() -> None:
        async with connected(valkey.url) as connection:
            for number in range(20):
                assert await connection.execute("ECHO", str(number)) == str(number).encode()
                assert connection._protocol is not None
                assert connection._protocol.transport is not None
                connection._protocol.transport.abort()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(break_and_ask())


async def test_threads_that_block_get_their_own_replies(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy, blocking(proxy.url) as connection:
        asked = [str(number).encode() for number in range(2000)]
        assert await asyncio.gather(*(connection.execute("ECHO", one) for one in asked)) == asked
        assert proxy.accepted <= 100


async def test_a_blocked_thread_whose_connection_breaks_asks_again_at_once(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy, blocking(proxy.url, timeout=0.1) as connection:
        for _ in range(3):
            assert await connection.execute("PING", timeout=5) == b"PONG"
            proxy.cut()
            # Less than the time between two tries.
            assert await connection.execute("PING") == b"PONG"


@pytest.mark.parametrize("command", [("GET",), ("SET", "k", {"not": "bytes"})])
async def test_an_error_leaves_a_blocking_connection_usable(
    valkey: ValkeyServer, command: tuple[Any, ...]
) -> None:
    async with blocking(valkey.url) as connection:
        with pytest.raises((ReplyError, TypeError)):
            await connection.execute(*command)
        assert await connection.execute("ECHO", "a") == b"a"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_sockets_of_its_own(valkey: ValkeyServer) -> None:
    connection = BlockingConnection(valkey.url)
    run_sync(connection.execute("PING"))
    asked = 200
    child = multiprocessing.get_context("fork").Process(
        target=_ask_in_child, args=(connection, "c", asked)
    )
    child.start()
    _ask(connection, "p", asked)
    child.join(30)
    assert child.exitcode == 0
    run_sync(connection.close())


def _ask_in_child(connection: BlockingConnection, mark: str, times: int) -> None:
    left_open: list[Any] = []
    sys.unraisablehook = left_open.append
    _ask(connection, mark, times)
    assert not left_open


def _ask(connection: BlockingConnection, mark: str, times: int) -> None:
    for number in range(times):
        text = f"{mark}{number}"
        assert run_sync(connection.execute("ECHO", text)) == text.encode()


def test_work_that_needs_an_event_loop_is_refused_where_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="event loop"):
        run_sync(asyncio.sleep(1))
