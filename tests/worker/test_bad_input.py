"""Bad input gets a clear error, and never stops a worker."""

import asyncio
import base64
import json
import uuid
from functools import partial
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import (
    ArgumentsTooLargeError,
    FleetUnavailableError,
    InvalidArgumentsError,
    RunFailed,
    UnknownRunError,
    UnknownSkillError,
)
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.dead_letters import DeadLetter
from skillfleet_producer import Fleet
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until, wait_until_async
from tests.worker.plain import plain_celery
from tests.worker.shared import Shared, StartWorker, wait_state


def failure(shared: Shared, skill: str, arguments: dict[str, Any]) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        shared.fleet.enqueue(skill, arguments).result(timeout=20)
    return caught.value


def assert_serves(shared: Shared) -> None:
    assert shared.fleet.enqueue("kit.add", {"x": 20, "y": 22}).result(timeout=20) == 42


# --- at the call --------------------------------------------------------------------------


def test_an_unknown_skill_is_refused_at_enqueue_with_the_known_ones(loop: Shared) -> None:
    with pytest.raises(UnknownSkillError, match=r"kit\.fly.*known skills: .*kit\.add.*") as caught:
        loop.fleet.enqueue("kit.fly")
    assert caught.value.code == "unknown_skill"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [({"x": "one"}, "x: "), ({}, '"x"'), ({"x": 1, "z": 1}, "'z'")],
    ids=["type", "missing", "unknown"],
)
def test_wrong_arguments_are_refused_with_the_same_words_at_enqueue_and_by_the_worker(
    loop: Shared, arguments: dict[str, Any], names: str
) -> None:
    with pytest.raises(InvalidArgumentsError, match=names) as caught:
        loop.fleet.enqueue("kit.add", arguments)
    code = f'report(outcome(app.send_task("kit.add", kwargs={arguments!r})))'
    [[_, message, state]] = plain_celery(loop.server.url, code)
    assert state == "FAILURE"
    assert str(caught.value) in message


def test_arguments_that_are_no_json_are_refused_by_name(fleet: Fleet) -> None:
    with pytest.raises(InvalidArgumentsError, match=r"argument 'x' of kit\.add is not JSON"):
        fleet.enqueue("kit.add", {"x": object()})


def test_arguments_over_the_limit_are_refused_with_advice(loop: Shared) -> None:
    large = {"value": "x" * (256 * 1024)}
    with pytest.raises(ArgumentsTooLargeError, match="store large data as an artifact"):
        loop.fleet.enqueue("kit.same", large)
    code = 'report(outcome(app.send_task("kit.same", kwargs={"value": "x" * (256 * 1024)})))'
    [[_, message, state]] = plain_celery(loop.server.url, code)
    assert state == "FAILURE"
    assert "store large data as an artifact" in message


@pytest.mark.parametrize(
    "options",
    [
        *({"priority": 10}, {"priority": 2.5}, {"priority": "high"}),
        *({"timeout": 0}, {"timeout": "5s"}, {"delay": -1}, {"delay": [1]}),
        *({"idempotency_key": ""}, {"idempotency_key": 5}),
        *({"auth": 5}, {"auth": [1]}, {"budget": 5}, {"budget": {"calls": 1}}),
    ],
    ids=str,
)
def test_bad_options_are_refused_by_name(fleet: Fleet, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentsError, match=next(iter(options))):
        fleet.enqueue("kit.add", {"x": 1}, **options)


def test_an_unknown_run_says_so_whatever_is_asked(fleet: Fleet) -> None:
    run = fleet.run("no-such-run")
    for ask in (
        run.status,
        run.cancel,
        run.result,
        run.artifacts,
        lambda: list(run.events()),
        lambda: run.read_artifact("x"),
    ):
        with pytest.raises(UnknownRunError, match="no-such-run"):
            ask()


def test_redis_out_of_reach_is_a_clear_error_within_the_timeout() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    settings = Settings.load(redis_url=url, redis_timeout_seconds=0.3)
    with Fleet(settings=settings) as fleet:
        run = fleet.run("a-run")
        for ask in (
            lambda: fleet.enqueue("kit.add", {"x": 1}),
            lambda: fleet.enqueue_many("kit.add", [{"x": 1}] * 3),
            fleet.runs,
            run.status,
            run.cancel,
            run.result,
            lambda: list(run.events()),
        ):
            with pytest.raises(FleetUnavailableError, match=r"127\.0\.0\.1"):
                ask()


# --- in the worker ------------------------------------------------------------------------


def test_a_result_of_a_wrong_type_fails_the_run(loop: Shared) -> None:
    assert failure(loop, "kit.wrong_result", {}).code == "invalid_result"


def test_a_result_over_the_limit_fails_the_run_with_advice(loop: Shared) -> None:
    error = failure(loop, "kit.large_result", {"size": 1024 * 1024})
    assert error.code == "result_too_large"
    assert "artifact" in error.message


def test_an_artifact_over_the_limit_fails_the_run_and_leaves_nothing(loop: Shared) -> None:
    error = failure(loop, "kit.large_artifact", {"size": 64 * 1024 * 1024 + 1})
    assert error.code == "artifact_too_large"
    assert loop.fleet.run(error.run_id).artifacts() == []


def test_an_event_over_the_limit_fails_the_run(loop: Shared) -> None:
    assert failure(loop, "kit.large_event", {"size": 1024 * 1024}).code == "event_too_large"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("surrogate", "ValueError: \\ud800"),
        ("mute", "MuteError: MuteError, which cannot say more"),
        ("mute base", "the handler raised MuteBaseError(MuteBaseError, which cannot say more)"),
        ("exit", "the handler raised SystemExit(3)"),
        ("interrupt", "the handler raised KeyboardInterrupt()"),
        ("long", "ValueError: xxx"),
    ],
)
def test_whatever_a_handler_raises_ends_its_run_at_once_and_nothing_else(
    shared: Shared, how: str, message: str
) -> None:
    other = shared.fleet.enqueue("kit.sleep", {"seconds": 1})
    wait_state(other)
    run = shared.fleet.enqueue("kit.raises", {"how": how})
    with pytest.raises(RunFailed) as caught:
        run.result(timeout=20)
    assert caught.value.code == "skill_error"
    assert caught.value.message.startswith(message)
    assert len(caught.value.message) < 20_000
    assert run.status().attempt == 1
    assert other.result(timeout=20) == 1
    assert other.status().attempt == 1


def test_an_unexpected_error_reaches_the_caller_without_its_traceback(loop: Shared) -> None:
    error = failure(loop, "kit.boom", {})
    assert (error.code, error.message) == ("skill_error", "ValueError: bad thing")
    [[_, message, _]] = plain_celery(loop.server.url, 'report(outcome(app.send_task("kit.boom")))')
    assert "Traceback" not in message


def test_an_unknown_skill_of_a_plain_client_fails_with_the_known_ones(shared: Shared) -> None:
    code = 'r = app.send_task("kit.here", kwargs={"a": 1}); report(r.id); report(outcome(r))'
    run_id, [_, message, state] = plain_celery(shared.server.url, code)
    assert state == "FAILURE"
    assert "kit.here" in message
    assert "kit.add" in message
    status = shared.fleet.run(run_id).status()
    assert (status.state, status.code) == (RunState.FAILED, "unknown_skill")
    assert_serves(shared)


def test_an_unknown_skill_before_any_worker_was_seen_ends_its_run(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    run = own_fleet.enqueue("kit.here")
    start_worker("tests.worker.kit")
    with pytest.raises(RunFailed, match=r"no worker serves kit\.here.*kit\.add") as caught:
        run.result(timeout=20)
    assert caught.value.code == "unknown_skill"


def test_a_skill_that_another_worker_serves_is_passed_on(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.worker.kit")
    start_worker("tests.worker.two_queues")
    here = [own_fleet.enqueue("here.add", {"x": n}, queue="celery") for n in range(6)]
    there = own_fleet.enqueue("there.add", {"x": 1}, queue="celery")
    assert [run.result(timeout=30) for run in here] == [n + 100 for n in range(6)]
    assert there.result(timeout=30) == 201


# --- on the wire --------------------------------------------------------------------------


def message(**changes: Any) -> dict[str, Any]:
    """A message for kit.add as Celery's client builds it, changed; None removes a header."""
    body = changes.pop("body", [[], {"x": 1}, {}])
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers: dict[str, Any] = {"lang": "py", "task": "kit.add", "id": str(uuid.uuid4())}
    for name in ("id", "task", "retries", "timelimit", "eta", "skillfleet", "stamped_headers"):
        if name in changes:
            headers[name] = changes.pop(name)
    return {
        "body": base64.b64encode(raw).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {name: value for name, value in headers.items() if value is not None},
        "properties": {
            "correlation_id": headers["id"],
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    } | changes


def refused(shared: Shared) -> DeadLetter:
    """Wait for the next refused message."""

    async def look() -> DeadLetter:
        ledger = Ledger(Settings.load(redis_url=shared.server.url))
        try:
            found = await wait_until_async(ledger.dead_letters.list, what="a dead letter")
            await ledger.dead_letters.purge()
            return found[0]
        finally:
            await ledger.close()

    return asyncio.run(look())


UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "no task": (message(task=None), "no header 'task'"),
    "no id": (message(id=None), "id"),
    "id is a list": (message(id=["a"]), ""),
    "task is a list": (message(task=["a"]), ""),
    "content type": ({**message(), "content-type": "application/x-python-serialize"}, "pickle"),
    "unknown content type": ({**message(), "content-type": "application/x-strange"}, ""),
    "body is not JSON": (message(body=b"{{"), "decode"),
    "body is no list": (message(body={"a": 1}), ""),
    "body is too short": (message(body=[[]]), ""),
    "kwargs are a list": (message(body=[[], [1], {}]), "by name must be an object"),
    "args are a number": (message(body=[7, {}, {}]), ""),
    "embed is a number": (message(body=[[], {"x": 1}, 7]), ""),
    "eta": (message(eta="next week"), "headers.eta"),
    "timelimit": (message(timelimit="long"), ""),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_message_that_cannot_be_read_is_kept_with_its_reason(loop: Shared, what: str) -> None:
    raw, reason = UNREADABLE[what]
    with loop.server.client() as client:
        client.lpush("celery", json.dumps(raw))
    assert reason in refused(loop).reason
    assert_serves(loop)


def test_a_malformed_header_of_ours_fails_the_run(loop: Shared) -> None:
    raw = message(skillfleet={"depth": "deep"})
    with loop.server.client() as client:
        client.lpush("celery", json.dumps(raw))
    run = loop.fleet.run(raw["headers"]["id"])
    wait_until(lambda: _known(run))
    status = wait_state(run, RunState.FAILED)
    assert status.code == "invalid_arguments"
    assert "skillfleet header" in str(status.message)


def _known(run: Any) -> bool:
    try:
        return bool(run.status())
    except UnknownRunError:
        return False


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_messages_that_fail_on_their_way_to_the_pool_keep_no_slots(
    server: ValkeyServer, start_worker: StartWorker, pool: str
) -> None:
    start_worker("tests.worker.kit", pool=pool, concurrency=2)
    raws = [message(stamped_headers=bad) for bad in (5, [["unhashable"]], 5, 5)]
    with server.client() as client, Fleet(server.producer_url) as fleet:
        for raw in raws:
            client.lpush("celery", json.dumps(raw))
        assert fleet.enqueue("kit.add", {"x": 1, "y": 2}).result(timeout=20) == 3
        for raw in raws:
            run = fleet.run(raw["headers"]["id"])
            wait_until(partial(_known, run))
            assert wait_state(run, RunState.FAILED).code == "invalid_arguments"


def test_a_message_whose_record_has_expired_is_dropped(loop: Shared) -> None:
    raw = message(skillfleet={"version": 1})
    with loop.server.client() as client:
        client.lpush("celery", json.dumps(raw))
    wait_until(lambda: f"run {raw['headers']['id']} is not executed: unknown" in loop.worker.text())
    with pytest.raises(UnknownRunError):
        loop.fleet.run(raw["headers"]["id"]).status()


def test_a_message_whose_body_is_no_base64_is_kept(loop: Shared) -> None:
    with loop.server.client() as client:
        client.lpush("celery", json.dumps(message() | {"body": "%%%"}))
    assert "cannot be read" in refused(loop).reason
    assert_serves(loop)


# The transport meets these before Celery sees a message.
NO_MESSAGE: dict[str, bytes] = {
    "garbage": b"\x00\xffgarbage{{",
    "JSON that is no object": b"[1, 2]",
    "JSON that is no message": b'{"a": 1}',
    "no properties": json.dumps({**message(), "properties": None}).encode(),
    "broken base64": json.dumps(message() | {"body": "abcde"}).encode(),
}


@pytest.mark.parametrize("what", NO_MESSAGE)
def test_garbage_on_the_queue_is_kept_and_the_worker_goes_on(shared: Shared, what: str) -> None:
    with shared.server.client() as client:
        client.lpush("celery", NO_MESSAGE[what])
    kept = refused(shared)
    assert kept.reason
    assert kept.body
    assert_serves(shared)
