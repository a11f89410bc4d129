"""A run's message is what Celery's own client would send."""

import base64
import json
from typing import Any

from celery import Celery

from skillfleet.contracts import HEADER
from skillfleet_producer import Fleet
from tests.support.valkey import ValkeyServer

ARGUMENTS = {"text": "Grüße", "n": [1, 2.5, None]}
OURS = {HEADER, "traceparent", "tracestate", "baggage"}


def by_celery(server: ValkeyServer, run_id: str) -> dict[str, Any]:
    app = Celery("plain", broker=server.url, set_as_current=False)
    try:
        app.send_task("kit.same", kwargs=ARGUMENTS, task_id=run_id, queue="waiting", priority=3)
    finally:
        app.close()
    return taken(server)


def taken(server: ValkeyServer) -> dict[str, Any]:
    with server.client() as client:
        [key] = client.keys("waiting*")
        raw: Any = client.rpop(key)
    message: dict[str, Any] = json.loads(raw) | {"key": key}
    message["body"] = json.loads(base64.b64decode(message["body"]))
    return message


def test_the_message_equals_celerys_own_field_by_field(valkey: ValkeyServer) -> None:
    with Fleet(valkey.producer_url) as fleet:
        run = fleet.enqueue("kit.same", ARGUMENTS, queue="waiting", priority=3)
    ours = taken(valkey)
    celerys = by_celery(valkey, run.id)
    assert ours["properties"].pop("delivery_tag") != celerys["properties"].pop("delivery_tag")
    # The sender waits on no reply queue: results are in the ledger.
    assert celerys["properties"].pop("reply_to") != ours["properties"].pop("reply_to") == ""
    assert {name for name in ours["headers"] if name not in celerys["headers"]} <= OURS
    assert HEADER in ours["headers"]
    headers = {name: value for name, value in ours["headers"].items() if name not in OURS}
    assert list(headers) == list(celerys["headers"])
    assert headers == celerys["headers"]
    assert ours["body"] == celerys["body"]
    assert ours["properties"] == celerys["properties"]
    del ours["headers"], celerys["headers"], ours["properties"], celerys["properties"]
    assert ours == celerys


def test_every_priority_lands_in_the_list_that_celery_uses(valkey: ValkeyServer) -> None:
    app = Celery("plain", broker=valkey.url, set_as_current=False)
    # Not as the producer's user, who may only write to the queues of its fleet.
    with Fleet(valkey.url) as fleet, valkey.client() as client:
        for priority in range(10):
            fleet.enqueue("kit.same", queue=f"ours{priority}", priority=priority)
            app.send_task("kit.same", queue=f"celerys{priority}", priority=priority)
            [ours] = client.keys(f"ours{priority}*")
            [celerys] = client.keys(f"celerys{priority}*")
            assert ours.removeprefix(b"ours") == celerys.removeprefix(b"celerys")
    app.close()
