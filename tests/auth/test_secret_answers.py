"""Secret answers: only the workers can read them."""

import hashlib
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from skillfleet import joined_text
from skillfleet.contracts import WaitOutcome
from skillfleet.errors import (
    InvalidArgumentsError,
    InvalidResultError,
    MissingScopes,
    RunFailed,
    SettingsError,
    WaitConflictError,
)
from skillfleet.ports.journal import Decision
from skillfleet.redaction import HIDDEN
from skillfleet_auth.sealing import AnswerKeys, seal
from skillfleet_auth.signing import write_new_answer_key, write_new_key
from skillfleet_ledger import Ledger
from skillfleet_producer import Fleet, RunHandle, Settings
from tests.auth.conftest import StartWorker
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA
from tests.support.collector import Collector
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

SECRET = "correct-horse-battery"
LOGIN = {"user": "ada", "password": SECRET}
QUICK = {"reap_seconds": 0.2, "lease_seconds": 2, "park_seconds": 0.2}


@contextmanager
def monitored(server: ValkeyServer) -> Iterator[list[str]]:
    """Keep all commands that the server gets inside the block."""
    seen: list[str] = []
    with server.client() as client, client.monitor() as monitor:

        def listen() -> None:
            with suppress(redis.RedisError, OSError, ValueError):
                seen.extend(str(command) for command in monitor.listen())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield seen


def dumped(server: ValkeyServer) -> str:
    """Return all keys of a server with their values."""
    with server.client() as client:
        found: list[Any] = []
        for key in client.scan_iter():
            match client.type(key):
                case b"string":
                    value: Any = client.get(key)
                case b"hash":
                    value = client.hgetall(key)
                case b"list":
                    value = client.lrange(key, 0, -1)
                case b"set":
                    value = client.smembers(key)
                case b"zset":
                    value = client.zrange(key, 0, -1)
                case _:
                    value = client.xrange(key)
            found.append((key, value))
    return repr(found)


def question(run: RunHandle, number: int = 1) -> Any:
    """Wait for a question and return it."""
    wait_until(lambda: any(wait.id == str(number) for wait in run.waits()), what="the question")
    return next(wait for wait in run.waits() if wait.id == str(number))


@pytest.fixture(scope="module")
def answer_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    write_new_answer_key(folder, "2026-01")
    return folder


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.shutdown()
    collector.thread.join()
    collector.server_close()


@pytest.fixture(scope="module")
def house(keys: Keys, answer_keys: Path, collector: Collector) -> Iterator[FleetWorker]:
    """A worker that takes signed runs only and exports spans, on a server of its own."""
    options = keys.worker_settings() | QUICK | {"answer_keys": answer_keys}
    with running_server() as server:
        worker = FleetWorker(server, "tests.auth.vault", **options)
        worker._environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        with worker:
            yield worker


def test_a_secret_answer_is_shown_nowhere(
    house: FleetWorker, keys: Keys, collector: Collector, tmp_path: Path
) -> None:
    server, journal = house.server, tmp_path / "journal"
    settings = keys.settings(server.producer_url)
    with Fleet(settings=settings) as fleet, monitored(server) as commands:
        run = fleet.enqueue("vault.logs_in", {"journal": str(journal)}, auth=ADA)
        wait_until(lambda: run.status().parked, what="the run to be parked")
        with pytest.raises(MissingScopes):
            run.answer(LOGIN, auth={"sub": "eve"})
        with pytest.raises(InvalidArgumentsError) as invalid:
            run.answer({"user": "ada", "password": [SECRET]}, auth=ADA)
        assert SECRET not in str(invalid.value)
        assert run.answer(LOGIN, auth=ADA)
        result = run.result(timeout=30)
        assert result == {"user": "ada", "password": HIDDEN}
        assert not run.answer(dict(reversed(LOGIN.items())), auth=ADA)
        with pytest.raises(WaitConflictError):
            run.answer(LOGIN | {"user": "eve"}, wait="1", auth=ADA)
        with Fleet(settings=settings) as other:
            assert not other.run(run.id).answer(LOGIN, auth=ADA), "of the same signer"
        events = list(run.events())
        shown = [repr(events), repr(run.steps()), repr(run.status()), repr(run.waits())]
        wait_until(lambda: b"said" in b"".join(collector.bodies), what="the span")
    digests = [hashlib.sha256(SECRET.encode()).hexdigest()] * 2
    assert journal.read_text().split() == digests, "both attempts had the answer"
    assert f"<{HIDDEN}>" in joined_text(events)
    (ended,) = [event.payload for event in events if event.kind == "wait_ended"]
    assert (ended["outcome"], ended["by"]) == ("answered", "ada")
    log = house.log.read_text()
    assert "logging in with [secret]" in log
    assert any("logs_in" in command for command in commands), "commands are monitored"
    seen = [*shown, dumped(server), *commands, log, repr(collector.bodies)]
    assert not [text for text in seen if SECRET in text]
    assert not [text for text in seen if digests[0] in text]


@pytest.fixture
def open_house(server: ValkeyServer, start_worker: StartWorker, tmp_path: Path) -> Path:
    """A worker that takes all runs; returns the folder of its keys."""
    folder = tmp_path / "answers"
    write_new_answer_key(folder, "2026-01")
    start_worker("tests.auth.vault", **QUICK, answer_keys=folder)
    return folder


@pytest.fixture
def producer(server: ValkeyServer) -> Iterator[Fleet]:
    with Fleet(server.producer_url) as fleet:
        yield fleet


def test_an_added_key_is_used_and_the_former_one_still_reads(
    open_house: Path, producer: Fleet
) -> None:
    run = producer.enqueue("plain.asks_twice")
    first = question(run)
    write_new_answer_key(open_house, "2026-02")
    assert run.answer("one", wait="1")
    second = question(run, 2)
    assert first.answer_key.id != second.answer_key.id
    assert run.answer("second", wait="2")
    assert run.result(timeout=20) == [3, 6]


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_question_whose_key_is_gone_is_asked_again(
    server: ValkeyServer,
    producer: Fleet,
    start_worker: StartWorker,
    tmp_path: Path,
    is_answered: bool,
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_new_answer_key(folder, "key")
    worker = start_worker("tests.auth.vault", **QUICK, answer_keys=folders[0])
    run = producer.enqueue("plain.asks_once")
    first = question(run)
    worker.kill()
    if is_answered:
        run.answer("lost")
    start_worker("tests.auth.vault", **QUICK, answer_keys=folders[1])
    second = question(run, 2)
    assert second.answer_key.id != first.answer_key.id
    with pytest.raises(WaitConflictError):
        run.answer("too late", wait="1")
    assert run.answer("again")
    assert run.result(timeout=20) == 5


@pytest.fixture
async def ledger(server: ValkeyServer) -> Any:
    ledger = Ledger(Settings.load(redis_url=server.producer_url))
    yield ledger
    await ledger.close()


async def test_an_answer_for_another_question_or_in_plain_text_is_refused(
    server: ValkeyServer, open_house: Path, producer: Fleet, ledger: Ledger
) -> None:
    run = producer.enqueue("plain.asks_once")
    key = question(run).answer_key
    foreign = orjson.dumps(seal(b'"stolen"', key, "another-run", "1"))
    values = ((foreign, "another question"), (b'"plain"', "not encrypted"))
    for number, (value, reason) in enumerate(values, start=2):
        decision = Decision(WaitOutcome.ANSWERED, value)
        await ledger.waits.decide(run.id, "1", decision)
        wait_until(lambda: bool(run.waits()), what="the question again")
        assert reason in reason_of_question(run, number)
    assert run.answer("mine")
    assert run.result(timeout=20) == 4


def reason_of_question(run: RunHandle, number: int) -> str:
    """Return why a question was asked for that time, from 1."""
    asked = (event.payload for event in run.events(timeout=20) if event.kind == "wait")
    return str(next(itertools.islice(asked, number - 1, None)).get("reason"))


def test_no_one_else_can_compare_an_answer_with_a_guess(
    server: ValkeyServer, open_house: Path, producer: Fleet
) -> None:
    run = producer.enqueue("plain.asks_once")
    question(run)
    assert run.answer("4711")
    assert run.result(timeout=20) == 4
    assert not run.answer("4711")
    with Fleet(server.producer_url) as other, pytest.raises(WaitConflictError):
        other.run(run.id).answer("4711")
    guessed = hashlib.sha256(b'answered\0"4711"').hexdigest()[:16]
    assert guessed not in dumped(server)


def test_without_a_key_a_secret_cannot_be_asked_for(
    producer: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.auth.vault", **QUICK)
    with pytest.raises(RunFailed, match="SKILLFLEET_ANSWER_KEYS") as refused:
        producer.enqueue("plain.asks_once").result(timeout=20)
    assert refused.value.code == "invalid_arguments"


def test_an_answer_is_read_by_its_key_for_its_wait_only(tmp_path: Path) -> None:
    write_new_answer_key(tmp_path / "one", "key")
    write_new_answer_key(tmp_path / "two", "key")
    one, two = AnswerKeys(tmp_path / "one"), AnswerKeys(tmp_path / "two" / "key.private.pem")
    sealed = seal(b'"x"', one.newest, "run", "1")
    assert one.open(orjson.dumps(sealed), "run", "1") == b'"x"'
    assert one.open(orjson.dumps(sealed)) == b'"x"'
    longer = seal(b'"%s"' % (b"x" * 200), one.newest, "run", "1")
    assert len(longer["sealed"]) == len(sealed["sealed"]), "its length is hidden"
    changed = sealed | {"sealed": longer["sealed"][:-8] + "AAAAAAAA"}
    for keys, value, run, wait in (
        (two, sealed, "run", "1"),
        (one, sealed, "run", "2"),
        (one, sealed, "other", "1"),
        (one, sealed | {"wait": "2"}, "run", "2"),
        (one, sealed | {"run": "other"}, None, None),
        (one, changed, "run", "1"),
        (one, {"key": one.newest.id}, None, None),
        (one, "x", None, None),
    ):
        with pytest.raises(InvalidResultError):
            keys.open(orjson.dumps(value), run, wait)


def test_keys_for_answers_are_checked_at_the_start(tmp_path: Path) -> None:
    write_new_key(tmp_path / "signs", "key")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.private.pem").write_text("no key")
    for path in ("signs", "empty", "text.private.pem", "missing"):
        with pytest.raises(SettingsError, match="SKILLFLEET_ANSWER_KEYS"):
            AnswerKeys(tmp_path / path)
