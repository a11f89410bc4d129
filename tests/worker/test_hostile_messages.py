"""Messages made to do harm: each is kept with its reason, holds no slot, and stops no worker."""

import asyncio
import base64
import json
import random
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import UnknownRunError
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.dead_letters import DeadLetter
from skillfleet_producer import Fleet
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker

ODD: list[Any] = [None, "", 7, -1.5, True, [], ["a"], {}, {"a": 1}, "x" * 300, "\ud800", "a b\n"]
FIELDS = (
    *("id", "task", "shadow", "root_id", "parent_id", "group", "group_index", "lang", "origin"),
    *("argsrepr", "kwargsrepr", "retries", "timelimit", "eta", "expires", "ignore_result"),
    *("stamped_headers", "stamps", "replaced_task_nesting", "meth", "compression", "skillfleet"),
    *("traceparent", "skillfleet_token"),
)
LIMITS: list[Any] = [["a", "b"], [1], [1, 2, 3], [{}, None], [[1], 2]]
SPECIAL: list[tuple[str, Any]] = [
    *[("timelimit", value) for value in LIMITS],
    *[("eta", value) for value in ("next week", "9999-12-31T23:59:59+00:00", "0001-01-01")],
    *[("expires", value) for value in ("soon", "0001-01-01T00:00:00", 5, "2020-13-45")],
    ("stamped_headers", ["a", 5]),
    ("stamps", {"a": object.__name__}),
    ("compression", "application/x-gzip"),
    ("compression", "application/x-strange"),
    ("task", "celery.backend_cleanup\x00"),
    ("task", "missing.here"),
]
BODIES: list[bytes] = [
    *(b"", b"{{", b"null", b"7", b"{}", b"[]", b"[[]]", b"[[], {}]", b"[[], {}, {}, {}]"),
    *(b"[7, {}, {}]", b'["args", {}, {}]', b"[[], [1], {}]", b"[[], {}, 7]"),
    *(b'[[], {}, {"callbacks": 5}]', b'[[], {}, {"chain": ["x"]}]', b'[[], {}, {"chord": []}]'),
    *(b"[" * 100_000 + b"]" * 100_000, b'[[], {"x": NaN}, {}]', b'[[], {"x": 1e999}, {}]'),
    *(b"\xff\xfe", b'[[], {"__type__": "x", "__value__": {}}, {}]', b'{"args": [], "kwargs": 7}'),
    b'{"task": "kit.add", "id": "old", "args": [1], "kwargs": {}}',
]


def message(headers: dict[str, Any], body: bytes = b'[[], {"x": 1}, {}]') -> dict[str, Any]:
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "kit.add", "id": str(uuid.uuid4())} | headers,
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def changed(part: str, name: str, value: Any) -> dict[str, Any]:
    whole = message({})
    if part == "message":
        return whole | {name: value}
    if part == "properties":
        return whole | {"properties": whole["properties"] | {name: value}}
    info = whole["properties"]["delivery_info"] | {name: value}
    return whole | {"properties": whole["properties"] | {"delivery_info": info}}


def hostile(seed: int) -> list[dict[str, Any]]:
    """One message for each odd value of each field, and some hundred with several."""
    found = [message({name: value}) for name in FIELDS for value in ODD]
    found += [message({name: value}) for name, value in SPECIAL]
    found += [message({}, body) for body in BODIES]
    places = [
        *(("message", name) for name in ("headers", "body", "content-type", "content-encoding")),
        *(
            ("properties", name)
            for name in ("priority", "reply_to", "correlation_id", "delivery_tag")
        ),
        *(("properties", "body_encoding"), ("info", "exchange"), ("info", "routing_key")),
    ]
    found += [changed(part, name, value) for part, name in places for value in ODD]
    # Celery's first protocol has everything in the body.
    found.append(message({}, BODIES[-1]) | {"headers": {}})
    dice = random.Random(seed)
    for _ in range(150):
        odd = {name: dice.choice(ODD) for name in dice.sample(FIELDS, 3)}
        found.append(message(odd, dice.choice(BODIES)))
    return found


def refused_messages(server: ValkeyServer) -> list[DeadLetter]:
    async def look() -> list[DeadLetter]:
        ledger = Ledger(Settings.load(redis_url=server.url))
        try:
            return await ledger.dead_letters.list(5000)
        finally:
            await ledger.close()

    return asyncio.run(look())


def unsettled(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(client.llen("celery")) + int(client.hlen("unacked"))


def peak_mib(worker: FleetWorker) -> int:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


@pytest.fixture
def sent(server: ValkeyServer) -> list[dict[str, Any]]:
    messages = hostile(seed=7)
    with server.client() as client:
        for each in messages:
            client.lpush("celery", json.dumps(each))
    return messages


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_every_hostile_message_ends_and_holds_nothing(
    pool: str,
    server: ValkeyServer,
    start_worker: StartWorker,
    own_fleet: Fleet,
    sent: list[dict[str, Any]],
) -> None:
    # A run of an unknown skill would be held for a while.
    worker = start_worker("tests.worker.kit", pool=pool, lease_seconds=600, unserved_seconds=0)
    assert own_fleet.enqueue("kit.add", {"x": 1, "y": 2}).result(timeout=120) == 3
    wait_until(lambda: unsettled(server) == 0, 120, "all to be settled")
    wait_until(lambda: not own_fleet.runs(RunState.RUNNING, limit=10), 30, "no run to be left")
    assert "failed in the pool" not in worker.text()
    assert "Unrecoverable" not in worker.text()
    refused = len(refused_messages(server))
    ended = 0
    for each in sent:
        headers = each["headers"]
        run_id = headers.get("id") if isinstance(headers, dict) else None
        if isinstance(run_id, str) and run_id and "\ud800" not in run_id:
            try:
                assert own_fleet.run(run_id).status().state not in ("queued", "running")
            except UnknownRunError:
                continue
            ended += 1
    assert refused > 200
    assert refused + ended >= len(sent)
    assert own_fleet.enqueue("kit.add", {"x": 1, "y": 2}).result(timeout=60) == 3


def bomb(mebibytes: int) -> bytes:
    """Zeros, compressed: after a full flush each mebibyte is compressed to the same bytes."""
    deflate, piece = zlib.compressobj(9), bytes(1024 * 1024)
    first, second = (deflate.compress(piece) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    size = mebibytes * len(piece)
    adler32 = (size % 65_521) << 16 | 1
    return first + second * (mebibytes - 1) + b"\x03\x00" + adler32.to_bytes(4, "big")


@pytest.mark.parametrize("what", ["a compressed gigabyte", "a large body"])
def test_a_message_that_is_large_is_refused_before_it_takes_memory(
    what: str, server: ValkeyServer, start_worker: StartWorker, own_fleet: Fleet
) -> None:
    worker = start_worker("tests.worker.kit")
    assert own_fleet.enqueue("kit.add", {"x": 1, "y": 2}).result(timeout=60) == 3
    before = peak_mib(worker)
    if what == "a large body":
        text = json.dumps(message({}, b'[[], {"x": "' + b"x" * 50_000_000 + b'"}, {}]'))
    else:
        text = json.dumps(message({"compression": "application/x-gzip"}, bomb(1200)))
    run_id = json.loads(text[text.index('"headers": ') + 11 :].partition("}")[0] + "}")["id"]
    with server.client() as client:
        client.lpush("celery", text)
    assert own_fleet.enqueue("kit.add", {"x": 1, "y": 2}).result(timeout=60) == 3
    wait_until(lambda: unsettled(server) == 0, 60, "it to be settled")
    (kept,) = refused_messages(server)
    assert "bytes" in kept.reason
    assert len(kept.body) <= 64 * 1024
    status = own_fleet.run(run_id).status()
    assert (status.state, status.code) == (RunState.FAILED, "invalid_arguments")
    assert peak_mib(worker) - before < 200


def test_a_small_compressed_message_is_taken(
    server: ValkeyServer, start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker("tests.worker.kit")
    small = message(
        {"compression": "application/x-gzip"}, zlib.compress(b'[[], {"x": 1, "y": 5}, {}]')
    )
    with server.client() as client:
        client.lpush("celery", json.dumps(small))
    run = own_fleet.run(small["headers"]["id"])

    def ended() -> bool:
        try:
            return run.status().state is RunState.SUCCEEDED
        except UnknownRunError:
            return False

    wait_until(ended, 30, "the run to succeed")
    assert run.result() == 6
