"""Pub/sub: many listeners on one connection that reconnects by itself."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.redis_client.pubsub import PubSub
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async


class Ear:
    """A listener that records the messages it receives."""

    def __init__(self) -> None:
        self.received: list[bytes | None] = []

    def __call__(self, message: bytes | None) -> None:
        self.received.append(message)

    async def receives(self, *messages: bytes | None) -> None:
        async def all_of_it() -> bool:
            return self.received == list(messages)

        await wait_until_async(all_of_it, 10, f"{messages}, received {self.received}")


@pytest.fixture
async def channels(valkey: ValkeyServer) -> AsyncIterator[PubSub]:
    channels = PubSub(valkey.url, timeout=2)
    yield channels
    await channels.close()


def publish(valkey: ValkeyServer, channel: str, message: str) -> int:
    with valkey.client() as client:
        return int(client.publish(channel, message))


async def test_every_listener_of_a_channel_receives_its_messages(
    valkey: ValkeyServer, channels: PubSub
) -> None:
    one, two, other = Ear(), Ear(), Ear()
    await channels.listen("a", one)
    await channels.listen("a", two)
    await channels.listen("b", other)
    assert publish(valkey, "a", "1") == 1
    publish(valkey, "a", "2")
    publish(valkey, "b", "3")
    await other.receives(b"3")
    assert (one.received, two.received) == ([b"1", b"2"], [b"1", b"2"])


async def test_many_channels_share_one_connection(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        channels = PubSub(proxy.url, timeout=5)
        try:
            ears = [Ear() for _ in range(300)]
            await asyncio.gather(*(channels.listen(f"c{i}", ear) for i, ear in enumerate(ears)))
            for i in range(300):
                assert publish(valkey, f"c{i}", str(i)) == 1
            for i, ear in enumerate(ears):
                await ear.receives(str(i).encode())
            assert proxy.accepted == 1
        finally:
            await channels.close()


async def test_a_forgotten_listener_receives_nothing_more(
    valkey: ValkeyServer, channels: PubSub
) -> None:
    one, two = Ear(), Ear()
    await channels.listen("a", one)
    await channels.listen("a", two)
    await channels.forget("a", one)
    publish(valkey, "a", "1")
    await two.receives(b"1")
    assert one.received == []
    await channels.forget("a", two)
    await channels.forget("a", two)

    async def unsubscribed() -> bool:
        return publish(valkey, "a", "2") == 0

    await wait_until_async(unsubscribed, what="the channel to be given up")


async def test_a_channel_can_be_listened_to_again(valkey: ValkeyServer, channels: PubSub) -> None:
    for number in range(20):
        ear = Ear()
        await channels.listen("a", ear)
        publish(valkey, "a", str(number))
        await ear.receives(str(number).encode())
        await channels.forget("a", ear)


async def test_listeners_are_notified_after_a_lost_connection(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        channels = PubSub(proxy.url, timeout=2)
        try:
            one, two = Ear(), Ear()
            await channels.listen("a", one)
            await channels.listen("b", two)
            for _ in range(3):
                proxy.cut()
                await one.receives(None)
                await two.receives(None)
                assert publish(valkey, "a", "1") == 1
                await one.receives(None, b"1")
                one.received.clear()
                two.received.clear()
        finally:
            await channels.close()


async def test_listeners_survive_a_restart_of_the_server() -> None:
    server = ValkeyServer().start()
    channels = PubSub(server.url, timeout=5)
    try:
        ear = Ear()
        await channels.listen("a", ear)
        server.stop()
        server.start()
        await ear.receives(None)
        publish(server, "a", "1")
        await ear.receives(None, b"1")
    finally:
        await channels.close()
        server.close()


async def test_a_silent_connection_is_closed(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        channels = PubSub(proxy.url, timeout=0.3)
        try:
            ear = Ear()
            await channels.listen("a", ear)
            proxy.hold()

            async def reconnected() -> bool:
                return proxy.accepted > 1

            await wait_until_async(reconnected, what="the silence to be noticed")
            proxy.release()
            await wait_until_async(lambda: _reported(ear), what="the listener to be notified")
        finally:
            await channels.close()


async def _reported(ear: Ear) -> bool:
    return None in ear.received


async def test_listening_while_redis_is_down_fails_in_bounded_time(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy:
        await proxy.refuse()
        channels = PubSub(proxy.url, timeout=0.3)
        try:
            one, two = Ear(), Ear()
            answers = await asyncio.gather(
                channels.listen("a", one), channels.listen("a", two), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [FleetUnavailableError] * 2
            await proxy.accept()
            await channels.listen("a", one)
            publish(valkey, "a", "1")
            await one.receives(b"1")
            assert two.received == []
        finally:
            await channels.close()


async def test_a_listener_that_is_cancelled_while_it_waits_is_forgotten(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy:
        proxy.hold()
        channels = PubSub(proxy.url, timeout=5)
        try:
            first, second = Ear(), Ear()
            waiting = asyncio.create_task(channels.listen("a", first))
            staying = asyncio.create_task(channels.listen("a", second))
            await asyncio.sleep(0)
            waiting.cancel()
            proxy.release()
            await staying
            publish(valkey, "a", "1")
            await second.receives(b"1")
            assert first.received == []
        finally:
            await channels.close()


async def test_a_refused_login_is_reported(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    channels = PubSub(valkey.url.replace("//", "//unknown:wrong@"), timeout=2)
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(FleetUnavailableError):
            await channels.listen("a", Ear())
        assert "WRONGPASS" in caplog.text
    finally:
        await channels.close()
