"""The messages that readers get, their order, and the messages that stay in Redis."""

import json
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.asynchronous import Hub

from skillfleet_engine.transport import Transport, broker_settings
from tests.engine.transport.conftest import StartReader
from tests.engine.transport.readers import ENGINE, Reader, commands, envelope, packed, publish
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def test_a_claimed_message_is_recorded_as_kombu_records_it(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", "for the engine", "for kombu")
    start_reader("jobs", prefetch=1).drain(1)
    start_reader("jobs", prefetch=1, transport=None).drain(1)
    with valkey.client() as client:
        ours, stock = (json.loads(record) for record in client.hvals("unacked"))
        assert client.zcard("unacked_index") == 2
    for record in (ours, stock):
        assert record[1:] == ["jobs", "jobs"]
        del record[0]["body"], record[0]["properties"]["delivery_tag"]
    assert ours == stock


def test_an_acknowledged_message_leaves_no_trace(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", *range(5))
    reader = start_reader("jobs")
    assert reader.drain(5) == [0, 1, 2, 3, 4]
    reader.ack_all()
    with valkey.client() as client:
        assert set(client.keys("*")).isdisjoint({b"unacked", b"unacked_index", b"jobs"})


def test_a_reader_takes_no_more_than_its_prefetch_count(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", *range(10))
    reader = start_reader("jobs", prefetch=3)
    reader.drain(3)
    reader.drain(1, timeout=0.3)
    assert len(reader.got) == 3
    with valkey.client() as client:
        assert client.llen("jobs") == 7


def test_the_most_urgent_level_of_all_queues_comes_first(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    for priority in (9, 3, 6, 0):
        publish(valkey.url, "left", f"left {priority}", priority=priority)
        publish(valkey.url, "right", f"right {priority}", priority=priority)
    found = start_reader("left", "right").drain(8)
    assert [text.split()[1] for text in found] == ["0", "0", "3", "3", "6", "6", "9", "9"]


def test_a_long_queue_does_not_hold_up_a_short_one(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "long", *["long"] * 20)
    publish(valkey.url, "short", *["short"] * 5)
    assert Counter(start_reader("long", "short").drain(10)) == {"long": 5, "short": 5}


def test_a_message_wakes_one_of_ten_waiting_readers(valkey: ValkeyServer) -> None:
    readers = [Reader(valkey.url, "jobs", wakeup_timeout=60) for _ in range(10)]
    threads = [threading.Thread(target=reader.drain, args=(1, 60)) for reader in readers]
    try:
        with valkey.client() as client:
            for thread in threads:
                thread.start()
            wait_until(lambda: client.info("clients")["blocked_clients"] == 40, what="waits")
            before = commands(client, "lpop")
            publish(valkey.url, "jobs", "one")
            wait_until(lambda: client.hlen("unacked") == 1, what="the claim")
            wait_until(lambda: any(reader.got for reader in readers), what="the message")
            # Others would be woken at once: a short wait shows that none is.
            time.sleep(0.5)
            # The worker that is woken empties its four `woken` lists: only one did.
            assert commands(client, "lpop") - before == 5
            assert sum(len(reader.got) for reader in readers) == 1
    finally:
        publish(valkey.url, "jobs", *["go"] * len(readers))
        for thread in threads:
            thread.join()
        for reader in readers:
            reader.close()


def test_a_message_that_woke_a_reader_that_died_is_found(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", "one", "two")
    with valkey.client() as client:
        client.lmove("jobs", "jobs\x06\x16woken", "RIGHT", "LEFT")
    assert start_reader("jobs").drain(2) == ["one", "two"]


def test_a_waiting_reader_looks_for_messages_woken_by_others(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", "one")
    reader = start_reader("jobs", wakeup_timeout=0.5)
    reader.drain(1)
    with valkey.client() as client:
        wait_until(lambda: not reader.drain(1, timeout=0.1) and _waits(client), what="waits")
        client.lpush("jobs\x06\x16woken", packed(envelope()))
        assert reader.drain(1) == [{}]


def _waits(client: Any) -> bool:
    return bool(client.info("clients")["blocked_clients"] == 4)


def test_a_cancelled_consumer_leaves_no_blocking_wait(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    reader = start_reader("jobs")
    with valkey.client() as client:
        wait_until(lambda: not reader.drain(1, timeout=0.1) and _waits(client), what="waits")
        reader.consumer.cancel()
        wait_until(lambda: client.info("clients")["blocked_clients"] == 0, what="no waits")
        publish(valkey.url, "jobs", "later")
        assert client.llen("jobs") == 1
    assert start_reader("jobs").drain(1) == ["later"]


def test_what_a_closed_reader_did_not_acknowledge_goes_back_in_order(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", *range(4))
    reader = start_reader("jobs", prefetch=3)
    reader.drain(3)
    reader.got[0].ack()
    reader.close()
    other = start_reader("jobs", transport=None)
    assert sorted(other.drain(3)) == [1, 2, 3]
    assert other.got[0].headers["redelivered"]


def test_a_requeued_message_comes_again(valkey: ValkeyServer, start_reader: StartReader) -> None:
    publish(valkey.url, "jobs", "one", "two")
    reader = start_reader("jobs")
    reader.drain(1)
    reader.got[0].requeue()
    assert reader.drain(2) == ["two", "one"]


def test_messages_come_back_after_the_visibility_timeout(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", "one")
    start_reader("jobs").drain(1)
    reader = start_reader("jobs", visibility_timeout=0, unacked_restore_throttle=1)
    assert wait_until(lambda: reader.drain(1, timeout=0.1)) == ["one"]


def test_a_single_message_can_be_fetched(valkey: ValkeyServer) -> None:
    publish(valkey.url, "jobs", "one")
    with Connection(valkey.url, transport=ENGINE) as connection, valkey.client() as client:
        channel: Any = connection.channel()
        client.rpush("jobs", b"garbage")
        message = channel.basic_get("jobs")
        assert message.decode() == "one"
        assert client.hlen("unacked") == 1
        message.ack()
        assert client.hlen("unacked") == 0
        assert channel.basic_get("jobs") is None


def test_all_keys_have_the_global_prefix(valkey: ValkeyServer, start_reader: StartReader) -> None:
    publish(valkey.url, "jobs", "one", "two", global_keyprefix="mine:")
    reader = start_reader("jobs", prefetch=1, global_keyprefix="mine:")
    assert reader.drain(1) == ["one"]
    with valkey.client() as client:
        client.lpush("mine:jobs", b"garbage")
        assert all(key.startswith(b"mine:") for key in client.keys("*"))
        reader.ack_all()
        assert reader.drain(1) == ["two"]
        reader.ack_all()
        kept = partial(client.llen, "mine:undecodable")
        wait_until(lambda: not reader.drain(1, timeout=0.1) and kept(), what="the garbage")
        assert kept() == 1
        assert all(key.startswith(b"mine:") for key in client.keys("*"))


def test_a_server_without_memory_loses_no_message_to_a_claim(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", "one")
    reader = start_reader("jobs")
    with valkey.client() as client:
        client.config_set("maxmemory", 1)
        try:
            assert reader.drain(1) == ["one"]
            assert client.hlen("unacked") == 1
        finally:
            client.config_set("maxmemory", 0)


def test_a_key_of_the_wrong_type_loses_no_message(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", "one")
    reader = start_reader("jobs")
    with valkey.client() as client:
        client.set("unacked", "not a hash")
        with pytest.raises(ConnectionError, match="WRONGTYPE"):
            _drain_or_raise(reader)
        assert client.llen("jobs") == 1


def _drain_or_raise(reader: Reader) -> None:
    try:
        reader.connection.drain_events(timeout=5)
    except Exception as error:
        raise ConnectionError(str(error)) from error


def test_scripts_that_the_server_forgot_are_loaded_again(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    publish(valkey.url, "jobs", "one")
    reader = start_reader("jobs")
    reader.drain(1)
    publish(valkey.url, "jobs", "two")
    with valkey.client() as client:
        client.script_flush()
    assert reader.drain(1) == ["two"]


def test_a_unix_socket_serves_by_its_own_scheme(tmp_path: Path) -> None:
    path = str(tmp_path / "valkey.sock")
    server = ValkeyServer("--unixsocket", path).start()
    try:
        settings = broker_settings(f"redis+socket://{path}")
        publish(server.url, "jobs", "one")
        reader = Reader(settings["broker_url"], "jobs", transport=None)
        assert isinstance(reader.connection.transport, Transport)
        assert reader.drain(1) == ["one"]
        reader.close()
    finally:
        server.close()


@pytest.mark.parametrize("url", ["sentinel://localhost:26379", "amqp://localhost"])
def test_other_brokers_stay_with_kombu(url: str) -> None:
    assert broker_settings(url) == {"broker_url": url}


def test_the_url_that_a_connection_shows_is_a_redis_url(valkey: ValkeyServer) -> None:
    with Connection(valkey.url, transport=ENGINE) as connection:
        assert connection.as_uri().startswith("redis://")


def test_typed_headers_are_as_kombu_reads_them(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    typed = {"__type__": "bytes", "__value__": "abc"}
    with valkey.client() as client:
        client.lpush("jobs", packed(envelope(headers={"a": typed})))
        client.lpush("jobs", packed(envelope(headers={"a": typed})).replace(b"_", b"\\u005f", 1))
    reader = start_reader("jobs")
    reader.drain(2)
    assert [message.headers for message in reader.got] == [{"a": b"abc"}, {"a": b"abc"}]


def test_user_password_database_and_name_are_used(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    with valkey.client() as client:
        client.acl_setuser(
            "app", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["*"]
        )
        url = valkey.url.replace("//", "//app:secret@").replace("/0", "/3")
        publish(url, "jobs", "one")
        reader = start_reader("jobs", url=url, client_name="reader")
        assert reader.drain(1) == ["one"]
        clients = [each for each in client.client_list() if each["name"] == "reader"]
        assert {(each["user"], each["db"]) for each in clients} == {("app", "3")}
        # One connection for each priority, one for polls, one of kombu's.

        def waits() -> int:
            reader.drain(1, timeout=0.1)
            return len([each for each in client.client_list() if each["cmd"] == "blmove"])

        wait_until(lambda: waits() == 4, what="four waits")
        reader.close()
        client.acl_deluser("app")


def test_in_kombus_hub_no_message_waits_for_the_end_of_a_poll(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    """A message that is acknowledged on arrival has no event that would end the poll."""
    reader = start_reader("jobs")

    def take(message: Any) -> None:
        message.ack()
        reader.got.append(message)

    reader.consumer.on_message = take
    hub = Hub()
    reader.connection.register_with_event_loop(hub)
    turns = hub.create_loop()
    began = time.monotonic()
    for count in range(1, 6):
        publish(valkey.url, "jobs", count)
        while len(reader.got) < count and time.monotonic() - began < 30:
            next(turns)
    # Without an event it polls for a second.
    assert time.monotonic() - began < 2
    assert [message.decode() for message in reader.got] == [1, 2, 3, 4, 5]
    hub.close()
