"""Undecodable messages are kept and announced; they never stop the consumer."""

import base64
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillfleet_engine.transport import message_undecodable
from tests.engine.transport.conftest import StartReader, StartWorker
from tests.engine.transport.readers import Reader, envelope, packed, publish
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

GARBAGE = {
    "no JSON": b"hello",
    "nothing": b"",
    "binary": b"\x80\x04\x95\xff\x00",
    "cut": packed(envelope())[:-7],
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"17",
    "deep": b"[" * 5000 + b"]" * 5000,
    "an empty object": b"{}",
    "properties null": packed(envelope(properties=None)),
    "properties a list": packed(envelope(properties=[1])),
    "no delivery tag": packed(envelope(properties={"delivery_info": {}})),
    "a delivery tag that is no text": packed(envelope(properties={"delivery_tag": 1})),
    "no delivery info": packed(envelope(properties={"delivery_tag": "x"})),
    "no body": packed({key: value for key, value in envelope().items() if key != "body"}),
    "a body that is no text": packed(envelope(body={"a": 1})),
    "a body that is no base64": packed(envelope(body="abc")),
    "headers a list": packed(envelope(headers=[1])),
    "text that is no UTF-8": packed(envelope(headers={"a": "b"})).replace(b'"b"', b'"\xff"'),
    "a hexadecimal number": packed(envelope(headers={"a": 1})).replace(b": 1", b": 0x1"),
    "an unknown type": packed(envelope(headers={"__type__": "x", "__value__": 1})),
}


@pytest.fixture(autouse=True)
def no_other_listeners() -> Iterator[None]:
    """Disconnect the receivers of other tests' apps, which would take over messages, too."""
    others, message_undecodable.receivers = message_undecodable.receivers, []
    yield
    message_undecodable.receivers = others


@pytest.fixture
def announced() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    def keep(**fields: Any) -> None:
        found.append(fields)

    message_undecodable.connect(keep)
    try:
        yield found
    finally:
        message_undecodable.disconnect(keep)


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_kept_and_the_next_message_is_read(
    name: str, valkey: ValkeyServer, start_reader: StartReader
) -> None:
    reader = start_reader("jobs")
    with valkey.client() as client:
        client.lpush("jobs", GARBAGE[name])
        publish(valkey.url, "jobs", "good")
        assert reader.drain(1) == ["good"]
        reader.ack_all()
        assert client.lrange("undecodable", 0, -1) == [GARBAGE[name]]
        assert client.hlen("unacked") == client.zcard("unacked_index") == 0


def test_a_receiver_gets_queue_bytes_and_reason_and_takes_the_message_over(
    valkey: ValkeyServer, start_reader: StartReader, announced: list[dict[str, Any]]
) -> None:
    with valkey.client() as client:
        client.lpush("jobs", b"hello", packed(envelope(body="abc")))
        reader = start_reader("jobs")
        wait_until(lambda: not reader.drain(1, timeout=0.1) and len(announced) > 1, what="both")
        assert client.llen("undecodable") == 0
    assert [each["queue"] for each in announced] == ["jobs", "jobs"]
    assert [each["body"] for each in announced] == [b"hello", packed(envelope(body="abc"))]
    assert announced[0]["reason"] == "not valid JSON"
    assert "Error" in announced[1]["reason"]


def test_a_receiver_that_fails_leaves_the_message_in_the_list(
    valkey: ValkeyServer, start_reader: StartReader
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("the ledger is away")

    message_undecodable.connect(fail)
    try:
        with valkey.client() as client:
            client.lpush("jobs", b"hello")
            reader = start_reader("jobs")
            kept = partial(client.lrange, "undecodable", 0, -1)
            wait_until(lambda: not reader.drain(1, timeout=0.1) and kept(), what="it to be kept")
            assert kept() == [b"hello"]
    finally:
        message_undecodable.disconnect(fail)


def test_the_list_of_garbage_has_a_limit(valkey: ValkeyServer, start_reader: StartReader) -> None:
    reader = start_reader("jobs", undecodable_limit=3)
    with valkey.client() as client:
        client.lpush("jobs", *range(10))
        publish(valkey.url, "jobs", "good")
        assert reader.drain(1) == ["good"]
        assert client.lrange("undecodable", 0, -1) == [b"9", b"8", b"7"]


def mutated(message: bytes, cuts: list[tuple[int, bytes]]) -> bytes:
    whole = bytearray(message)
    for position, piece in cuts:
        start = position % (len(whole) + 1)
        whole[start : start + len(piece)] = piece
    return bytes(whole)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
damaged = st.builds(
    mutated,
    st.just(packed(envelope())),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), min_size=1),
)
replaced = st.builds(
    lambda field, value: packed(envelope(**{field: value})),
    st.sampled_from(["body", "headers", "properties", "content-type", "content-encoding"]),
    json_values,
)


@pytest.fixture
def steady(valkey: ValkeyServer, start_reader: StartReader) -> Reader:
    return start_reader("jobs")


@given(garbage=st.lists(st.binary() | damaged | replaced, min_size=20, max_size=20))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_bytes_stop_a_reader(garbage: list[bytes], valkey: ValkeyServer, steady: Reader) -> None:
    good = base64.b64encode(json.dumps("good").encode()).decode()
    properties = envelope()["properties"] | {"delivery_tag": "the-last"}
    with valkey.client() as client:
        client.lpush("jobs", *garbage, packed(envelope(body=good, properties=properties)))
        while not any(message.delivery_tag == "the-last" for message in steady.got):
            steady.connection.drain_events(timeout=5)
        steady.ack_all()
        steady.got.clear()
        assert client.hlen("unacked") == client.zcard("unacked_index") == client.llen("jobs") == 0


@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["threads"]))
def test_no_garbage_stops_a_worker(
    pool: str, start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(pool)
    with server.client() as client:
        odd = [{"task": []}, {"task": {}, "id": 1}, {"task": None}, {"id": "x"}, "task", 17]
        tags = [{"delivery_tag": f"odd-{i}"} for i in range(len(odd))]
        odd_tasks = [
            packed(envelope(headers=headers, properties=envelope()["properties"] | tag))
            for headers, tag in zip(odd, tags, strict=True)
        ]
        client.lpush("celery", *GARBAGE.values(), *odd_tasks)
        client.publish("/0.celery.pidbox", b"garbage")
        client.publish("/0.celery.pidbox", b"17")
        client.publish("/0.celery.pidbox", b"{}")
        client.publish("/0.celery.pidbox", b"[" * 5000)
        assert worker.call("add", 2, 3) == 5
        assert worker.app.control.ping(timeout=5, limit=1)
        wait_until(lambda: client.hlen("unacked") == 0, what="all to be acknowledged")
        assert client.llen("undecodable") >= len(GARBAGE)
        # They never made it lose its connection.
        assert "Connection to broker lost" not in worker.log.read_text()
