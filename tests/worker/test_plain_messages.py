"""The contents of a plain Celery client's message survive retries, drains and lost workers."""

import asyncio
import base64
import json
import os
import signal
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery
from celery.canvas import Signature, chain
from kombu.utils import json as kombu_json

from skillfleet.contracts import RunState
from skillfleet_ledger.keys import random_uuid
from skillfleet_ledger.runs.records import INVOCATION_FIELDS, Submission, invocation_of
from skillfleet_producer import AsyncFleet, Fleet
from skillfleet_producer.message import body, envelope, headers
from skillfleet_worker import WorkerSettings
from skillfleet_worker.attempts.delivery import read_delivery
from skillfleet_worker.attempts.messages import (
    WORKER_TIME_LIMITS,
    attempt_time_limit,
    name_links,
    new_record,
    plain_message,
)
from tests.ledger.helpers import DONE, claimed, touch
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.plain import plain_celery
from tests.worker.shared import Shared, StartWorker, wait_kind, wait_state

ODD_OPTIONS: dict[str, Any] = {
    "group_id": "g",
    "group_index": 0,
    "shadow": "another name",
    "time_limit": 30.5,
    "soft_time_limit": 20,
    "retries": 3,
    "expires": "2035-01-01T00:00:00+00:00",
    "root_id": "the-root",
    "parent_id": "the-parent",
    "ignore_result": True,
    "replaced_task_nesting": 1,
    "origin": "me@there",
    "stamped_headers": ["tenant"],
    "tenant": ["acme"],
    "callbacks": [{"task": "a.b", "args": [], "kwargs": {}, "options": {}}],
    "errbacks": [{"task": "c.d", "args": [], "kwargs": {}, "options": {}}],
    "chain": [{"task": "e.f", "args": [1], "kwargs": {}, "options": {"task_id": "x"}}],
    "chord": {"task": "g.h", "args": [], "kwargs": {}, "options": {}},
}


def test_a_message_built_from_the_record_says_what_the_client_s_said() -> None:
    app = Celery("plain", set_as_current=False)
    run_id = random_uuid()
    sent = app.amqp.as_task_v2(
        run_id, "kit.add", kwargs={"x": 1}, reply_to="my-queue", **ODD_OPTIONS
    )
    sent.headers.update({"my-own": {"deep": [1]}, "zero": 0, "no": False, "own-id": run_id})
    sent.body[2]["chain"][0]["args"] = [Decimal("1.5"), 2**70, datetime(2026, 1, 2, tzinfo=UTC)]
    sent.headers["traceparent"] = f"00-{'a' * 32}-{'b' * 16}-01"
    info = {"routing_key": "celery", "priority": 7}
    received = {**sent.headers, **sent.body[2], "delivery_info": info, **sent.properties}
    delivery = read_delivery("kit.add", received, (), {"x": 1}, (), 1_000_000)
    foreign = delivery.foreign_record(WorkerSettings.load())
    assert foreign is not None
    invocation = invocation_of(run_id, fields_of(foreign))
    assert invocation is not None
    again = headers(invocation)
    assert {**again, "kwargsrepr": 0, "argsrepr": 0} == {
        **sent.headers,
        "kwargsrepr": 0,
        "argsrepr": 0,
    }
    # kombu's typed values are JSON for everybody else.
    assert body(invocation) == ([], sent.body[1], json.loads(kombu_json.dumps(sent.body[2])))
    message = orjson.loads(envelope(invocation))
    assert kombu_json.loads(base64.b64decode(message["body"])) == [[], *sent.body[1:]]
    assert message["properties"]["reply_to"] == "my-queue"
    # The step under which kombu's Redis transport files it.
    assert message["properties"]["priority"] == 6
    assert delivery.time_limit == 20


@pytest.mark.parametrize(
    ("message", "task", "pool", "limit"),
    [
        ([None, None], (None, None), (None, None), None),
        ([None, None], (None, None), (7, None), 7),
        ([None, None], (5, None), (3, None), 5),
        ([9, None], (5, None), (3, None), 9),
        ([9, None], (None, 4), (3, 2), 4),
        (None, (None, None), None, None),
    ],
)
def test_the_message_s_time_limit_counts_before_the_task_s_and_the_pool_s(
    message: Any, task: Any, pool: Any, limit: float | None
) -> None:
    assert attempt_time_limit({"timelimit": message, WORKER_TIME_LIMITS: pool}, task) == limit


def test_a_fleet_s_own_record_keeps_nothing_twice() -> None:
    plain = {"id": "r", "task": "kit.add", "root_id": "r", "delivery_info": {"routing_key": "q"}}
    delivery = read_delivery("kit.add", plain, (), {}, (), 1000)
    foreign = delivery.foreign_record(WorkerSettings.load())
    assert foreign is not None
    assert foreign.celery is None
    own = read_delivery("kit.add", {**plain, "skillfleet": {"version": 1}}, (), {}, (), 1000)
    assert own.foreign_record(WorkerSettings.load()) is None


def fields_of(new: Submission) -> list[bytes | None]:
    flat = new.fields()
    record = dict(zip(flat[::2], flat[1::2], strict=True))
    values = (record.get(name) for name in INVOCATION_FIELDS)
    return [
        value if value is None or isinstance(value, bytes) else str(value).encode()
        for value in values
    ]


def test_a_canvas_goes_on_after_a_retry(shared: Shared, tmp_path: Path) -> None:
    code = f"""
s, journal = app.signature, {str(tmp_path / "journal")!r}
once = lambda value: s("ends.second_try", kwargs={{"value": value}})
chained = chain(once(1), s("kit.add", kwargs={{"y": 1}}), once(5).set(immutable=True))()
joined = chord([once(1), once(2)], s("kit.total"))()
grouped = group(once(3), once(4))()
linked = once(6).apply_async(link=s("ends.journals", kwargs={{"journal": journal}}))
report([outcome(chained), outcome(chained.parent), outcome(joined), grouped.get(timeout=30)])
report(outcome(linked)[:2])
report(linked.id)
"""
    (chained, parent, joined, grouped), linked, linked_id = plain_celery(shared.server.url, code)
    assert [each[1] for each in (chained, parent, joined)] == [5, 2, 3]
    assert grouped == [3, 4]
    assert linked == ["value", 6]
    journal = tmp_path / "journal"
    wait_until(lambda: journal.exists() and journal.read_text().endswith(" 6\n"), 20, "the link")
    link: dict[str, Any] = {"task": "ends.journals"}
    name_links({"callbacks": [link]}, linked_id)
    assert journal.read_text().startswith(link["options"]["task_id"])


def test_what_is_chained_after_a_failed_run_fails(shared: Shared) -> None:
    code = """
s = app.signature
chained = chain(s("kit.boom"), s("kit.add", kwargs={"y": 1}), s("kit.add", kwargs={"y": 1}))()
joined = chord([s("kit.boom"), s("kit.add", kwargs={"x": 1})], s("kit.total"))()
# By id alone: a result that knows its parents raises their errors.
report([outcome(app.AsyncResult(each.id)) for each in (chained, chained.parent, joined)])
"""
    (outcomes,) = plain_celery(shared.server.url, code)
    assert [state for *_, state in outcomes] == ["FAILURE"] * 3
    assert all("bad thing" in text for _, text, _ in outcomes)


def test_a_link_or_chain_that_is_called_again_has_the_same_ids() -> None:
    def called() -> dict[str, Any]:
        plain, part = {"task": "a.b", "options": {}}, {"task": "c", "subtask_type": "group"}
        named = {"task": "a.b", "options": {"task_id": "mine"}}
        request = {
            "callbacks": [plain, named, part, {"task": "a.b"}],
            "errbacks": [dict(plain)],
            "chain": [{"task": "a.b", "options": {}}],
        }
        name_links(request, "r1")
        return request

    links = called()
    assert links == called()
    ids = [link.get("options", {}).get("task_id") for part in links.values() for link in part]
    assert (ids[1:3], len(set(ids))) == (["mine", None], 6)


def test_an_error_s_link_is_called_after_the_last_attempt(shared: Shared, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    code = f"""
note = app.signature("ends.journals", kwargs={{"journal": {str(journal)!r}}})
failing = app.send_task("kit.boom", link_error=note)
report([failing.id, outcome(failing)[0]])
"""
    ((run_id, kind),) = plain_celery(shared.server.url, code)
    assert kind != "value"
    wait_until(lambda: journal.exists() and run_id in journal.read_text(), 20, "the error's link")


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_a_chain_goes_on_after_a_drain(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    modules = "tests.worker.kit,tests.worker.ends"
    first = start_worker(modules, pool=pool, drain_seconds=0.1, abandon_seconds=0.5)
    app = plain_app(first.server.url)
    arguments = {"value": 4, "journal": str(tmp_path / "journal")}
    chained = chain(task(app, "ends.first_drained", **arguments), task(app, "kit.add", y=1))()
    run = own_fleet.run(chained.parent.id)
    wait_until((tmp_path / "journal").exists, 20, "the first attempt")
    wait_kind(run, "progress")
    first.send_signal(signal.SIGTERM)
    first.wait_end()
    start_worker(modules, pool=pool)
    assert chained.get(timeout=60) == 5
    assert [entry.outcome for entry in run.status().attempts] == ["released", "succeeded"]


def test_a_chain_goes_on_after_a_lost_worker(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path
) -> None:
    modules = "tests.worker.kit,tests.worker.ends"
    worker = start_worker(modules, pool="prefork", concurrency=1, lease_seconds=3, reap_seconds=0.2)
    app = plain_app(worker.server.url)
    arguments = {"value": 4, "journal": str(tmp_path / "journal")}
    chained = chain(task(app, "ends.first_drained", **arguments), task(app, "kit.add", y=1))()
    run = own_fleet.run(chained.parent.id)
    wait_until((tmp_path / "journal").exists, 20, "the first attempt")
    wait_kind(run, "progress")
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    assert chained.get(timeout=60) == 5
    assert [entry.outcome for entry in run.status().attempts] == ["lost", "succeeded"]


def test_a_canvas_goes_on_after_a_run_that_no_worker_ended(
    server: ValkeyServer, start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path
) -> None:
    """Its worker died right after the end, or the run was cancelled in its queue."""
    journal = tmp_path / "journal"

    async def ends() -> list[str]:
        async with AsyncFleet(server.url) as fleet:
            ended = [plain_run("callbacks", journal), plain_run("errbacks", journal)]
            for new in ended:
                assert await fleet.ledger.submissions.submit(new)
            lease = await claimed(fleet.ledger, ended[0].id)
            await fleet.ledger.leases.settle(lease, "kit.same", 1, DONE)
            await fleet.ledger.cancellation.cancel(ended[1].id, "enough")
            for new in ended:
                await touch(fleet.ledger, "ZADD", new.id, "canvases", "XX", 1, new.id)
            return [new.id for new in ended]

    linked, failed = asyncio.run(ends())
    start_worker("tests.worker.kit,tests.worker.ends", reap_seconds=0.2)
    expected = {str(DONE.value), failed}
    wait_until(lambda: words(journal) >= expected, 20, "both links")
    with server.client() as client:
        wait_until(lambda: not client.zcard("{skillfleet:0}:canvases"), 20, "the debts to be paid")
    assert own_fleet.run(linked).status().attempt == 1


@pytest.mark.parametrize("limits", [{"time_limit": 1}, {"soft_time_limit": 1, "time_limit": 60}])
def test_a_time_limit_ends_the_run_once(
    shared: Shared, tmp_path: Path, limits: dict[str, Any]
) -> None:
    journal = tmp_path / "journal"
    app = plain_app(shared.server.url)
    arguments = {"seconds": 600.0, "journal": str(journal)}
    sent = app.send_task("kit.sleep", kwargs=arguments, **limits)
    with pytest.raises(Exception, match="time limit of 1 s"):
        sent.get(timeout=30)
    status = wait_state(shared.fleet.run(sent.id), RunState.TIMED_OUT)
    assert (status.attempt, status.code) == (1, "deadline_exceeded")
    assert len(journal.read_text().splitlines()) == 1


def test_a_limit_set_by_remote_control_ends_the_run_once(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path
) -> None:
    worker = start_worker("tests.worker.kit")
    app = plain_app(worker.server.url)
    assert app.control.time_limit("kit.sleep", soft=1, hard=90, reply=True, timeout=10)
    run = own_fleet.enqueue("kit.sleep", {"seconds": 600.0})
    assert wait_state(run, RunState.TIMED_OUT).attempt == 1


def plain_run(link: str, journal: Path) -> Submission:
    """A run that a plain client has sent, with a link that notes what it gets."""
    note: dict[str, Any] = {
        "task": "ends.journals",
        "args": [],
        "kwargs": {"journal": str(journal)},
    }
    note |= {"options": {"task_id": random_uuid()}, "subtask_type": None, "immutable": False}
    run_id = random_uuid()
    request = {"id": run_id, link: [note]}
    return new_record(
        WorkerSettings.load(), run_id, ("kit", "same"), plain_message(request, "celery")
    )


def words(journal: Path) -> set[str]:
    """Return the entries of a journal, without run and attempt."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return {line.split(" ", 2)[2] for line in lines}


def plain_app(url: str) -> Celery:
    return Celery("plain", broker=url, backend=url, set_as_current=False)


def task(app: Celery, name: str, **arguments: Any) -> "Signature[Any]":
    return app.signature(name, kwargs=arguments)
